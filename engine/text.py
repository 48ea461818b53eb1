"""Text for a terminal: what may be shown, how wide it is, cut, wrapped, in columns and tables; amounts in words.

Comes from: anything that is to be read by a person, above all text of models and datasets, which must never act on the
terminal. Goes to: `console`. Widths are in cells: a CJK character takes two, a combining accent none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, escape sequences with them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reorder what stands around them
    "\u2028\u2029\ud800-\udfff]"  # line ends that look like none, halves of characters
)
NARROWEST = 24
"""Cells below which a column is not worth reading."""
_BETWEEN = " │ "


def printable(text: str) -> str:
    """`text` with what could act on a terminal spelled out ("\\x1b"); tabs and line feeds stay."""
    return _UNSAFE.sub(_spelled, text)


def one_line(text: str) -> str:
    """`printable` on a single line: line feeds and tabs are spelled out, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def cells(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if character.isascii():
        return 1
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, width: int) -> int:
    """How many of the first characters fit into `width` cells."""
    if text[: width + 1].isascii():
        return min(len(text), width)
    used = 0
    for index, character in enumerate(text):
        used += _cells(character)
        if used > width:
            return index
    return len(text)


def cut(text: str, width: int, mark: str = "…") -> str:
    """`text` in at most `width` cells; `mark` (one cell) ends it where something is missing."""
    if _fitting(text, width) == len(text):
        return text
    return text[: _fitting(text, width - 1)] + mark if width > 0 else ""


def pad(text: str, width: int, align: str = "<") -> str:
    """`text` filled up to `width` cells; `align` is "<" or ">"."""
    room = " " * max(0, width - cells(text))
    return room + text if align == ">" else text + room


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` (at least 2) cells, broken at spaces where there are some; line feeds are kept."""
    lines: list[str] = []
    for line in text.expandtabs(4).split("\n"):
        while (fits := _fitting(line, width)) < len(line):
            at = fits if line[fits] == " " else line.rfind(" ", 0, fits)
            if not line[: max(at, 0)].strip():
                at = fits
            lines.append(line[:at])
            line = line[at:].lstrip(" ")
        lines.append(line)
    return lines


def columns(titles: Sequence[str], texts: Sequence[str], width: int) -> str:
    """Texts side by side under their titles in at most `width` cells; below each other where they would be too narrow.

    What could act on a terminal is spelled out.
    """
    titles, texts = [one_line(t) for t in titles], [printable(t) for t in texts]
    each = (width - len(_BETWEEN) * (len(titles) - 1)) // max(1, len(titles))
    if each < NARROWEST:
        inner = max(2, width - 2)
        blocks = [[title, *("  " + line for line in wrap(t, inner))] for title, t in zip(titles, texts, strict=True)]
        return "\n".join(line.rstrip() for block in blocks for line in block)
    heads, bodies = [wrap(title, each) for title in titles], [wrap(t, each) for t in texts]
    lines = [*_beside(heads, each), "─┼─".join("─" * each for _ in titles), *_beside(bodies, each)]
    return "\n".join(lines)


def _beside(blocks: Sequence[Sequence[str]], each: int) -> list[str]:
    rows = [[b[i] if i < len(b) else "" for b in blocks] for i in range(max(map(len, blocks), default=0))]
    return [_BETWEEN.join(pad(part, each) for part in row).rstrip() for row in rows]


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """Rows under headers, two spaces between columns; `align` has "<" or ">" for each column, "<" where it ends."""
    whole = [[one_line(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(cells(row[i]) for row in whole) for i in range(len(headers))]
    sides = align.ljust(len(headers), "<")
    lines = ("  ".join(pad(*part) for part in zip(row, widths, sides, strict=True)).rstrip() for row in whole)
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A time in words: "0.4 s", "12 s", "1 min 20 s", "2 h 05 min"."""
    if not math.isfinite(seconds):
        return "?"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float | None) -> str:
    """Time passed, in one unit, rounded down: "5 s", "12 min", "3 h", "9 d"; "-" where it is not known."""
    if seconds is None:
        return "-"
    passed = max(0.0, seconds)
    for whole, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= whole:
            return f"{passed // whole:.0f} {unit}"
    return f"{passed // 1:.0f} s"


def size(count: float) -> str:
    """Bytes in decimal units: "312 B", "4.1 kB", "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.{1 if count < 99.95 else 0}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def amount(value: float | None, pattern: str = ",.2f") -> str:
    """A number in words, "-" where there is none; NaN and infinity as they are."""
    return "-" if value is None else format(value, pattern)
