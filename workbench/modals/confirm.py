"""Small questions: yes or no, one of several answers, a line of text."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static


class Choose(ModalScreen[str | None]):
    """A question with answers; returns the key of the one chosen, None after Escape.

    The first letter of an answer chooses it, so do arrows and Enter; the first answer has the focus.

    Args:
        answers: key -> what the button says.
    """

    BINDINGS: ClassVar = [
        ("escape", "dismiss(None)", "Cancel"),
        ("left,up,h,k", "app.focus_previous", "Previous"),
        ("right,down,l,j", "app.focus_next", "Next"),
    ]

    def __init__(self, question: str, answers: dict[str, str]) -> None:
        super().__init__()
        self.question, self.answers = question, answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self.question, markup=False)
            with Horizontal(classes="buttons"):
                for number, (key, text) in enumerate(self.answers.items()):
                    yield Button(text, id=f"answer-{number}", name=key, compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.name)

    def on_key(self, event: events.Key) -> None:
        for key, text in self.answers.items():
            if event.character and text.lower().startswith(event.character.lower()):
                event.stop()
                self.dismiss(key)
                return


class Confirm(ModalScreen[bool]):
    """Yes or no: `y` and `n`, or arrows and Enter. "No" has the focus."""

    BINDINGS: ClassVar = [
        ("escape,n", "dismiss(False)", "No"),
        ("y", "dismiss(True)", "Yes"),
        ("left,up,h,k", "app.focus_previous", "Previous"),
        ("right,down,l,j", "app.focus_next", "Next"),
    ]

    def __init__(self, question: str, yes: str = "Yes", no: str = "No") -> None:
        super().__init__()
        self.question, self.yes, self.no = question, yes, no

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self.question, markup=False)
            with Horizontal(classes="buttons"):
                yield Button(f"{self.no} (n)", id="no", compact=True)
                yield Button(f"{self.yes} (y)", id="yes", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


class AskLine(ModalScreen[str | None]):
    """One line of text; returns it, None after Escape.

    Args:
        check: what is wrong with a text, or None; what is wrong is shown, and Enter does nothing.
    """

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Cancel")]

    def __init__(self, question: str, value: str = "", check=lambda text: None) -> None:
        super().__init__()
        self.question, self.value, self.check = question, value, check

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self.question, markup=False)
            yield Input(self.value)
            yield Static("", classes="wrong", markup=False)

    def on_mount(self) -> None:
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.query_one(".wrong", Static).update(self.check(event.value) or "")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self.check(event.value) is None:
            self.dismiss(event.value)
