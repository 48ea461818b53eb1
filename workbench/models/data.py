"""The rows of a data view, as plain objects: pages with a bound, columns fitted to a width, what their source is.

One row as the model sees it is `data_seen`, what became of all `data_reports`. Text of data comes out safe to show.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len, set_cell_size

from engine.text import one_line, size

PAGE = 50
"""Rows that are asked for at once."""
KEPT_CHARACTERS = 4_000_000
"""Text of pages that is kept; the pages looked at last stay."""
LEAST_COLUMN, MOST_COLUMN = 8, 200
"""Cells of a column."""


@dataclass(slots=True)
class ShownRow:
    """A row as it lies there. `cells`: column -> text, cut; `refused`: why it is not used; `mark`: what became of it."""

    number: int
    where: str
    cells: dict[str, str]
    refused: str | None = None
    mark: list[str] | None = None
    tokens: int = 0

    @property
    def fate(self) -> str:
        """One word for the table: what is most worth knowing of it."""
        if self.mark is None:
            return "refused" if self.refused else ""
        for word in ("refused", "unused", "shared", "unseen", "cut", "repeated"):
            if word in self.mark:
                return word
        return "kept"


class Pages:
    """Rows by position, from 0. Attributes: known: how many there are so far. complete: whether these are all."""

    def __init__(self) -> None:
        self.known, self.complete = 0, False
        self._pages: OrderedDict[int, list[ShownRow]] = OrderedDict()
        self._characters: dict[int, int] = {}

    def row(self, position: int) -> ShownRow | None:
        """A row, None where it is not here."""
        page = self._pages.get(position // PAGE)
        if page is None or position % PAGE >= len(page):
            return None
        self._pages.move_to_end(position // PAGE)
        return page[position % PAGE]

    def rows(self) -> Iterator[ShownRow]:
        """All rows that are here."""
        return (row for page in self._pages.values() for row in page)

    def missing(self, first: int, last: int) -> list[int]:
        """Numbers of the pages with positions `first` to `last` that are not here, or not whole."""
        wanted = range(max(0, first) // PAGE, max(0, last) // PAGE + 1)
        return [n for n in wanted if len(self._pages.get(n, ())) < self._size(n)]

    def _size(self, page: int) -> int:
        """How many rows a page has, as far as it is known; at least one, where more may come."""
        here = self.known - page * PAGE
        return min(PAGE, here) if self.complete else min(PAGE, max(1, here))

    def put(self, page: int, rows: list[ShownRow]) -> None:
        """A page has come; those not looked at for long go."""
        if rows:
            self._pages[page] = rows
            self._pages.move_to_end(page)
            self._characters[page] = sum(len(t) for r in rows for t in (*r.cells, *r.cells.values(), r.where))
        self.known = max(self.known, page * PAGE + len(rows))
        while len(self._pages) > 2 and sum(self._characters.values()) > KEPT_CHARACTERS:
            old, _ = self._pages.popitem(last=False)
            del self._characters[old]

    def unmarked(self) -> list[int]:
        """Numbers of rows that are here and of which it is not known what became of them."""
        return [row.number for row in self.rows() if row.mark is None]

    def mark(self, marks: dict[int, Any]) -> None:
        """What became of rows: number -> ([words], tokens), None where it is not known."""
        for row in self.rows():
            if found := marks.get(row.number):
                row.mark, row.tokens = found

    def clear(self) -> None:
        self._pages.clear()
        self._characters.clear()
        self.known, self.complete = 0, False


# --- the table


def safe(text: str) -> str:
    """A cell's text on one line; white space that a cell cannot show is shown as one mark each."""
    return one_line(text.replace("\r\n", "\n").replace("\n", "↵").replace("\t", "→"))


def fitted(text: str, width: int, ellipsis: str = "…") -> str:
    """`text` in exactly `width` cells of a terminal."""
    text = text[: 4 * width + 4]
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, max(0, width - len(ellipsis))) + ellipsis[:width]


def needs(columns: Sequence[str], rows: Iterable[ShownRow], before: dict[str, int]) -> dict[str, int]:
    """The cells that the texts of each column take, at most `MOST_COLUMN`; never less than `before`."""
    need = {c: max(before.get(c, 0), LEAST_COLUMN, min(MOST_COLUMN, cell_len(safe(c[:MOST_COLUMN])))) for c in columns}
    for row in rows:
        for column in columns:
            if need[column] < MOST_COLUMN and (text := row.cells.get(column)):
                need[column] = max(need[column], min(MOST_COLUMN, cell_len(safe(text[:MOST_COLUMN]))))
    return need


def column_widths(need: dict[str, int], room: int) -> dict[str, int]:
    """What each column needs, all together brought into `room` cells with one between two.

    What those that need little leave goes to the others.
    """
    left, widths = room - (len(need) - 1), {}
    for done, column in enumerate(sorted(need, key=lambda c: need[c])):
        share = max(LEAST_COLUMN, left // (len(need) - done))
        widths[column] = min(need[column], share)
        left -= widths[column]
    return {c: widths[c] for c in need}


# --- where the rows come from, and how far they are read

STAGES = {
    "tokenise": "tokenising rows",
    "read train": "reading the training rows",
    "read test": "reading the test rows",
}


@dataclass(slots=True)
class Progress:
    """How far the survey is. `stage` as the engine names it."""

    stage: str = ""
    done: int = 0
    total: int | None = None
    sides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def words(self) -> str:
        """ "tokenising rows: 1,200 of 3,400 (35 %)"."""
        if not self.stage:
            return "loading the tokenizer"
        text = f"{STAGES.get(self.stage, self.stage)}: {self.done:,}"
        return f"{text} of {self.total:,} ({100 * self.done // max(1, self.total)} %)" if self.total else text


def source_words(split: str, opened: dict[str, Any], known: int, complete: bool) -> str:
    """What the split's source is: file, rows, size."""
    found = opened.get("splits", {}).get(split)
    if found is None:
        return "no unseen rows: set data.test or data.test_fraction"
    if "fraction" in found:
        return f"{100 * found['fraction']:g} % of the training rows, kept unseen (data.test_fraction)"
    if "error" in found:
        return str(found["error"]["problem"])
    rows = f"{known:,}{'' if complete else '+'} row{'' if known == 1 else 's'}"
    files = len(found["files"])
    many = f"{files} files" if files != 1 else ""
    return "  ".join(p for p in (found["source"], many, rows, size(found["size"]) if found["size"] else "") if p)
