"""The Problems list of the panel: mistakes in project files; Enter goes to the place."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.text import one_line
from workbench.models.problems import Problem, Problems
from workbench.widgets.list_keys import IN_LIST

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class ProblemsView(OptionList):
    """One line a problem."""

    BINDINGS: ClassVar = IN_LIST
    DEFAULT_CSS = """
    ProblemsView { height: 1fr; background: $surface; padding: 0 1; }
    ProblemsView, ProblemsView:focus { border: none; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def on_mount(self) -> None:
        self.shown: list[Problem] = []
        self.app.problems_changed.subscribe(self, self.show)
        self.show(self.app.problems)

    def show(self, problems: Problems) -> None:
        self.shown, before = list(problems), self.highlighted or 0
        self.clear_options()
        for p in self.shown:
            place = f"{p.uri.partition(':')[2]}:{p.line}:{p.column}"
            self.add_option(Option(Content(f"✗ {one_line(place)}  {one_line(p.text)}")))
        if self.shown:
            self.highlighted = min(before, len(self.shown) - 1)  # Enter goes somewhere without a key before it
        else:
            self.add_option(Option(Content("No problems."), disabled=True))
        self.app.workbench.panel.retitle("problems", f"PROBLEMS {len(self.shown)}" if self.shown else "PROBLEMS")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self.shown):
            problem = self.shown[event.option_index]
            self.app.open(problem.uri, place=(problem.line, problem.column))
