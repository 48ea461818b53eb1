"""The menu on `space`: a letter leads to a command, or to a further menu. It takes one key at a time.

Made from the registry's menu paths; what does not apply now is shown dimmed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from textual import events
from textual.app import ComposeResult
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.text import cut
from workbench import actions
from workbench.actions import Action

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

NAMES = {" ": "space"}
KEYS = {"space": " ", "enter": "\r", "escape": "", "backspace": ""}


def entries(prefix: str) -> dict[str, list[Action]]:
    """The next letters after `prefix`, and the actions behind each."""
    found: dict[str, list[Action]] = {}
    for action in actions.registry().values():
        if action.menu.startswith(prefix) and len(action.menu) > len(prefix):
            found.setdefault(action.menu[len(prefix)], []).append(action)
    return found


def title_of(behind: list[Action], prefix: str) -> str:
    """What an entry is called: the command, or the category that most of the commands behind it have."""
    if len(behind) == 1 and behind[0].menu == prefix:
        return behind[0].title
    return f"+{Counter(a.category for a in behind).most_common(1)[0][0].lower()}"


class WhichKey(ModalScreen[str | None]):
    """Returns the id of the chosen action, None after Escape."""

    DEFAULT_CSS = """
    WhichKey { align: left bottom; background: transparent; }
    WhichKey #menu { width: 100%; height: auto; max-height: 80%; background: $surface; border-top: solid $primary;
                     padding: 0 1; margin-bottom: 1; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self, prefix: str = "", applies: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.prefix, self.applies = prefix, applies

    def compose(self) -> ComposeResult:
        yield Static(id="menu", markup=False)

    def on_mount(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self._show()

    def _show(self) -> None:
        cells = []
        for letter, behind in entries(self.prefix).items():
            usable = any(a.id in self.applies for a in behind)
            cells.append((NAMES.get(letter, letter), title_of(behind, self.prefix + letter), usable))
        width = self.app.size.width - 2
        widest = min(max((len(k) + len(t) for k, t, _ in cells), default=0) + 5, max(26, width // 3))
        columns = max(1, width // widest)
        rows = -(-len(cells) // columns)
        parts: list = [("space " + " ".join(NAMES.get(c, c) for c in self.prefix), "bold"), "\n"]
        for row in range(rows):
            for key, title, usable in cells[row::rows]:
                parts += [
                    (f" {key} ", "bold $primary" if usable else "$text-disabled"),
                    (
                        f" {cut(title, widest - len(key) - 4):{widest - len(key) - 4}} ",
                        "" if usable else "$text-disabled",
                    ),
                ]
            parts.append("\n")
        self.query_one("#menu", Static).update(Content.assemble(*parts).rstrip("\n"))

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape":
            self.dismiss(None)
        elif event.key == "backspace":
            self.prefix = self.prefix[:-1]
            self._show()
        else:
            letter = KEYS.get(event.key, event.character or "")
            behind = entries(self.prefix).get(letter)
            if not behind:
                self.dismiss(None)
            elif len(behind) == 1 and behind[0].menu == self.prefix + letter:
                self.dismiss(behind[0].id)
            else:
                self.prefix += letter
                self._show()
