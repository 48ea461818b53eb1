"""The first tab: where to begin."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from workbench import actions
from workbench.editors.base import Editor

FIRST = ("project.new", "project.open", "data.open", "run.start", "run.open", "compare.open", "eval.open", "adapters.open",
         "learn.open", "app.quick-open", "app.help")  # fmt: skip


class Welcome(Editor):
    """The commands that one begins with, and their keys."""

    HELP = (
        "Press space for the menu of all commands, ctrl+p or F2 to open anything, F1 for the keys of what is focused."
    )
    DEFAULT_CSS = "Welcome Static { padding: 1 3; width: auto; }"
    can_focus = True

    def compose(self) -> ComposeResult:
        yield Static(id="text", markup=False)

    def on_mount(self) -> None:
        self.heading = "Welcome"
        rows = [actions.registry()[name] for name in FIRST]
        width = max(len(a.title) for a in rows)
        lines = ["LoRA Workbench", ""]
        for a in rows:
            menu = "space " + " ".join("space" if m == " " else m for m in a.menu)
            lines.append(f"  {a.title:{width}}   {menu:<14}{a.keys.replace(',', ', ')}")
        self.query_one("#text", Static).update("\n".join(lines))
