"""The box that prompts are typed in: Enter sends, ctrl+j begins a new line, ctrl+up and ctrl+down bring back earlier ones.

It is never emptied by anybody but the one who took its text (`take`), so that nothing typed is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import TextArea

from workbench import actions
from workbench.models.text_buffer import showable

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

HELD = {"enter", "ctrl+j", "tab", "shift+tab"}
"""Keys that a text area would take and that mean something else here."""


class PromptBox(TextArea):
    """One to six lines high."""

    SCOPES: ClassVar = ("prompt",)
    BINDINGS: ClassVar = actions.bindings("prompt")
    DEFAULT_CSS = """
    PromptBox { height: auto; min-height: 3; max-height: 8; width: 1fr; min-width: 12; padding: 0 1; background: $surface;
                border: none; border-top: solid $panel-lighten-2; }
    PromptBox:focus { border: none; border-top: solid $primary; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Left(Message):
        """The user goes back to the columns."""

    def __init__(self, placeholder: str = "") -> None:
        super().__init__(soft_wrap=True, show_line_numbers=False, tab_behavior="focus", placeholder=placeholder)
        self.earlier: list[str] = []
        self._at = 0
        self._draft = ""

    def take(self) -> str:
        """The text, which goes: it is kept among the earlier ones."""
        text = self.text
        if text and text not in self.earlier[-1:]:
            self.earlier.append(text)
        self._at, self._draft = len(self.earlier), ""
        self.text = ""
        return text

    def put(self, text: str) -> None:
        """Replace the text; the cursor goes to its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def recall(self, by: int) -> None:
        """Bring back the earlier (-1) or later (1) prompt; after the last one comes what was typed."""
        if self._at >= len(self.earlier):
            self._draft = self.text
        at = min(len(self.earlier), max(0, self._at + by))
        if at != self._at:
            self._at = at
            self.put(self.earlier[at] if at < len(self.earlier) else self._draft)

    def get_line(self, line_index: int) -> Text:
        """A line as it is shown: nothing in it acts on the terminal."""
        return Text(showable(self.document.get_line(line_index), ascii=self.app.ascii), end="", no_wrap=True)

    async def _on_key(self, event: events.Key) -> None:
        if event.key in HELD:  # to the bindings, and not into the text
            event.prevent_default()

    def act_prompt_leave(self) -> None:
        self.post_message(self.Left())

    def act_prompt_newline(self) -> None:
        self.insert("\n")

    def act_prompt_older(self) -> None:
        self.recall(-1)

    def act_prompt_newer(self) -> None:
        self.recall(1)
