"""Jump labels: a letter on everything that takes the focus, and on every tab; one key goes there."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Static

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

LETTERS = "asdfghjklqwertyuiopzxcvbnm"
assert sorted(LETTERS) == sorted(ascii_lowercase)


class Jump(ModalScreen[Widget | None]):
    """Returns the widget whose label was pressed."""

    DEFAULT_CSS = """
    Jump { background: transparent; align: left top; layers: labels; }
    Jump .label { layer: labels; width: 3; height: 1; background: $warning; color: $background; text-style: bold; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self, targets: list[Widget]) -> None:
        super().__init__()
        self.targets = dict(zip(LETTERS, targets, strict=False))

    def compose(self) -> ComposeResult:
        for letter, widget in self.targets.items():
            label = Static(f" {letter} ", classes="label", markup=False)
            label.styles.position = "absolute"
            label.styles.offset = (widget.region.x, widget.region.y)
            yield label

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss(self.targets.get(event.key))


def focusable(screen) -> list[Widget]:
    """What can be jumped to: visible, takes the focus, from top left to bottom right."""
    found = [
        w
        for w in screen.query("*")
        if w.focusable
        and w.region.area
        and not any(p.can_focus and p is not screen for p in w.ancestors if isinstance(p, Widget))
    ]
    return sorted(found, key=lambda w: (w.region.y, w.region.x))
