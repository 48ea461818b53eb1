"""Two texts compared, line by line: what is on disk, and what is in the editor."""

from __future__ import annotations

import difflib
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from engine.text import one_line

MOST = 2000
"""Lines of a comparison that are shown."""
_STYLES = {"-": "$text-error", "+": "$text-success", "@": "$text-muted bold"}


def compared(old: str, new: str, old_name: str, new_name: str) -> Content:
    """A unified diff for people. Not for the UI thread where the texts are long."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="", n=3))
    if not lines:
        return Content("The two are the same, but for line ends." if old != new else "The two are the same.")
    shown = [Content.styled(one_line(line), _STYLES.get(line[:1], "")) for line in lines[:MOST]]
    if len(lines) > MOST:
        shown.append(Content(f"… {len(lines) - MOST} more lines"))
    return Content("\n").join(shown)


class Compare(ModalScreen[str | None]):
    """A comparison with answers below it; returns the key of the one chosen, None after Escape."""

    BINDINGS: ClassVar = [
        ("escape,q", "dismiss(None)", "Back"),
        ("left,h", "app.focus_previous", "Previous"), ("right,l", "app.focus_next", "Next"),
        ("up,k", "scroll(-1)", "Up"), ("down,j", "scroll(1)", "Down"),
        ("pageup", "scroll(-15)", "Page up"), ("pagedown,space", "scroll(15)", "Page down"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    Compare .dialog { width: 110; max-width: 98%; height: 90%; margin-top: 1; }
    Compare VerticalScroll { height: 1fr; }
    Compare #diff { width: auto; height: auto; }
    """

    def __init__(self, title: str, diff: Content, answers: dict[str, str]) -> None:
        super().__init__()
        self.heading, self.diff, self.answers = title, diff, answers

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self.heading, markup=False)
            with VerticalScroll(can_focus=False):
                yield Static(self.diff, id="diff")
            with Horizontal(classes="buttons"):
                for key, text in self.answers.items():
                    yield Button(text, name=key, compact=True)
                yield Button("Back (Esc)", name="", compact=True)

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.name or None)
