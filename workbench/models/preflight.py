"""Whether a run will fit: the estimate of `engine.estimate` against what is free now. Comes from: a project file and
the newest measurement of the machine. Goes to: the question before a run is started. Called in a thread: it reads files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.text import size
from workbench.models.machine import Machine

if TYPE_CHECKING:
    from engine.estimate import Estimate
    from engine.smaller import Change


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a run needs and what there is.

    Attributes:
        estimate: None where the base's shapes cannot be read; problem: why.
        free: bytes free where the run will work, None where that is not known; place: "GPU 0" or "RAM".
    """

    project: str
    estimate: Estimate | None
    problem: str
    free: int | None
    total: int | None
    place: str
    change: Change | None = None
    """What alone would make it fit, where it does not and there is such a thing."""

    @property
    def fits(self) -> bool | None:
        """Whether the estimate is at most what is free; None where either is not known."""
        if self.estimate is None or self.free is None:
            return None
        return self.estimate.total <= self.free

    @property
    def line(self) -> str:
        """ "needs about 1.2 GB of 21.9 GB free RAM"."""
        if self.estimate is None:
            return f"memory not known: {self.problem}"
        free = "" if self.free is None else f" of {size(self.free)} free on {self.place}"
        return f"needs about {size(self.estimate.total)}{free}"


def assess(root: Path, project: str, machine: Machine) -> Preflight:
    """The estimate for a project of the workspace `root`.

    Raises:
        InputError: there is no such project, or its file has mistakes.
    """
    from engine import estimate, smaller
    from engine.errors import InputError
    from engine.store import Workspace

    workspace = Workspace(root)
    table = workspace.project(project).load()
    gpu = card_of(table.launch.device, machine)
    place, free, total = ("RAM", machine.ram_free, machine.ram_total)
    if gpu is not None:
        place, free, total = gpu.label, gpu.free, gpu.total
    device = "cuda" if gpu is not None else "cpu"
    try:
        found = estimate.of_project(table, workspace, device)
        too_much = free is not None and found.total > free
        change = smaller.that_fits(table, workspace, device, free) if too_much else None
    except InputError as error:
        return Preflight(project, None, error.problem, free, total, place)
    return Preflight(project, found, "", free, total, place, change)


def card_of(device: str, machine: Machine):
    """The GPU on which a run with this `launch.device` works; None: it works on the CPU."""
    if device == "cpu" or not machine.gpus:
        return None
    number = int(device.partition(":")[2] or -1)
    if number < 0:
        return machine.gpus[0]
    return next((g for g in machine.gpus if g.index == number), machine.gpus[0])
