"""Files of one JSON document a line that grow at their end, written by any number of processes. No torch.

Comes from and goes to: `transcripts`, `blind`, datasets that an answer is added to. A line is written whole or not at
all; of a file that a killed process or another program left without a line end, that end is made first. Readers pass
over a torn last line and over lines that are none of theirs.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engine.files import disk_errors

BLOCK_BYTES = 1 << 16
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a line raises that is not what it should be."""


def encode(value: msgspec.Struct) -> bytes:
    """`value` as a line; half a character, which UTF-8 cannot say, becomes a question mark."""
    try:
        return msgspec.json.encode(value) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def append(path: Path, line: bytes, still: Callable[[Path], None] | None = None) -> None:
    """Add a line (with its line end) at the end of a file, which is made where it is not there, and flush it to disk.

    Args:
        still: called with `path` while no other process can append; what it raises keeps the line out.

    Raises:
        WorkFailed: the disk is full or the file cannot be written; it is as it was.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # let go of with the descriptor, also by a process that is killed
            if still is not None:
                still(path)
            size = os.fstat(fd).st_size
            torn = size and os.pread(fd, 1, size - 1) != b"\n"
            try:
                _write(fd, b"\n" + line if torn else line)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)  # a full disk took a part of it
                raise
        finally:
            os.close(fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def lines(path: Path) -> Iterator[bytes]:
    """Whole lines without their ends, oldest first, read as they are asked for; none where there is no file."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


def newest_lines(path: Path, block: int = BLOCK_BYTES) -> Iterator[bytes]:
    """`lines` from the end: the newest first; no more of the file is read than is asked for."""
    try:
        with path.open("rb") as file:
            at = file.seek(0, os.SEEK_END)
            rest, torn = b"", True  # what is before the first line end met is no whole line
            while at:
                size = min(block, at)
                at -= size
                file.seek(at)
                rest, *whole = (file.read(size) + rest).split(b"\n")
                for line in reversed(whole):
                    if not torn:
                        yield line
                    torn = False
            if not torn:
                yield rest
    except FileNotFoundError:
        return
