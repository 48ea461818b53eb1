"""A source of data -> rows in their shape, with a ledger in which every row is kept, cut or refused.

    data.train = "data/faq.jsonl"  ->  Source  ->  read: Row | Refusal  ->  detect, convert  ->  Loaded

Files are read by `formats` and `jsonrows`, Parquet and the Hub by `hub`; `detect` and `shapes` say what a row means.
Goes to `dataset`, which renders and tokenises the items and goes on writing in the same ledger.
"""

from __future__ import annotations

import hashlib
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from engine.errors import InputError
from engine.rows.detect import SAMPLE, detect
from engine.rows.formats import Record, Refusal, Row, excerpt, read_csv, read_text
from engine.rows.jsonrows import read_json, read_lines
from engine.rows.ledger import NOTHING_TO_LEARN, Ledger, total
from engine.rows.shapes import Document, Item, Pair, RowError, Shape, convert

__all__ = ["NOTHING_TO_LEARN", "Ledger", "Loaded", "Refusal", "Row", "Source", "load", "overlap", "read", "total"]

Format = Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "text"]


def _read_parquet(path: Path, name: str) -> Iterator[Record]:
    from engine.rows.hub import read_parquet  # who reads no Parquet does not wait for what it takes

    return read_parquet(path, name)


_READERS = {
    "jsonl": read_lines,
    "json": read_json,
    "csv": partial(read_csv, delimiter=None),
    "tsv": partial(read_csv, delimiter="\t"),
    "parquet": _read_parquet,
    "text": read_text,
}
_ENDINGS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from.

    Attributes:
        path_or_hub: a file, a folder, or "hub:NAME"; a path is relative to the workspace.
        subset, split, revision, streaming: of a Hub dataset.
        format: how a file is read; "auto" goes by its ending.
    """

    path_or_hub: str
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    streaming: bool = False
    format: Format = "auto"


# --- a source as rows


def read(source: Source, root: Path, limit: int | None = None) -> Iterator[Row | Refusal]:
    """The first `limit` rows of `source`, usable or not, one at a time.

    A folder is all files in it (not below it) whose ending is known, by name, without hidden files and README.md. Only
    a JSON array is held in memory.

    Raises:
        InputError: there is no such file or dataset, it cannot be read as a whole, or it has no rows.
    """
    if source.path_or_hub.startswith("hub:"):
        name = source.path_or_hub.removeprefix("hub:")
        from engine.rows.hub import read_hub

        records = read_hub(name, source.subset, source.split, source.revision, source.streaming)
    else:
        records = (record for part in parts(source, root) for record in part.records())
    return _numbered(records, source, limit)


def _numbered(records: Iterator[Record], source: Source, limit: int | None) -> Iterator[Row | Refusal]:
    index = -1
    for index, record in enumerate(islice(records, limit)):
        yield record if isinstance(record, Refusal) else Row(record[1], record[0], index)
    if index < 0:
        raise InputError("this has no rows", where=source.path_or_hub, remedy="give a source with at least one row")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a source: its path, the name to show for it, and how it is read (jsonl, json, csv, ...)."""

    path: Path
    name: str
    kind: str

    def records(self) -> Iterator[Record]:
        return _READERS[self.kind](self.path, self.name)


def parts(source: Source, root: Path) -> list[Part]:
    """The files of a source that is no Hub dataset, in the order in which they are read.

    Raises:
        InputError: there is no such file, its ending says nothing, or the folder has none that can be read.
    """
    shown = source.path_or_hub
    path = root / Path(shown).expanduser()
    if not path.exists():
        raise _not_found(path, shown, root)
    if not path.is_dir():
        return [Part(path, shown, _format_of(path, source.format, shown))]
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != "README.md")
    known = [(p, kind) for p in files if (kind := _by_ending(p)) and source.format in ("auto", kind)]
    if not known:
        raise InputError("this folder has no file of rows", where=shown, remedy=f"known endings: {' '.join(_ENDINGS)}")
    return [Part(p, str(Path(shown) / p.name), kind) for p, kind in known]


def _by_ending(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes]
    zipped = suffixes[-1:] == [".gz"]
    kind = _ENDINGS.get("".join(suffixes[-2:-1] if zipped else suffixes[-1:]))
    return None if zipped and kind == "parquet" else kind


def _format_of(path: Path, asked: Format, shown: str) -> str:
    if asked != "auto":
        return asked
    if kind := _by_ending(path):
        return kind
    endings = f"{' '.join(_ENDINGS)}, all but .parquet also with .gz"
    raise InputError("its ending does not say how to read it", where=shown, remedy=f"known endings: {endings}")


def _not_found(path: Path, shown: str, root: Path) -> InputError:
    there = next(p for p in path.parents if p.is_dir())
    wanted = path.relative_to(there).parts[0]
    import difflib

    if close := difflib.get_close_matches(wanted, [p.name for p in there.iterdir()], 1):
        nearest = there / close[0]
        remedy = f"did you mean {nearest.relative_to(root) if nearest.is_relative_to(root) else nearest}?"
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", shown) and not path.suffix:
        remedy = f"for a Hub dataset write hub:{shown}"
    else:
        remedy = f"{there} is there, but has no {wanted}"
    return InputError("there is no such file or folder", where=shown, remedy=remedy)


# --- rows in their shape

NO_SHAPE = Shape("none", {})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows that can be used, in the order of the source, each as what it means; `NO_SHAPE` where none can be read."""

    shape: Shape
    items: list[tuple[Row, Item]]
    ledger: Ledger


def load(
    source: Source,
    root: Path,
    *,
    shape: str | Shape = "auto",
    columns: Mapping[str, str | None] | None = None,
    limit: int | None = None,
) -> Loaded:
    """Read, tell the shape and convert. No more than `limit` rows are asked of the source.

    Args:
        shape: see `detect.detect`; or a `Shape` found before: unseen rows are read as the training rows were.
        columns: see `detect.detect`.

    Raises:
        InputError: the source cannot be read (see `read`), or the shape of its rows is not clear.
    """
    reading = Reading(source, root, shape=shape, columns=columns, limit=limit)
    items = list(reading.items())
    return Loaded(reading.shape, items, reading.ledger)


class Reading:
    """What `load` does, a row at a time: the shape at once, the ledger filled in as `items` goes on."""

    def __init__(
        self,
        source: Source,
        root: Path,
        *,
        shape: str | Shape = "auto",
        columns: Mapping[str, str | None] | None = None,
        limit: int | None = None,
    ) -> None:
        self._records = read(source, root, limit)
        self._sample = list(_until(self._records, SAMPLE))
        rows = [row for row in self._sample if isinstance(row, Row)]
        if not isinstance(shape, Shape) or shape == NO_SHAPE:
            asked = "auto" if isinstance(shape, Shape) else shape
            shape = detect(rows, shape=asked, columns=columns) if rows else NO_SHAPE
        self.shape = shape
        self.ledger = Ledger()
        self.repeats = False

    def items(self) -> Iterator[tuple[Row, Item]]:
        """The rows that can be used; `repeats` says of the last one whether an earlier one has the same content."""
        seen: set[bytes] = set()
        for row in chain(self._sample, self._records):
            self.ledger.read += 1
            if isinstance(row, Refusal):
                self.ledger.refuse(row.where, row.reason, row.excerpt)
                continue
            try:
                item = convert(row, self.shape)
            except RowError as error:
                self.ledger.refuse(row.where, error.reason, _glimpse(row))
                continue
            self.ledger.keep()
            content = _digest(item)
            self.repeats = content in seen
            if self.repeats:
                self.ledger.repeat(row.where)
            seen.add(content)
            yield row, item
        self.ledger.check()


def _glimpse(row: Row) -> str:
    """The row for its entry in the ledger, without spelling out all of it."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxother = 3, 40
    shown = (f"{k}: {v[:80] if isinstance(v, str) else brief.repr(v)}" for k, v in islice(row.fields.items(), 8))
    return excerpt("; ".join(shown))


def _until(records: Iterator[Row | Refusal], rows: int) -> Iterator[Row | Refusal]:
    """Records up to and with the one that is row number `rows`; the rest stays in `records`."""
    while rows and (record := next(records, None)) is not None:
        rows -= isinstance(record, Row)
        yield record


def _digest(item: Item) -> bytes:
    """Of what is learned from: equal for equal content. Columns that only a format string can reach do not count."""
    if isinstance(item, Pair):
        parts = [item.prompt, item.completion]
    elif isinstance(item, Document):
        parts = [item.text]
    else:
        parts = [item.tools or "", *(part for m in item.messages for part in (m.role, m.text, str(m.weight)))]
    digest = hashlib.blake2b(type(item).__name__.encode(), digest_size=16)
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.digest()


def overlap(train: Iterable[tuple[Row, Item]], test: Iterable[tuple[Row, Item]]) -> list[tuple[str, str]]:
    """(place in train, place in test) of every test row that asks what a training row asks, the first one named.

    Compared is the prompt (of a conversation: all that nobody learns to say, but for the system text), or the whole
    text where there is no prompt; after NFC, case folding and with each run of white space as one space.
    """
    first: dict[bytes, str] = {}
    for row, item in train:
        first.setdefault(asked(item), row.where)
    return [(first[key], row.where) for row, item in test if (key := asked(item)) in first]


def asked(item: Item) -> bytes:
    """Digest of what `overlap` compares."""
    if isinstance(item, Pair):
        text = item.prompt
    elif isinstance(item, Document):
        text = item.text
    else:
        turns = [m.text for m in item.messages if m.role != "system" and not m.weight]
        text = "\n".join(turns or [m.text for m in item.messages])
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return hashlib.blake2b(folded.encode(), digest_size=16).digest()
