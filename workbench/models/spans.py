"""Which characters a mistake of a project file is about: the checker names a line and column, the editor marks a span.

Comes from: `engine.spec`'s mistakes. Goes to: marks in the editor, `Problems`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.models.toml_place import place_at

_TOKEN = re.compile(r"""[A-Za-z0-9_.+:-]+|"(?:[^"\\]|\\.)*"?|'[^']*'?|\S""")


@dataclass(frozen=True, slots=True)
class Mark:
    """A mistake in the text: line and columns from 0 (`end` after the last one), and the words."""

    row: int
    start: int
    end: int
    text: str


def mark(lines: Sequence[str], line: int, column: int, text: str) -> Mark:
    """The mark of what is said about `line` and `column`, both from 1; never empty, always inside the text.

    About an unknown name the name is marked; about a key, the key and its value on that line; about broken TOML, the
    token there, or the last one of the line.
    """
    row = max(0, min(line - 1, len(lines) - 1))
    shown = lines[row] if lines else ""
    at = max(0, min(column - 1, len(shown)))
    found = next((f for f in _TOKEN.finditer(shown) if f.start() <= at < f.end()), None)
    start, end = found.span() if found else _last(shown, at)
    if found is not None and not text.startswith(("not valid TOML", "unknown")):
        value = place_at(lines, row, at).value
        if value[0] >= start and value[1] > end:
            end = value[1]
    return Mark(row, start, max(end, start + 1), text)


def _last(shown: str, at: int) -> tuple[int, int]:
    """The last token that ends before `at`; one cell at `at` where there is none."""
    before = [f for f in _TOKEN.finditer(shown) if f.end() <= at]
    return before[-1].span() if before else (at, at + 1)
