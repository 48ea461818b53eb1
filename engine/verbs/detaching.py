"""What `eval --detach` and `merge --detach` have in common: a job folder, the command line that works in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.console import Console
from engine.jobs import detached
from engine.store import ProjectFolder, Workspace


def options(*given: tuple[str, Iterable[Any] | None]) -> list[str]:
    """Options of a command line: [("--weight", [1.0, 0.5])] -> ["--weight=1.0", "--weight=0.5"]."""
    return [f"{name}={value}" for name, values in given for value in values or ()]


def start_job(
    workspace: Workspace, folder: ProjectFolder, verb: str, arguments: list[str], console: Console
) -> dict[str, Any]:
    """Make the next job folder of a project and start the verb in it (see `detached.start`).

    Raises:
        WorkFailed: it ended at once.
    """
    job = folder.new_job(verb, arguments)
    command = [verb, str(folder.path), *arguments, f"--job={int(job.path.name)}"]
    return detached.start(workspace, job, command, console)
