"""Any row of a source by its number, without holding the rows: for looking at data, not for training on it.

    Table.open(source, root)          its parts: files of lines have a `LineIndex`, all else a `Spool`
    while table.work(): ...           a thread goes through the rest, a slice at a time, while others read
    table.rows(1_000, 50)             rows 1,000 to 1,049 as `reader.read` gives them, as far as they are known

A `LineIndex` remembers where every `EVERY`th row of a file begins, so that any row is a seek and at most `EVERY` rows
away; the first rows need no index at all. What cannot be entered in the middle (a JSON array, Parquet, a gzipped file,
a Hub dataset) is read once, into a temporary file without a name.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from engine.errors import InputError
from engine.rows.formats import (
    BLANK,
    CsvHead,
    Record,
    Refusal,
    Row,
    csv_records,
    has_blank_between,
    lines,
    text_records,
    without_mark,
)
from engine.rows.jsonrows import holds_array, line_records
from engine.rows.reader import Part, Source, parts, read

EVERY = 64
"""Rows between two places that are remembered."""
_WALK = 8 * EVERY
"""Rows past the last place known that are read through rather than waited for."""
_SLICE = 1 << 20
"""Bytes of lines that one slice of work goes through."""


class ChangedError(InputError):
    """A file is not as it was when its index was made."""


class LineIndex:
    """Rows of a file of lines: JSON lines, CSV, text.

    Attributes:
        known: how many rows have been counted. complete: whether these are all.
        bytes_done, bytes_total: how far the counting is.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.known, self.complete = 0, False
        self.bytes_done, self.bytes_total = 0, part.path.stat().st_size
        self._stamp = _stamp(part.path)
        self._offsets, self._lines = array("Q", [0]), array("Q", [1])  # of rows 0, EVERY, 2 EVERY, ...
        self._head = CsvHead("\t" if part.kind == "tsv" else None)
        self._by_line: bool | None = None
        self._counting: Iterator[None] | None = None

    def work(self) -> bool:
        """Count on for a moment; returns whether there is more to do.

        Raises:
            InputError: the file cannot be read as a whole.
        """
        if self._counting is None:
            self._counting = self._count_lines() if self.part.kind in ("jsonl", "json") else self._count_records()
        if next(self._counting, self) is self:
            self.complete, self.bytes_done = True, self.bytes_total
        return not self.complete

    def rows(self, start: int, count: int) -> Iterator[tuple[str, dict[str, Any]] | Refusal] | None:
        """Records from number `start` (from 0) on; None where it is not known yet where they are.

        Raises:
            ChangedError: the file has changed since.
            InputError: it cannot be read as a whole.
        """
        if _stamp(self.part.path) != self._stamp:
            raise ChangedError("the file has changed on disk", where=self.part.name, remedy="read it again")
        place = min(start // EVERY, len(self._offsets) - 1)
        ahead = start - place * EVERY
        if ahead > _WALK and not self.complete:
            return None
        numbered = lines(self.part.path, self.part.name, self._offsets[place], self._lines[place])
        return islice(self._records(numbered, place), ahead, ahead + count)

    def _records(self, numbered: Iterator[tuple[int, bytes]], place: int) -> Iterator[Record]:
        kind, name = self.part.kind, self.part.name
        if kind == "text":
            return text_records(numbered, name, by_line=self._separate_lines())
        if kind in ("csv", "tsv"):
            head = CsvHead(self._head.delimiter, self._head.columns) if place else CsvHead(self._delimiter)
            return csv_records(numbered, name, head)
        return line_records(numbered, name)

    @property
    def _delimiter(self) -> str | None:
        return "\t" if self.part.kind == "tsv" else None

    def _separate_lines(self) -> bool:
        if self._by_line is None:
            self._by_line = not has_blank_between(self.part.path, self.part.name)
        return self._by_line

    def _count_lines(self) -> Iterator[None]:
        """Every line that is not blank is a row, whatever is in it."""
        offset, line, known = 0, 0, 0
        with self.part.path.open("rb", buffering=1 << 18) as file:
            pause = _SLICE
            for data in file:
                line += 1
                if (data if line > 1 else without_mark(data, self.part.name)).strip(BLANK):
                    if known and known % EVERY == 0:
                        self._lines.append(line)
                        self._offsets.append(offset)
                    known += 1
                offset += len(data)
                if offset >= pause:
                    pause = offset + _SLICE
                    self.known, self.bytes_done = known, offset
                    yield
        self.known = known

    def _count_records(self) -> Iterator[None]:
        """Read on as the reader does, and look where each row begins."""
        starts: deque[tuple[int, int]] = deque()  # (line, offset) of lines that a row may begin at
        numbered = _tracked(self.part.path.open("rb", buffering=1 << 18), self.part.name, starts)
        kind, name, known, pause = self.part.kind, self.part.name, 0, _SLICE
        if kind == "text":
            records = text_records(numbered, name, by_line=self._separate_lines())
        else:
            records = csv_records(numbered, name, self._head)
        for record in records:
            line = int((record.where if isinstance(record, Refusal) else record[0]).rpartition(":")[2])
            while starts[0][0] < line:
                starts.popleft()
            offset = starts[0][1]
            if known and known % EVERY == 0:
                self._lines.append(line)
                self._offsets.append(offset)
            known += 1
            if offset >= pause:
                self.known, self.bytes_done = known, offset
                pause = offset + _SLICE
                yield
        self.known = known


def _tracked(file: BinaryIO, name: str, starts: deque[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """Lines as `lines` gives them; where each begins is noted in `starts`."""
    with file:
        offset = 0
        for number, data in enumerate(file, 1):
            starts.append((number, offset))
            offset += len(data)
            if number == 1:
                data = without_mark(data, name)
            if data:
                yield number, data


class Spool:
    """Rows of what can only be read from its beginning, kept in a temporary file. Attributes as of `LineIndex`."""

    def __init__(self, records: Iterable[Record], stamped: Path | None = None) -> None:
        import tempfile

        self.known, self.complete = 0, False
        self.bytes_done = self.bytes_total = 0
        self._records = iter(records)
        self._path, self._stamp = stamped, _stamp(stamped)
        self._file = tempfile.TemporaryFile(prefix="loraworkbench-rows-")  # noqa: SIM115  (it is the object's)
        self._ends, self._written = array("Q", [0]), 0
        self._lock = threading.Lock()

    def work(self) -> bool:
        """Read on for a moment; returns whether there is more.

        Raises:
            InputError: the source cannot be read as a whole, or the temporary folder is full.
        """
        import pickle

        until = time.monotonic() + 0.05
        batch: list[bytes] = []
        for record in self._records:
            batch.append(pickle.dumps(record, protocol=5))
            if len(batch) >= EVERY or time.monotonic() > until:
                self._keep(batch)
                batch = []
                if time.monotonic() > until:
                    return True
        self._keep(batch)
        self.complete = True
        return False

    def _keep(self, batch: list[bytes]) -> None:
        try:
            with self._lock:
                self._file.seek(self._written)
                self._file.write(b"".join(batch))
                self._file.flush()
        except OSError as error:
            raise InputError(f"no room for a temporary copy to look at: {error.strerror}") from error
        for data in batch:
            self._written += len(data)
            self._ends.append(self._written)
        self.known = len(self._ends) - 1

    def rows(self, start: int, count: int) -> Iterator[Record] | None:
        """As `LineIndex.rows`."""
        if self._path is not None and _stamp(self._path) != self._stamp:
            raise ChangedError("the file has changed on disk", where=str(self._path), remedy="read it again")
        end = min(start + count, self.known)
        if start >= end:
            return iter(()) if self.complete else None
        with self._lock:
            self._file.seek(self._ends[start])
            data = self._file.read(self._ends[end] - self._ends[start])
        import pickle

        base = self._ends[start]
        return (pickle.loads(data[self._ends[i] - base : self._ends[i + 1] - base]) for i in range(start, end))


class Table:
    """All parts of a source, one after the other.

    Threads may share it: `work` is done by one at a time, and `rows` does not wait for it. Files are looked at when the
    table is opened.
    """

    def __init__(self, source: Source, root: Path) -> None:
        """Raises InputError: there is no such file, or nothing says how to read it."""
        self.source = source
        self.files: list[Part] = [] if source.path_or_hub.startswith("hub:") else parts(source, root)
        self._working = threading.Lock()
        self._parts: list[LineIndex | Spool] = [_index(part) for part in self.files]
        if not self.files:
            whole = read(source, root)
            self._parts = [Spool(r if isinstance(r, Refusal) else (r.where, r.fields) for r in whole)]

    @property
    def size(self) -> int:
        """Bytes of the files, 0 for a Hub dataset."""
        return sum(part.path.stat().st_size for part in self.files)

    @property
    def known(self) -> int:
        """How many rows are counted so far."""
        return sum(part.known for part in self._parts)

    @property
    def complete(self) -> bool:
        return all(part.complete for part in self._parts)

    @property
    def progress(self) -> tuple[int, int]:
        """(bytes done, bytes in all) of the counting, as far as there are bytes to count."""
        return sum(p.bytes_done for p in self._parts), sum(p.bytes_total for p in self._parts)

    def work(self) -> bool:
        """Go on with the first part that is not complete; returns whether there is more to do.

        Raises:
            InputError: a part cannot be read as a whole.
        """
        with self._working:
            part = next((p for p in self._parts if not p.complete), None)
            if part is not None:
                part.work()
        return not self.complete

    def rows(self, start: int, count: int) -> list[Row | Refusal] | None:
        """Rows from number `start` (from 1) on, at most `count`; None where they are not known yet.

        Fewer come where the source, or what is known of it, ends.

        Raises:
            ChangedError: a file has changed on disk. InputError: one cannot be read as a whole.
        """
        found: list[Row | Refusal] = []
        first = start - 1
        for part in self._parts:
            if part.complete and first >= part.known:
                first -= part.known
                continue
            records = part.rows(first, count - len(found))
            if records is None:
                return found or None
            for record in records:
                index = start - 1 + len(found)
                found.append(record if isinstance(record, Refusal) else Row(record[1], record[0], index))
            if len(found) >= count or not part.complete:
                break
            first = 0
        return found

    def row(self, number: int) -> Row | Refusal | None:
        """One row; None where it is not known yet, or not there."""
        found = self.rows(number, 1)
        return found[0] if found else None


def _index(part: Part) -> LineIndex | Spool:
    zipped = part.path.suffix.lower() == ".gz"
    by_lines = part.kind in ("jsonl", "csv", "tsv", "text") or (
        part.kind == "json" and not zipped and not holds_array(part.path, part.name)
    )
    return LineIndex(part) if by_lines and not zipped else Spool(part.records(), part.path)


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    return status.st_size, status.st_mtime_ns
