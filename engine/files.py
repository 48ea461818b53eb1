"""Writing so that a crash leaves the old or the new, never a half: files, folders, locks, free space. No torch.

Every artefact that another part loads later (adapter, checkpoint, merged model, evaluation) is written through here.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import EngineError, WorkFailed
from engine.text import size

_ABANDONED_SECONDS = 3600.0


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses while `path` is written into a `WorkFailed` that says what to do."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _errno_of_rust(error)
        if number is None:
            raise
        remedy = None
        if number in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space (see `loraworkbench runs`) and repeat; nothing that was complete is lost"
        other = getattr(error, "filename", None)  # a file that the block reads, say; parts of `path` need no mention
        named = f": {other}" if other and not str(other).startswith(str(path)) else ""
        raise WorkFailed(f"cannot write: {os.strerror(number)}{named}", where=str(path), remedy=remedy) from error


def _errno_of_rust(error: Exception) -> int | None:
    """safetensors is written in Rust, and a full disk is a SafetensorError there: "... (os error 28)"."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def fsync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def file_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` to write and read, flushed to disk and renamed into place when the block ends, removed when it
    raises. Of several writers the last one wins.

    Raises:
        WorkFailed: the disk is full or the folder cannot be written; `path` is as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_abandoned(path)
        try:
            with part.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
            fsync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` as `file_atomic` does. Raises what that does."""
    with file_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def _drop_abandoned(path: Path) -> None:
    """Remove what writers of `path` that were killed left beside it."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.*-*.part"):
        with contextlib.suppress(FileNotFoundError):  # another writer was faster
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, written as `write_atomic` does. NaN is refused (ValueError)."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "backslashreplace"))  # half a character becomes JSON's own escape of it


@contextlib.contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A folder to fill; renamed to `path` when the block ends, removed when it raises. One writer at a time.

    The block gets `path` + ".part". A `path` that exists is replaced in two renames (a crash between them leaves it as
    `path` + ".old", which `recover_folder` puts back).

    Raises:
        WorkFailed: the disk is full or cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            for inside in (part, *part.rglob("*")):
                if inside.is_file() or inside.is_dir():
                    fsync(inside)
            swap_folder(part, path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def swap_folder(new: Path, path: Path) -> None:
    """Rename the folder `new` to `path`; one that is there already steps aside and is removed afterwards."""
    old = path.with_name(path.name + ".old")
    try:
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(new, path)
        fsync(path.parent)
    except BaseException:
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Put `path` back if a crash came between the two renames of `folder_atomic`; drop what it left half-written."""
    old = path.with_name(path.name + ".old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)
    shutil.rmtree(path.with_name(path.name + ".part"), ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def need_space(folder: Path, needed_bytes: int) -> None:
    """Check that `needed_bytes` fit on the disk of `folder` (or of its nearest parent that exists).

    Raises:
        WorkFailed: they do not.
    """
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise WorkFailed(
            f"not enough disk space: {size(needed_bytes)} needed, {size(free)} free",
            where=str(folder),
            remedy="free some space or choose another folder with --out",
        )
