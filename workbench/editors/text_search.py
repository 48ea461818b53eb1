"""Finding and replacing in the text of an editor: what its find bar asks."""

from __future__ import annotations

import re

from workbench.widgets.toml_area import TomlArea

MOST = 20_000
"""Matches that are kept."""


class TextSearch:
    """A `ReplaceTarget` over a text area."""

    def __init__(self, area: TomlArea) -> None:
        self.area = area
        self.places: list[tuple[int, int, int]] = []

    def matches(self, text: str, case: bool) -> int:
        self.places = []
        if text:
            pattern = re.compile(re.escape(text), 0 if case else re.IGNORECASE)
            for row, line in enumerate(self.area.document.lines):
                self.places += [(row, *f.span()) for f in pattern.finditer(line)]
                if len(self.places) > MOST:
                    break
        self.area.set_found(self.places)
        return len(self.places)

    def nearest(self) -> int:
        start = min(self.area.selection)
        return next((n for n, (row, at, _) in enumerate(self.places) if (row, at) >= start), 0)

    def go(self, number: int) -> None:
        row, start, end = self.places[number]
        self.area.show_place(row, start, end)
        self.area.set_found(self.places, number)

    def replace_match(self, number: int, text: str) -> None:
        if self.area.read_only:
            return
        row, start, end = self.places[number]
        self.area.history.checkpoint()
        self.area.replace(text, (row, start), (row, end))
        self.area.move_cursor((row, start + len(text)))

    def replace_all(self, text: str) -> int:
        """All in one step of undo."""
        if self.area.read_only or not self.places:
            return 0
        lines = self.area.lines
        for row, start, end in reversed(self.places):
            lines[row] = lines[row][:start] + text + lines[row][end:]
        self.area.put("\n".join(lines))
        return len(self.places)
