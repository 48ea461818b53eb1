"""Help for what is focused: its own words, its keys, then the keys that always hold. All keys from the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from workbench import actions
from workbench.actions import GLOBAL, Action
from workbench.keymap import keys_of

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

SHOWN = {
    "question_mark": "?", "colon": ":", "left_square_bracket": "[", "right_square_bracket": "]", "backslash": "\\",
    "less_than_sign": "<", "greater_than_sign": ">", "slash": "/", "full_stop": ".", "comma": ",", "minus": "-",
    "plus": "+", "equals_sign": "=", "pagedown": "pgdn", "pageup": "pgup", "underscore": "_", "asterisk": "*",
    "number_sign": "#", "at": "@", "exclamation_mark": "!",
}  # fmt: skip


def key_name(key: str) -> str:
    """ "ctrl+right_square_bracket" -> "ctrl+]"."""
    return "+".join(SHOWN.get(part, part) for part in key.split("+"))


def keys_text(action: Action, keymap: dict[str, str]) -> str:
    """The keys of an action as they are written for people: "ctrl+p, F2"."""
    names = (key_name(k) for k in keys_of(action, keymap))
    return ", ".join(n.upper() if n[:1] == "f" and n[1:].isdigit() else n for n in names)


def menu_text(action: Action) -> str:
    """ "space r r", "" where no menu leads there."""
    return " ".join(["space", *("space" if c == " " else c for c in action.menu)]) if action.menu else ""


def key_table(listed: Iterable[Action], keymap: dict[str, str]) -> str:
    """A line an action, aligned: keys, menu path, title, what it is about."""
    rows = [(keys_text(a, keymap), menu_text(a), a.title + (f": {a.about}" if a.about else "")) for a in listed]
    rows = [r for r in rows if r[0] or r[1]]
    widths = [max((len(r[i]) for r in rows), default=0) for i in (0, 1)]
    return "\n".join(f"  {k:{widths[0]}}  {m:{widths[1]}}  {text}" for k, m, text in rows)


class Help(ModalScreen[None]):
    """Scrolls with arrows, j/k, space; Escape, q or F1 close it."""

    BINDINGS: ClassVar = [
        ("escape,q,f1,question_mark", "dismiss(None)", "Close"),
        ("j,down", "scroll(1)", "Down"),
        ("k,up", "scroll(-1)", "Up"),
        ("space,pagedown", "scroll(10)", "Page down"),
        ("b,pageup", "scroll(-10)", "Page up"),
    ]
    DEFAULT_CSS = """
    Help .dialog { width: 100; height: auto; }
    Help VerticalScroll { height: auto; max-height: 100%; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self, heading: str, about: str, scopes: tuple[str, ...]) -> None:
        super().__init__()
        self.heading, self.about, self.scopes = heading, about, scopes

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"), VerticalScroll():
            yield Static(self.text(), markup=False)

    def text(self) -> str:
        keymap = self.app.settings.keys
        parts = [self.heading, ""] + ([self.about, ""] if self.about else [])
        for scope in self.scopes:
            parts += [f"Keys of {scope}", key_table(actions.of_scope(scope), keymap), ""]
        everywhere = actions.of_scope(GLOBAL)
        for category in actions.categories(everywhere):
            parts += [category, key_table([a for a in everywhere if a.category == category], keymap), ""]
        return "\n".join(parts).rstrip()

    def action_scroll(self, by: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)
