"""A field of a dialog that has one of a few values: left, right, space or a click go on to the next."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.text import one_line


class Cycle(Widget):
    """The value and a sentence about it.

    Args:
        values: value -> the sentence ("" for none).
    """

    DEFAULT_CSS = """
    Cycle { height: auto; width: 1fr; padding: 0 1; }
    Cycle:focus { background: $primary-muted; text-style: bold; }
    """
    BINDINGS: ClassVar = [
        Binding("right,l,space,enter", "step(1)", show=False), Binding("left,h", "step(-1)", show=False),
    ]  # fmt: skip
    can_focus = True
    value: reactive[str] = reactive("", layout=True)

    class Changed(Message):
        def __init__(self, cycle: Cycle, value: str) -> None:
            super().__init__()
            self.cycle, self.value = cycle, value

        @property
        def control(self) -> Cycle:
            return self.cycle

    def __init__(self, values: dict[str, str], value: str = "", id: str | None = None) -> None:
        super().__init__(id=id)
        self.values = values
        self.set_reactive(Cycle.value, value or next(iter(values)))

    def render(self) -> Content:
        left, right = ("<", ">") if getattr(self.app, "ascii", False) else ("\u2039", "\u203a")
        value = Content.assemble((f"{left} {one_line(self.value)} {right}", "bold"))
        sentence = self.values.get(self.value, "")
        return Content("\n").join([value, Content.styled(sentence, "$text-muted")]) if sentence else value

    def action_step(self, by: int) -> None:
        names = list(self.values)
        self.value = names[(names.index(self.value) + by) % len(names)]
        self.post_message(self.Changed(self, self.value))

    def on_click(self) -> None:
        self.focus()
        self.action_step(1)
