"""The inspector at the right: what the editor in front says of what is under the cursor, and the machine."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from workbench.widgets.machine_section import MachineSection


class Inspector(VerticalScroll):
    """Sections, one below the other; the first is the editor's."""

    DEFAULT_CSS = """
    Inspector { width: 40; height: 1fr; background: $surface; border-left: solid $panel-lighten-2; padding: 0 1; }
    Inspector > .title { height: 1; color: $text-muted; text-style: bold; }
    Inspector:focus-within > .title, Inspector:focus > .title { color: $text; }
    Inspector > #inspected { height: auto; margin-bottom: 1; }
    """

    def compose(self) -> ComposeResult:
        yield Static("4 INSPECTOR", classes="title", markup=False)
        yield Static(id="inspected", markup=False)
        yield MachineSection()

    def inspect(self, content: Content | None) -> None:
        self.query_one("#inspected", Static).update(content or Content(""))

    def focus_first(self) -> None:
        self.focus()
