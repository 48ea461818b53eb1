"""Boxes to check in a dialog: space or `x` checks, Enter is done with the dialog. What is checked shows without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option


@dataclass(frozen=True, slots=True)
class Box:
    """A line with a box: what it stands for, and whether it is checked at first."""

    key: str
    text: Content | str
    checked: bool = False


class Checks(OptionList):
    """`selected`: keys of the checked boxes, in the order of the list."""

    BINDINGS: ClassVar = [
        Binding("space,x", "check", show=False, priority=True), Binding("enter", "submit", show=False, priority=True),
        Binding("j", "cursor_down", show=False), Binding("k", "cursor_up", show=False),
    ]  # fmt: skip
    DEFAULT_CSS = """
    Checks, Checks:focus { height: auto; max-height: 8; border: none; padding: 0; background: $surface; width: 1fr; }
    """

    class Submitted(Message):
        """Enter."""

    class Changed(Message):
        """A box was checked, or not any more."""

    def __init__(self, boxes: Sequence[Box], id: str | None = None) -> None:
        self.boxes = list(boxes)
        self.checked = {b.key for b in boxes if b.checked}
        super().__init__(*(Option(self._line(b)) for b in self.boxes), id=id)

    @property
    def selected(self) -> list[str]:
        return [b.key for b in self.boxes if b.key in self.checked]

    def _line(self, box: Box) -> Content:
        text = Content(box.text) if isinstance(box.text, str) else box.text
        return Content("[x] " if box.key in self.checked else "[ ] ") + text

    def action_check(self) -> None:
        if self.highlighted is not None and self.boxes:
            self.checked ^= {self.boxes[self.highlighted].key}
            self.replace_option_prompt_at_index(self.highlighted, self._line(self.boxes[self.highlighted]))
            self.post_message(self.Changed())

    def action_submit(self) -> None:
        self.post_message(self.Submitted())

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()  # a click
        self.action_check()

    def on_focus(self) -> None:
        if self.highlighted is None and self.boxes:
            self.highlighted = 0
