"""A log that a `FindBar` can search: lines are written in batches, matches are marked where they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.style import Style
from textual.binding import Binding
from textual.strip import Strip
from textual.widgets import Log

from engine.text import cells


class FindLog(Log):
    """A `findbar.FindTarget`. What is written must be free of control codes."""

    DEFAULT_CSS = "FindLog { height: 1fr; width: 1fr; background: $background; overflow-x: auto; }"
    BINDINGS: ClassVar = [
        Binding("j,down", "scroll_down", show=False), Binding("k,up", "scroll_up", show=False),
        Binding("h,left", "scroll_left", show=False), Binding("l,right", "scroll_right", show=False),
        Binding("g,home", "scroll_home", show=False), Binding("G,end", "scroll_end", show=False),
    ]  # fmt: skip

    def __init__(self, most: int, id: str | None = None) -> None:
        super().__init__(id=id, max_lines=most)
        self._wanted, self._case = "", False
        self._found: list[int] = []
        self._at = -1
        self._follows = True

    def add(self, lines: Iterable[str]) -> None:
        """Write lines; the end stays in sight until one scrolls up or looks for something."""
        self.write_lines([line or " " for line in lines], scroll_end=False)
        self._keep_up()
        self.call_after_refresh(self._keep_up)  # a long line may have brought a scroll bar below

    def _keep_up(self) -> None:
        if self._follows and not self._wanted and not self.is_vertical_scrollbar_grabbed:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = round(new_value) >= self.max_scroll_y or (self._follows and new_value >= old_value)

    def on_resize(self) -> None:
        """With less height the end would be out of sight, and Textual's log would no longer follow it."""
        self._keep_up()

    def matches(self, text: str, case: bool) -> int | None:
        self._wanted, self._case, self._at = text if case else text.casefold(), case, -1
        self._found = [i for i, line in enumerate(self.lines) if self._within(line)] if text else []
        self._render_line_cache.clear()
        self.refresh()
        return len(self._found)

    def _within(self, line: str) -> bool:
        return self._wanted in (line if self._case else line.casefold())

    def nearest(self) -> int:
        """The first one in sight or below."""
        return next((n for n, line in enumerate(self._found) if line >= self.scroll_offset.y), 0)

    def go(self, number: int) -> None:
        if 0 <= number < len(self._found):
            self._at = self._found[number]
            height = max(1, self.size.height)
            self.scroll_to(y=max(0, self._at - height // 2), animate=False, immediate=True)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        strip = super().render_line(y)
        number = self.scroll_offset.y + y
        if not self._wanted or number >= len(self.lines):
            return strip
        line = self.lines[number]
        searched = line if self._case else line.casefold()
        style = Style(reverse=True) if number == self._at else Style(underline=True, bold=True)
        at = searched.find(self._wanted)
        while at >= 0 and len(searched) == len(line):
            a = cells(line[:at]) - self.scroll_offset.x
            b = a + cells(line[at : at + len(self._wanted)])
            if b > 0 and a < strip.cell_length:
                a, b = max(0, a), min(strip.cell_length, b)
                strip = Strip.join(
                    [strip.crop(0, a), strip.crop(a, b).apply_style(style), strip.crop(b, strip.cell_length)]
                )
            at = searched.find(self._wanted, at + len(self._wanted))
        return strip
