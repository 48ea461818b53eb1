"""The keyboard doctor: press a key, see under which name it arrives and what it does here; clashes of the key map."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from workbench import actions, keymap

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

KEPT = 8


class KeyboardDoctor(ModalScreen[None]):
    """Every key is shown as it arrives; Escape twice closes."""

    RAW_KEYS: ClassVar = True  # see `keys.Keys`
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self) -> None:
        super().__init__()
        self.pressed: list[str] = []
        self._escaped = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(id="doctor", markup=False)

    def on_mount(self) -> None:
        self._show()

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        if event.key == "escape" and self._escaped:
            self.dismiss(None)
            return
        self._escaped = event.key == "escape"
        known = self.app.settings.keys
        does = [a.name for a in actions.registry().values() if event.key in keymap.keys_of(a, known)]
        warning = f"  ({keymap.UNRELIABLE[event.key]})" if event.key in keymap.UNRELIABLE else ""
        self.pressed.append(f"{event.key:24} {'; '.join(does) or 'nothing is bound to it'}{warning}")
        self._show()

    def _show(self) -> None:
        problems = keymap.problems(self.app.settings.keys) or ["none"]
        where = ", ".join(f"{n}={os.environ[n]}" for n in ("TERM", "COLORTERM", "TMUX", "SSH_TTY") if os.environ.get(n))
        lines = ["Keyboard doctor: press any key; Escape twice closes.", "", f"terminal: {where or 'unknown'}", ""]
        lines += self.pressed[-KEPT:] or ["(no key yet)"]
        lines += ["", "Clashes and mistakes in the key map:", *(f"  {p}" for p in problems)]
        if os.environ.get("TMUX"):
            lines += [
                "",
                "In tmux: `set -sg escape-time 10` makes Escape quick; `set -g set-clipboard on` lets copies out.",
            ]
        self.query_one("#doctor", Static).update("\n".join(lines))
