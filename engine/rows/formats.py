"""CSV and plain text, and what every file reader shares: rows, refusals, lines of bytes with their numbers.

A reader takes a path and the name to show for it, and yields a `Record` for everything in the file that counts as a
row: its place and its fields, or a `Refusal` with a place and a reason. A fault in one row never ends the file. What is
wrong with the file as a whole (UTF-16, a damaged archive, a header that cannot be used) raises `InputError`. JSON is
in `jsonrows`, Parquet and the Hub in `hub`. Goes to `reader`, which picks the reader and numbers the rows.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine.errors import InputError

BLANK = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the source has it.

    Attributes:
        fields: column -> value. Text is `str`, exactly as given; numbers are `Literal`, the source's own spelling.
        where: "file:line" of its first line; "file:row N" (from 1) where there are no lines.
        index: position in the source from 0, refused rows counted.
    """

    fields: dict[str, Any]
    where: str
    index: int


@dataclass(slots=True)
class CsvHead:
    """How a CSV file is read: its delimiter and its header, each None until it is known."""

    delimiter: str | None = None
    columns: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot be used. `reason` is "kind: detail", counted by kind; `excerpt` is as `excerpt` makes it."""

    where: str
    reason: str
    excerpt: str = ""


Record = tuple[str, dict[str, Any]] | Refusal
"""(where, fields) or why not."""


def excerpt(source: str | bytes, limit: int = 80) -> str:
    """The beginning of `source` in at most `limit` characters, safe to print: what is not printable is escaped."""
    head = source[: limit * 4]
    text = (head.decode("utf-8", "backslashreplace") if isinstance(head, bytes) else head).rstrip("\r\n")
    pieces = [c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1]]
    if len(head) == len(source) and len("".join(pieces)) <= limit:
        return "".join(pieces)
    while len("".join(pieces)) >= limit:
        pieces.pop()
    return "".join(pieces) + "…"


def line_fault(line: bytes) -> str | None:
    """Why the bytes of a line cannot be text, with the offset in the line; None where they can."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"not valid UTF-8: byte 0x{line[error.start]:02x} at offset {error.start} of the line"
    if (at := line.find(b"\0")) >= 0:
        return f"NUL byte: at offset {at} of the line"
    return None


@contextlib.contextmanager
def open_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file opened for reading, gunzipped where it ends in .gz.

    Raises:
        InputError: it cannot be opened or read, or is a damaged archive (also while the block reads).
    """
    try:
        with cast(
            BinaryIO, gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb", buffering=1 << 16)
        ) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"the archive is damaged or cut off ({error})", where=name) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=name) from error


def lines(path: Path, name: str, offset: int = 0, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, numbered from 1, line ends kept, byte order mark dropped. Memory is that of one line.

    Only "\\n" ends a line.

    Args:
        offset, first: where to begin: byte `offset`, at which line number `first` begins.

    Raises:
        InputError: as `open_file`; or the file is UTF-16 or UTF-32, or has bare carriage returns for line ends.
    """
    with open_file(path, name) as file:
        if offset:
            file.seek(offset)
        for number, line in enumerate(file, first):
            if number == 1:
                line = without_mark(line, name)
                if not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r"):
                    remedy = f"convert it: tr '\\r' '\\n' < {name} > converted"
                    raise InputError("lines end in bare carriage returns", where=name, remedy=remedy)
            if line:
                yield number, line


def without_mark(data: bytes, name: str) -> bytes:
    """The beginning of a file without a UTF-8 byte order mark.

    Raises:
        InputError: it is UTF-16 or UTF-32, by its mark or by every other byte being NUL.
    """
    head = data[:4096]
    even, odd = (head[start::2].count(0) > 0.2 * len(head) for start in (0, 1))
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or (even != odd and len(head) >= 4):
        raise InputError(
            "this is UTF-16 or UTF-32 text; only UTF-8 is read",
            where=name,
            remedy=f"convert it: iconv -f UTF-16 -t UTF-8 {name} > converted",
        )
    return data.removeprefix(b"\xef\xbb\xbf")


# --- plain text


def read_text(path: Path, name: str) -> Iterator[Record]:
    """Documents of a text file, each in a field "text".

    Where a blank line stands between lines of text, blank lines separate the documents; where none does, every line is
    a document (a corpus with one article a line, a list of sentences). Only the last line end is taken off.
    """
    yield from text_records(lines(path, name), name, by_line=not has_blank_between(path, name))


def text_records(numbered: Iterable[tuple[int, bytes]], name: str, *, by_line: bool) -> Iterator[Record]:
    """Documents of these lines: one each (`by_line`), or separated by blank lines."""
    document: list[tuple[int, bytes]] = []
    for number, line in numbered:
        blank = not line.strip(BLANK)
        if document and (blank or by_line):
            yield _document(name, document)
            document = []
        if not blank:
            document.append((number, line))
    if document:
        yield _document(name, document)


def has_blank_between(path: Path, name: str) -> bool:
    """Whether a blank line stands between lines of text."""
    seen_text = seen_blank = False
    for _, line in lines(path, name):
        if not line.strip(BLANK):
            seen_blank = seen_text
        elif seen_blank:
            return True
        else:
            seen_text = True
    return False


def _document(name: str, numbered: list[tuple[int, bytes]]) -> Record:
    where = f"{name}:{numbered[0][0]}"
    data = b"".join(line for _, line in numbered)
    if fault := _fault_among(numbered):
        return Refusal(where, fault, excerpt(data))
    return where, {"text": data.decode("utf-8").removesuffix("\n").removesuffix("\r")}


def _fault_among(numbered: list[tuple[int, bytes]]) -> str | None:
    """The first `line_fault` of a record's lines; it names the line where that is not the record's first."""
    first = numbered[0][0]
    for number, line in numbered:
        if fault := line_fault(line):
            return fault if number == first else fault.replace("the line", f"line {number}")
    return None


# --- CSV and TSV


class _Feed:
    """Lines for `csv.reader`, which remembers those of the record being read and can give them out again."""

    def __init__(self, numbered: Iterator[tuple[int, bytes]]) -> None:
        self._numbered = numbered
        self._again: deque[tuple[int, bytes]] = deque()
        self.taken: list[tuple[int, bytes]] = []
        self.ended = False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        item = self._again.popleft() if self._again else next(self._numbered, None)
        self.ended = item is None
        if item is None:
            raise StopIteration
        self.taken.append(item)
        return item[1].decode("utf-8", "surrogateescape")  # `_fault_among` refuses it after

    def put_back(self, keep: int) -> None:
        """Give all lines of this record but the first `keep` out again."""
        self._again.extendleft(reversed(self.taken[keep:]))
        del self.taken[keep:]


def read_csv(path: Path, name: str, delimiter: str | None) -> Iterator[Record]:
    """Records of a CSV file with a header; every value is the text between the delimiters, nothing else.

    Quoted fields may hold line ends. Blank lines are no records. A record that cannot be read is refused at its first
    line and reading goes on at the next line, so that a quote that is never closed costs one record, not the file.

    Args:
        delimiter: None to choose among comma, semicolon and tab by what splits the header most.

    Raises:
        InputError: the header cannot be used.
    """
    yield from csv_records(lines(path, name), name, CsvHead(delimiter))


def csv_records(numbered: Iterator[tuple[int, bytes]], name: str, head: CsvHead) -> Iterator[Record]:
    """The records of these lines, as `read_csv`. A `head` without columns is filled in from the first record."""
    csv.field_size_limit(2**31 - 1)
    feed = _Feed(numbered)
    if head.delimiter is None:
        head.delimiter = _sniff(feed)
    reader = csv.reader(feed, delimiter=head.delimiter, strict=True)
    while True:
        feed.taken.clear()
        try:
            fields = next(reader)
            reason = _fault_among(feed.taken) if fields else None
        except StopIteration:
            return
        except csv.Error as error:
            fields, reason = [], _csv_fault(error, feed)
            feed.put_back(keep=1)
        if not fields and reason is None:
            continue
        where = f"{name}:{feed.taken[0][0]}"
        if head.columns is None:
            head.columns = _check_header(fields, reason, where)
            continue
        if reason is None and len(fields) != len(head.columns):
            reason = f"ragged record: {_count(len(fields), 'field')}, header has {len(head.columns)}"
            if len(feed.taken) > 1:
                reason += f" (the record runs over {len(feed.taken)} lines)"
        if reason is None:
            yield where, dict(zip(head.columns, fields, strict=True))
        else:
            yield Refusal(where, reason, excerpt(feed.taken[0][1]))


def _sniff(feed: _Feed) -> str:
    head = next(feed, "")
    feed.put_back(keep=0)
    widths = {d: len(next(csv.reader([head], delimiter=d), [])) for d in ",;\t"}
    return max(widths, key=lambda d: widths[d])


def _csv_fault(error: csv.Error, feed: _Feed) -> str:
    """Name the error; lines taken with the first one are counted, as they are about to be read again."""
    swallowed = len(feed.taken) - 1
    again = f", swallowing {_count(swallowed, 'line')}, which were read again" if swallowed else ""
    if feed.ended:
        return f"unclosed quote: a quoted field runs to the end of the file{again}"
    what = "a bare carriage return outside quotes" if "new-line" in str(error) else str(error)
    return f"not valid CSV: {what}{again}"


def _check_header(header: list[str], reason: str | None, where: str) -> list[str]:
    if reason is not None:
        raise InputError(f"the header cannot be read ({reason.partition(', ')[0]})", where=where)
    twice = next((column for i, column in enumerate(header) if column in header[:i]), None)
    if twice is not None:
        raise InputError(
            f"the column {excerpt(twice)!r} stands twice in the header", where=where, remedy="rename one of them"
        )
    return header


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
