"""Lines of a file of any size: an index made in a thread, any lines read by it, finding in all of it. No widget here.

    file -> LineIndex.extend (64 kB at a time) -> where lines begin, one in 64 kB -> LineIndex.read(1000, 50)

Only places are kept, never text: a gigabyte needs 16,000 of them. A file that grows is indexed on, one that was
replaced or cut is indexed anew.
"""

from __future__ import annotations

import bisect
import os
import re
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 1 << 16
FIND_BLOCK, LONG_LINE = 1 << 20, 1 << 22
LONGEST = 10_000
"""Bytes of a line that are shown."""
TOLD_SECONDS = 0.2
LOOK_SECONDS = 1.0
MOST_FOUND = 10_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what is shown of it, and how many bytes it has (without its end)."""

    text: str
    size: int

    @property
    def cut(self) -> bool:
        return self.size > LONGEST


class LineIndex:
    """Where the lines of a file begin. One thread extends it, any may read.

    Attributes:
        count: lines so far, a last one without an end included. size: bytes so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines, self._offsets = array("Q", [0]), array("Q", [0])
        self._ends, self._open = 0, False
        self.size = 0

    @property
    def count(self) -> int:
        return self._ends + self._open

    def extend(self, told: Callable[[], Any] = lambda: None, over: Callable[[], bool] = lambda: False) -> bool:
        """Index what the file has beyond `size`; returns whether there was anything.

        Args:
            told: called after every block. over: whether to stop.

        Raises:
            OSError: it cannot be read.
        """
        begun = self.size
        with self.path.open("rb") as file:
            file.seek(self.size)
            while not over() and (block := file.read(BLOCK)):
                first = block.find(b"\n")
                if first >= 0:
                    self._lines.append(self._ends + 1)
                    self._offsets.append(self.size + first + 1)
                    self._ends += block.count(b"\n")
                self._open = not block.endswith(b"\n")
                self.size += len(block)
                told()
        return self.size > begun

    def read(self, first: int, count: int) -> list[Line]:
        """Lines from number `first` (from 0), fewer where the file ends.

        Raises:
            OSError: it cannot be read.
        """
        at = bisect.bisect_right(self._lines, max(0, first)) - 1
        skip, found = first - self._lines[at], []
        with self.path.open("rb") as file:
            file.seek(self._offsets[at])
            for head, size in _heads(file):
                if skip > 0:
                    skip -= 1
                    continue
                if len(found) == count:
                    break
                found.append(Line(head.removesuffix(b"\r").decode("utf-8", "replace"), size))
        return found


def _heads(file: Any) -> Iterator[tuple[bytes, int]]:
    """(the first bytes, the size) of every line from where the file stands."""
    head, size = b"", 0
    while block := file.read(BLOCK):
        at = 0
        while (end := block.find(b"\n", at)) >= 0:
            yield head + block[at : min(end, at + LONGEST - len(head))], size + end - at
            head, size, at = b"", 0, end + 1
        head += block[at : at + LONGEST - len(head)]
        size += len(block) - at
    if size:
        yield head, size


class IndexThread:
    """Indexes a file, and goes on when it grows, until it is stopped.

    Args:
        told: gets (index, whether its end was reached) or an `OSError`, at most five times a second, in the thread.
    """

    def __init__(self, path: Path, told: Callable[[LineIndex, bool, OSError | None], Any]) -> None:
        self.path, self.told = path, told
        self.index = LineIndex(path)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"index-{path.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def _run(self) -> None:
        import time

        mark: tuple[int, int] | None = None
        last, failed = 0.0, False

        def now_and_then() -> None:
            nonlocal last
            if time.monotonic() - last > TOLD_SECONDS:
                last = time.monotonic()
                self.told(self.index, False, None)

        while not self._over.is_set():
            try:
                status = os.stat(self.path)
                new = (status.st_ino, status.st_dev)
                if mark not in (None, new) or status.st_size < self.index.size:
                    self.index = LineIndex(self.path)
                grown = mark is None or mark != new or status.st_size != self.index.size
                mark = new
                if grown:
                    self.index.extend(now_and_then, self._over.is_set)
                    self.told(self.index, True, None)
                failed = False
            except OSError as error:
                if not failed:
                    failed, mark = True, None
                    self.told(self.index, True, error)
            self._over.wait(LOOK_SECONDS)


@dataclass(frozen=True, slots=True)
class Found:
    """A match: line and column (in characters), both from 0."""

    line: int
    column: int
    length: int


def find(path: Path, text: str, case: bool, over: Callable[[], bool] = lambda: False) -> Iterator[list[Found]]:
    """Matches of `text` on single lines, in lots as the file is read; at most `MOST_FOUND`.

    Raises:
        OSError: it cannot be read.
    """
    if not text:
        return
    total, line, column, rest = 0, 0, 0, b""
    with path.open("rb") as file:
        while not over():
            block = file.read(FIND_BLOCK)
            data = rest + block
            if block:
                keep = data.rfind(b"\n") + 1
                if not keep and len(data) > LONG_LINE:  # a line of megabytes: but for what a match may still need
                    keep = len(data) - 4 * len(text.encode()) - 4
                data, rest = data[:keep], data[keep:]
            elif not data:
                return
            else:
                rest = b""
            lot: list[Found] = []
            shown = data.decode("utf-8", "replace")
            begin = 0
            for at, end in _places(shown, text, case):
                line += shown.count("\n", begin, at)
                if (start := shown.rfind("\n", begin, at)) >= 0:
                    column = -start - 1
                begin = at
                lot.append(Found(line, at + column, end - at))
                total += 1
                if total >= MOST_FOUND:
                    yield lot
                    return
            line += shown.count("\n", begin)
            start = shown.rfind("\n", begin)
            column = len(shown) - start - 1 if start >= 0 else column + len(shown)
            if lot:
                yield lot
            if not block:
                return


def _places(shown: str, text: str, case: bool) -> Iterator[tuple[int, int]]:
    """Start and end of every `text` in `shown`. Lower case first, where that keeps all places: it is ten times quicker."""
    low, wanted = (shown, text) if case else (shown.lower(), text.lower())
    if len(low) != len(shown) or len(wanted) != len(text):
        yield from (m.span() for m in re.finditer(re.escape(text), shown, re.IGNORECASE))
        return
    at = low.find(wanted)
    while at >= 0:
        yield at, at + len(text)
        at = low.find(wanted, at + len(text))
