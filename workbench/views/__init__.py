"""What stands in the side bar, one at a time; imported when first shown."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from textual.widget import Widget


@dataclass(frozen=True, slots=True)
class View:
    """A side-bar view: its letter in the activity bar, its title, its class."""

    letter: str
    title: str
    path: str

    def make(self) -> Widget:
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)()


VIEWS = {
    "explorer": View("E", "EXPLORER", "workbench.views.explorer:Explorer"),
    "runs": View("R", "RUNS", "workbench.views.runs:Runs"),
    "learn": View("L", "LEARN", "workbench.views.topics:Topics"),
}
