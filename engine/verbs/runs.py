"""`loraworkbench runs`: every run, how far it is, and the command that goes on with it."""

from __future__ import annotations

from typing import Any

from engine.console import Console, amount
from engine.store import ProjectFolder, Run, RunState, Workspace, age


def chosen(workspace: Workspace, project_name: str | None) -> list[ProjectFolder]:
    """The project of that name, or all of them.

    Raises:
        InputError: there is no such project.
    """
    return workspace.projects() if project_name is None else [workspace.project(project_name)]


def run(workspace: Workspace, project_name: str | None, console: Console) -> dict[str, Any]:
    """Print the runs of one project or of all, the oldest first.

    Returns:
        {"runs": [{run, project, number, path, state, verb, step, steps, loss, started, seen, problem, next}]};
        `started` and `seen` (first and last event) in seconds since the epoch.

    Raises:
        InputError: there is no such project.
    """
    projects = chosen(workspace, project_name)
    found = [(each, each.state()) for folder in projects for each in folder.runs()]
    if not found:
        names = [folder.name for folder in projects]
        hint = f"`loraworkbench train {names[0]}` starts one" if names else "`loraworkbench new NAME` makes a project"
        console.say(f"no runs yet; {hint}")
    else:
        headers = ["run", "state", "step", "loss", "started", "next"]
        console.table(headers, [_row(each, state) for each, state in found], "<<>>><")
        for each, state in found:
            if state.problem:
                console.say(f"\n{each.label} failed: {state.problem}")
    return {"runs": [_document(each, state) for each, state in found]}


def next_command(run: Run, state: RunState) -> str:
    """What a person would do with a run in this state."""
    project, number = run.label.split("/")
    if state.state == "running":
        return f"loraworkbench watch {run.label}"
    if state.state == "done":
        return f"loraworkbench eval {project} --adapter {int(number)}"
    if state.state == "empty":
        return f"loraworkbench train {project}"
    return f"loraworkbench train {project} --resume {int(number)}"


def _row(run: Run, state: RunState) -> list[str]:
    step = "-" if state.step is None else f"{state.step}/{state.steps}"
    started = "-" if state.started is None else f"{age(state.started)} ago"
    return [run.label, state.state, step, amount(state.loss, ".3f"), started, next_command(run, state)]


def _document(run: Run, state: RunState) -> dict[str, Any]:
    return {
        "run": run.label,
        "project": run.label.split("/")[0],
        "number": int(run.path.name),
        "path": run.path,
        "state": state.state,
        "verb": state.verb,
        "step": state.step,
        "steps": state.steps,
        "loss": state.loss,
        "started": state.started,
        "seen": state.seen,
        "problem": state.problem,
        "next": next_command(run, state),
    }
