"""What actions do that belong to no single widget: an object a theme, with a method `act_ID` for each of its actions.

They are asked last (see `WorkbenchApp.targets`). They read `app.snapshot` and `app.project`, open tabs, start jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class Commands:
    """Base of the command objects."""

    def __init__(self, app: WorkbenchApp) -> None:
        self.app = app

    @property
    def project(self) -> str:
        """The project that a command is about.

        Raises:
            LookupError: there is none.
        """
        if not self.app.project:
            raise LookupError("there is no project yet: make one with New project (space p n)")
        return self.app.project


def command_objects(app: WorkbenchApp) -> list[Any]:
    from workbench.commands.evaluation import EvaluationCommands
    from workbench.commands.layout import LayoutCommands
    from workbench.commands.machine import MachineCommands
    from workbench.commands.opening import OpeningCommands
    from workbench.commands.projects import ProjectCommands
    from workbench.commands.runs import RunCommands
    from workbench.commands.system import SystemCommands

    kinds = (
        EvaluationCommands, LayoutCommands, MachineCommands, OpeningCommands, ProjectCommands, RunCommands, SystemCommands,
    )  # fmt: skip
    return [c(app) for c in kinds]
