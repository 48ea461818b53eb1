"""THE registry of commands. Footer, palette, which-key menu, help, key map, keyboard clashes and the README's table
are all made from it.

An action is data; what it does is the method `act_ID` (dots and dashes as underscores) of the nearest object that has
one: the focused widget and what stands around it, the active editor, then the command objects of `workbench.commands`.
Where that object also has `may_ID`, it says whether the action applies now. So an action applies exactly where
something can do it, and no list of conditions is kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Action:
    """One command.

    Attributes:
        id: "category.verb", the name in the user's key map.
        title: a verb and its object, as the palette shows it after the category.
        category: "Run", "View", ...
        keys: accelerators, comma-separated names of Textual ("ctrl+s,f2"); printable ones work outside text fields.
        menu: letters after `space` that lead to it ("rs"), the route that survives every terminal.
        scope: "global", or the scope name of the widgets that its keys belong to (see `bindings`).
        about: a sentence for the help.
        hint: shown in the status bar's key hints while it applies.
    """

    id: str
    title: str
    category: str
    keys: str = ""
    menu: str = ""
    scope: str = GLOBAL
    about: str = ""
    hint: bool = False

    @property
    def method(self) -> str:
        """ "run.start" -> "run_start": what follows `act_` and `may_`."""
        return self.id.replace(".", "_").replace("-", "_")

    @property
    def name(self) -> str:
        return f"{self.category}: {self.title}"


@cache
def registry() -> dict[str, Action]:
    """All actions by id, in the order in which they are shown.

    Raises:
        ValueError: two have the same id or menu path.
    """
    from workbench.actions import adapters, compare, data, editing, evaluation, files, layout, learning, runs, system

    modules = (files, editing, data, runs, evaluation, adapters, compare, learning, layout, system)
    found: dict[str, Action] = {}
    menus: dict[str, str] = {}
    for action in (a for module in modules for a in module.ACTIONS):
        if action.id in found:
            raise ValueError(f"two actions are called {action.id}")
        if action.menu and action.menu in menus:
            raise ValueError(f"{action.id} and {menus[action.menu]} have the menu path {action.menu!r}")
        found[action.id] = action
        menus[action.menu] = action.id
    return found


def of_scope(scope: str) -> list[Action]:
    return [a for a in registry().values() if a.scope == scope]


def bindings(scope: str) -> list:
    """Textual bindings of a scope, for `BINDINGS` of a widget class; the user's key map finds them by id."""
    from textual.binding import Binding

    return [
        Binding(
            a.keys, f"app.do({a.id!r})", a.title, id=a.id, show=a.hint, priority=scope == GLOBAL and _always(a.keys)
        )
        for a in of_scope(scope)
        if a.keys
    ]


def _always(keys: str) -> bool:
    """Whether keys come before those of the focused widget: none is a character that it may take (but `space`, which
    lists would take to choose what Enter chooses, too; the app lets it through to text fields)."""
    return keys == "space" or not _plain(keys)


def _plain(keys: str) -> bool:
    """Whether one of the keys is a character that text fields take."""
    return any(len(key) == 1 or key in NAMED_CHARACTERS for key in keys.split(","))


NAMED_CHARACTERS = {
    "space", "colon", "question_mark", "left_square_bracket", "right_square_bracket", "less_than_sign",
    "greater_than_sign", "slash", "plus", "minus", "equals_sign", "full_stop", "comma", "enter", "escape", "tab",
    "up", "down", "left", "right", "home", "end", "pageup", "pagedown", "delete", "backspace",
}  # fmt: skip


def categories(actions: Iterable[Action]) -> list[str]:
    """Categories in the order in which they first come."""
    return list(dict.fromkeys(a.category for a in actions))
