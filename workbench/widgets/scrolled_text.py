"""A text to read, scrolled by keys."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static


class ScrolledText(VerticalScroll):
    """Nothing in the text is taken for markup."""

    BINDINGS: ClassVar = [("j", "scroll_down"), ("k", "scroll_up"), ("g", "scroll_home"), ("G", "scroll_end")]
    DEFAULT_CSS = """
    ScrolledText { height: 1fr; width: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }
    ScrolledText > Static { width: 1fr; height: auto; }
    """

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def put(self, text: Content) -> None:
        self.query_one(Static).update(text)
