"""What a page of Learn is made of, and its lines at a given width. Plain objects; the view gives them their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.text import cells, cut, one_line, pad, printable, wrap
from workbench.models.series import Series

WIDEST = 92
"""Cells of a line of text; longer lines are hard to read."""


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, wrapped."""

    text: str


@dataclass(frozen=True, slots=True)
class Formula:
    """Lines that stand as they are, indented."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A table; `align` as in `engine.text.table`, and the row that is the project's own (None: there is none)."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = ""
    own: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Words about the project that is open, or about the keys of this page."""

    text: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a page's claims come from."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A curve, drawn by the line chart."""

    heading: str
    unit: str
    series: Series = field(compare=False)


Block = Heading | Text | Formula | Numbers | Note | Sources | Chart
Line = tuple[str, str]
"""Text, and what it is: "heading", "formula", "header", "own", "note", "source", "link", "chosen" or ""."""


def formula(*lines: str) -> Formula:
    return Formula(lines)


def lay(blocks: Sequence[Block], width: int) -> list[Line]:
    """The lines of blocks (charts left out), each at most `width` cells, what could act on a terminal spelled out."""
    inner = max(20, min(width, WIDEST))
    lines: list[Line] = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += [
                *([("", "")] if lines and lines[-1][0] else []),
                *((t, "heading") for t in wrap(printable(block.text), inner)),
            ]
        elif isinstance(block, Text):
            lines += [*((t, "") for t in wrap(printable(block.text), inner)), ("", "")]
        elif isinstance(block, Note):
            lines += [*((t, "note") for t in _hanging("", printable(block.text), inner)), ("", "")]
        elif isinstance(block, Formula):
            lines += [(f"  {part}", "formula") for t in block.lines for part in _pieces(printable(t), inner - 2)]
            lines.append(("", ""))
        elif isinstance(block, Numbers):
            lines += [*_table(block, max(20, width)), ("", "")]
        elif isinstance(block, Sources):
            lines.append(("Sources", "heading"))
            lines += [(t, "source") for text in block.texts for t in _hanging("- ", printable(text), inner)]
            lines.append(("", ""))
    return lines


def _hanging(mark: str, text: str, width: int) -> list[str]:
    """Wrapped lines, the later ones indented as far as the mark is long."""
    found = wrap(text, max(8, width - len(mark)))
    return [(mark if i == 0 else " " * len(mark)) + t for i, t in enumerate(found)]


def _pieces(line: str, width: int) -> list[str]:
    """A formula's line, broken at spaces where it does not fit; what follows is indented further."""
    if cells(line) <= width:
        return [line]
    lead = len(line) - len(line.lstrip(" "))
    first, *rest = wrap(line, max(8, width))
    indent = min(lead + 4, width // 3)
    again = wrap(" ".join(rest), max(8, width - indent))
    return [first, *(" " * indent + t for t in again)]


def _table(block: Numbers, width: int) -> list[Line]:
    """Rows under headers; the first column gives way where the whole does not fit, then columns from the right."""
    rows = [[one_line(cell) for cell in row] for row in (block.headers, *block.rows)]
    sides = block.align.ljust(len(block.headers), "<")
    widths = [max(cells(row[i]) for row in rows) for i in range(len(block.headers))]
    room = width - 2  # the mark of the project's own row
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    if excess > 0:
        widths[0] = max(min(widths[0], 8), widths[0] - excess)
    while len(widths) > 2 and sum(widths) + 2 * (len(widths) - 1) > room:
        widths.pop()
    lines: list[Line] = []
    for number, row in enumerate(rows, -1):
        parts = [pad(cut(row[i], w), w, sides[i]) for i, w in enumerate(widths)]
        mark = "> " if number == block.own else "  "
        kind = "header" if number < 0 else "own" if number == block.own else ""
        lines.append((cut((mark + "  ".join(parts)).rstrip(), width), kind))
    return lines
