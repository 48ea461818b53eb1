"""A line above a text that says something and offers answers, without taking the focus from it."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Static

from engine.text import one_line
from workbench.widgets.find_bar import Chip


class Banner(Horizontal):
    """Hidden until `say`; Tab reaches the answers."""

    DEFAULT_CSS = """
    Banner { height: auto; width: 1fr; display: none; background: $warning-muted; color: $text; }
    Banner.-shown { display: block; layout: horizontal; }
    Banner > #said { width: 1fr; height: auto; padding: 0 1; }
    Banner > Chip { color: $text; text-style: underline; }
    """

    class Answered(Message):
        """One of the answers was given: `topic` and `answer` as `say` had them."""

        def __init__(self, topic: str, answer: str) -> None:
            super().__init__()
            self.topic, self.answer = topic, answer

    def __init__(self) -> None:
        super().__init__()
        self.topic = ""

    def compose(self) -> ComposeResult:
        yield Static(id="said", markup=False)

    async def say(self, topic: str, text: str, answers: dict[str, str] | None = None) -> None:
        """Show `text` with answers (key -> words); what was shown before goes."""
        self.topic = topic
        await self.query(Chip).remove()
        sign = "! " if getattr(self.app, "ascii", False) else "⚠ "
        self.query_one("#said", Static).update(sign + one_line(text))
        await self.mount(*(Chip(words, name=key) for key, words in (answers or {}).items()))
        self.add_class("-shown")

    def hush(self, topic: str = "") -> None:
        """Hide it, where it is about `topic` (or whatever it is about)."""
        if not topic or self.topic == topic:
            self.topic = ""
            self.remove_class("-shown")

    @on(Chip.Pressed)
    def _pressed(self, event: Chip.Pressed) -> None:
        event.stop()
        self.post_message(self.Answered(self.topic, event.chip.name or ""))
