"""A line of tabs: titles, a mark for unsaved ones, the one in front; clicked or wheeled."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.text import cut, one_line

WIDEST = 28


@dataclass(frozen=True, slots=True)
class Tab:
    """One tab; `key` is what its messages name."""

    key: str
    title: str
    dirty: bool = False


class TabStrip(Widget):
    """Tabs in one row. The one in front is always in sight."""

    DEFAULT_CSS = """
    TabStrip { height: 1; width: 1fr; background: $panel; color: $text-muted; }
    """

    tabs: reactive[tuple[Tab, ...]] = reactive(())
    front: reactive[str] = reactive("")

    class Chosen(Message):
        """A tab was clicked (`close`: with the middle button)."""

        def __init__(self, strip: TabStrip, key: str, close: bool = False) -> None:
            super().__init__()
            self.strip, self.key, self.close = strip, key, close

        @property
        def control(self) -> TabStrip:
            return self.strip

    def _labels(self) -> list[tuple[Tab, str]]:
        mark = "*" if getattr(self.app, "ascii", False) else "●"
        return [(t, f" {cut(one_line(t.title), WIDEST)}{f' {mark}' if t.dirty else ''} ") for t in self.tabs]

    def _first(self) -> int:
        """How many tabs are left out at the left so that the one in front is seen whole."""
        labels = self._labels()
        keys = [t.key for t, _ in labels]
        if self.front not in keys:
            return 0
        at, first = keys.index(self.front), 0
        while first < at and sum(Content(label).cell_length for _, label in labels[first : at + 1]) > self.size.width:
            first += 1
        return first

    def render(self) -> Content:
        parts = []
        for tab, label in self._labels()[self._first() :]:
            parts.append((label, "bold $text on $primary" if tab.key == self.front else ""))
        return Content.assemble(*parts) if parts else Content("")

    def on_click(self, event: events.Click) -> None:
        x = event.x
        for tab, label in self._labels()[self._first() :]:
            x -= Content(label).cell_length
            if x < 0:
                self.post_message(self.Chosen(self, tab.key, close=event.button == 2))
                return
