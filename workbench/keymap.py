"""The user's key map: what is wrong with it, and which keys clash.

Keys are given to Textual by the actions' ids (`App.set_keymap`); here they are only judged.
"""

from __future__ import annotations

from workbench import actions
from workbench.actions import GLOBAL, Action

UNRELIABLE = {
    "ctrl+i": "arrives as Tab", "ctrl+m": "arrives as Enter", "ctrl+h": "arrives as Backspace",
    "ctrl+left_square_bracket": "arrives as Escape", "ctrl+enter": "does not arrive in tmux",
    "alt+enter": "arrives as Enter", "shift+enter": "arrives as Enter in most terminals",
    "ctrl+tab": "is kept by most terminals",
}  # fmt: skip
"""Keys that a terminal over SSH or tmux does not deliver, and what becomes of them."""
NEEDED = ("app.quit", "app.commands")


def keys_of(action: Action, keymap: dict[str, str]) -> list[str]:
    """The keys of an action under a key map."""
    return [k for k in keymap.get(action.id, action.keys).split(",") if k]


def clashes(keymap: dict[str, str]) -> list[tuple[str, str, str]]:
    """(key, action id, action id) for each pair that would fight for a key: in one scope, or a scope and `global`."""
    found = []
    everything = list(actions.registry().values())
    for number, first in enumerate(everything):
        for second in everything[number + 1 :]:
            if first.scope == second.scope or (
                GLOBAL in (first.scope, second.scope) and _shadowed(first, second, keymap)
            ):
                shared = set(keys_of(first, keymap)) & set(keys_of(second, keymap))
                found += [(key, first.id, second.id) for key in sorted(shared)]
    return found


def _shadowed(first: Action, second: Action, keymap: dict[str, str]) -> bool:
    """A view's key that hides a global one is meant where it is the default; it is told where the user made it."""
    return first.id in keymap or second.id in keymap


def problems(keymap: dict[str, str]) -> list[str]:
    """What is wrong with a key map, in sentences."""
    import difflib

    known = actions.registry()
    found = []
    for name, keys in keymap.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            found.append(f"[keys] {name}: no such action" + (f"; did you mean {close[0]}?" if close else ""))
            continue
        for key in keys.split(","):
            if key in UNRELIABLE:
                found.append(f"[keys] {name}: {key} {UNRELIABLE[key]}")
    found += [f"[keys] {key} is given to both {a} and {b}" for key, a, b in clashes(keymap)]
    for needed in NEEDED:
        if not keys_of(known[needed], keymap):
            found.append(f"[keys] {needed} has no key: it stays reachable through the menu (space) only")
    return found
