"""One of many: a list that is narrowed by typing."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.text import cut, one_line

MOST_SHOWN = 300


class Pick(ModalScreen[int | None]):
    """Returns the place of the chosen one in `texts`, None after Escape."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Cancel")]
    DEFAULT_CSS = """
    Pick OptionList { height: auto; max-height: 16; border: none; background: $surface; padding: 0; scrollbar-size: 1 1; }
    """

    def __init__(self, question: str, texts: list[str], chosen: int = 0) -> None:
        super().__init__()
        self.question, self.texts, self.chosen = question, texts, chosen

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self.question, markup=False)
            yield Input(placeholder="type to find", compact=True)
            yield OptionList()

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self._fill("")
        if 0 <= self.chosen < MOST_SHOWN:
            self.query_one(OptionList).highlighted = self.chosen

    def _fill(self, wanted: str) -> None:
        words, options = wanted.casefold().split(), self.query_one(OptionList)
        options.clear_options()
        fitting = [n for n, t in enumerate(self.texts) if all(w in t.casefold() for w in words)][:MOST_SHOWN]
        options.add_options([Option(Content(cut(one_line(self.texts[n]), 68)), id=str(n)) for n in fitting])
        options.highlighted = 0 if fitting else None

    def on_input_changed(self, event: Input.Changed) -> None:
        self._fill(event.value)

    def on_key(self, event: events.Key) -> None:
        options = self.query_one(OptionList)
        moves = {"down": options.action_cursor_down, "up": options.action_cursor_up,
                 "pagedown": options.action_page_down, "pageup": options.action_page_up}  # fmt: skip
        if event.key in moves:
            event.stop()
            moves[event.key]()

    def on_input_submitted(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is not None:
            self.dismiss(int(options.get_option_at_index(options.highlighted).id or 0))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(int(event.option_id or 0))
