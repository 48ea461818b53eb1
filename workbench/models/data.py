"""What the data view shows, as plain objects: pages of rows with a bound, columns fitted to a width, a row's tokens,
ledger, histogram and overlap as text. All text of data comes out of here safe to show.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from engine.text import one_line, printable, size

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


# --- a row as the model sees it


@dataclass(frozen=True, slots=True)
class Marks:
    """How supervised text and token ends are marked where colour is not enough."""

    open: str = "⟦"
    close: str = "⟧"
    end: str = "│"
    line: str = "↵"


ASCII = Marks("[[", "]]", "|", "\\n")
SUPERVISED, PLAIN, NOTE = "$text-success underline", "", "$text-muted"
HEAD, TAIL = 12_000, 6_000
"""Characters of a long text that are shown from its beginning and from its end."""


def seen(pieces: Sequence[tuple[str, float]], marks: Marks, *, ends: bool = False) -> Content:
    """Text in pieces of one weight (or, with `ends`, token by token): supervised stretches between brackets, underlined
    and coloured, with their weight where it is not 1; with `ends`, a bar after each token and a mark for line feeds."""
    parts: list[tuple[str, str]] = []
    before = 0.0
    for text, weight in _shortened(pieces):
        if weight != before:
            if before:
                parts.append((marks.close + ("" if before == 1 else f"x{before:g}"), NOTE))
            if weight:
                parts.append((marks.open, NOTE))
            before = weight
        shown = printable(text).expandtabs(4)
        style = SUPERVISED if weight else PLAIN
        if ends:
            shown = shown.replace("\n", f"{marks.line}\n")
            last = "\n" * shown.endswith("\n")  # the bar stands on the line that the token ends
            parts += [(shown.removesuffix("\n"), style), (f"{marks.end}{last}", NOTE)]
        else:
            parts.append((shown, style))
    if before:
        parts.append((marks.close + ("" if before == 1 else f"x{before:g}"), NOTE))
    return Content.assemble(*parts)


def _shortened(pieces: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """The pieces without the middle of a text that is longer than `HEAD` and `TAIL`."""
    whole = sum(len(text) for text, _ in pieces)
    if whole <= HEAD + TAIL:
        yield from pieces
        return
    at, skipped = 0, False
    for text, weight in pieces:
        head, tail = text[: max(0, HEAD - at)], text[max(0, whole - TAIL - at) :]
        if head:
            yield head, weight
        if at + len(text) > HEAD and not skipped:
            skipped = True
            yield f"\n… {whole - HEAD - TAIL:,} characters are not shown …\n", 0.0
        if tail and at + len(text) > whole - TAIL and len(head) < len(text):
            yield tail, weight
        at += len(text)


def counts(row: dict[str, Any]) -> str:
    """ "41 of 118 tokens supervised", and what was cut."""
    supervised, tokens = row["supervised"], row["tokens"]
    text = f"{supervised:,} of {tokens:,} tokens supervised"
    if row["cut"]:
        text += f"; {row['length'] - tokens:,} more cut at train.max_length = {row['max_length']:,}"
    return text


def fields(row: ShownRow) -> Content:
    """A row as it lies there: each column with its text."""
    parts: list[tuple[str, str]] = []
    for name, text in row.cells.items():
        if name:
            parts.append((f"{one_line(name)}\n", "bold"))
        shown = (
            next(iter(_shortened([(text, 0.0)])))[0]
            if len(text) <= HEAD
            else "".join(t for t, _ in _shortened([(text, 0.0)]))
        )
        parts.append((printable(shown).expandtabs(4) + "\n\n", ""))
    return Content.assemble(*parts) if parts else Content("")


# --- ledger, lengths, overlap

LEDGER = (("read", "read"), ("kept", "kept whole"), ("cut", "cut"), ("refused", "refused"))
FURTHER = (("duplicates", "duplicates"), ("nothing_to_learn", "nothing to learn"))


def ledger_lines(sides: dict[str, dict[str, Any]]) -> list[str]:
    """The numbers of each side; read = kept + cut + refused, and of which: duplicates, nothing to learn."""
    names = [n for n in ("train", "test", "together") if n in sides]
    labels = [*(label for _, label in LEDGER), *(f"of which {label}" for _, label in FURTHER)]
    keys = [*(key for key, _ in LEDGER), *(key for key, _ in FURTHER)]
    wide = max(len(f"{sides[n][k]:,}") for n in names for k in keys) if names else 1
    wide = max(wide, *(len(n) for n in names)) if names else wide
    lines = [f"{'rows':<27}" + "".join(f"{n:>{wide + 2}}" for n in names)]
    signs = {"kept": "= ", "cut": "+ ", "refused": "+ "}
    for key, label in zip(keys, labels, strict=True):
        indent = "    " if label.startswith("of which") else signs.get(key, "  ")
        lines.append(f"{indent + label:<27}" + "".join(f"{sides[n][key]:>{wide + 2},}" for n in names))
    return lines


def adds_up(side: dict[str, Any]) -> bool:
    return side["read"] == side["kept"] + side["cut"] + side["refused"]


@dataclass(frozen=True, slots=True)
class Bars:
    """Parts of a bar, from nothing to a whole cell."""

    steps: str = " ▏▎▍▌▋▊▉█"

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` (0 to 1) of `width` cells; something, where the share is not 0."""
        steps = len(self.steps) - 1
        units = max(1 if share > 0 else 0, round(share * width * steps))
        whole, rest = divmod(units, steps)
        return self.steps[-1] * whole + (self.steps[rest] if rest else "")


ASCII_BARS = Bars(" #")


def histogram_lines(
    side: dict[str, Any], limit: int, overlong: str, width: int, bars: Bars | None = None, rule: str = "─"
) -> list[tuple[str, bool]]:
    """(line, whether it is too long) of a histogram of lengths, with a rule where train.max_length is."""
    bars = bars or Bars()
    found = [tuple(b) for b in side.get("bins", ())]
    while found and not found[0][2]:
        del found[0]
    if not found:
        return [("no row has been measured", False)]
    left = max(len(f"{b:,}") for _, b, _ in found)
    right = max(len(f"{n:,}") for *_, n in found)
    room = max(4, width - 2 * left - right - 7)
    most = max(n for *_, n in found)
    lines: list[tuple[str, bool]] = []
    what = {"cut": "longer rows are cut", "refuse": "longer rows are refused", "stop": "longer rows stop the run"}
    line = f"{rule * 2} train.max_length = {limit:,}: {what.get(overlong, '')} "
    line = fitted(line + rule * width, width, "")
    marked = False
    for first, last, rows in found:
        if first > limit and not marked:
            marked = True
            lines.append((line, False))
        bar = bars.bar(rows / most if most else 0.0, room)
        lines.append((f"{first:>{left},} - {last:>{left},}  {rows:>{right},}  {bar}", first > limit))
    if not marked:
        lines.append((line, False))
    return lines


def lengths_summary(side: dict[str, Any], limit: int) -> list[str]:
    """Percentiles, over-long rows, tokens in all."""
    if not side.get("rows"):
        return ["no rows"]
    share = 100 * side["over"] / side["rows"]
    over = f"{side['over']:,} of {side['rows']:,} rows ({share:.1f} %) longer than {limit:,}"
    return [
        f"shortest {side['min']:,}   median {side['median']:,}   mean {side['mean']:,}   95 % {side['p95']:,}   "
        f"longest {side['max']:,}",
        over if side["over"] else f"no row is longer than train.max_length = {limit:,}",
        f"{side['tokens']:,} tokens are used, {side['supervised']:,} of them supervised",
    ]


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
