"""The narrow column at the left: a letter a side-bar view."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from workbench.views import VIEWS


class ActivityBar(Widget):
    """Letters of the views; the one that is shown is marked."""

    DEFAULT_CSS = """
    ActivityBar { width: 4; height: 1fr; background: $panel; color: $text-muted; padding: 0 1 0 1; }
    """

    view: reactive[str] = reactive("explorer")

    class Chosen(Message):
        def __init__(self, view: str) -> None:
            super().__init__()
            self.view = view

    def render(self) -> Content:
        rows = [(f"{v.letter} \n", "bold reverse" if name == self.view else "") for name, v in VIEWS.items()]
        return Content.assemble(*rows)

    def on_click(self, event: events.Click) -> None:
        names = list(VIEWS)
        if 0 <= event.y < len(names):
            self.post_message(self.Chosen(names[event.y]))
