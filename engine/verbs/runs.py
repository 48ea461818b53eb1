"""`loraworkbench runs`: every run, how far it is, and the command that goes on with it."""

from __future__ import annotations

import time
from typing import Any

from engine.console import Console, amount
from engine.store import ProjectFolder, Run, RunState, Workspace
from engine.text import age


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


def jobs(workspace: Workspace, project_name: str | None, console: Console) -> dict[str, Any]:
    """Print the detached evaluations and merges of one project or of all, the oldest first.

    Returns:
        {"jobs": [{job, project, number, path, verb, arguments, state, started, seen, problem, next}]}; as in `run`.

    Raises:
        InputError: there is no such project.
    """
    found = [(job, job.state()) for folder in chosen(workspace, project_name) for job in folder.jobs()]
    rows, documents = [], []
    for job, state in found:
        verb, arguments = job.ordered()
        started = "-" if state.started is None else f"{age(time.time() - state.started)} ago"
        follow = job.result if state.state == "done" else f"loraworkbench watch {job.label}"
        rows.append([job.label, verb, state.state, started, str(follow)])
        documents.append(
            {
                "job": job.label, "project": job.project_path.name, "number": int(job.path.name), "path": job.path,
                "verb": verb, "arguments": arguments, "state": state.state, "started": state.started,
                "seen": state.seen, "problem": state.problem, "next": str(follow),
            }
        )  # fmt: skip
    if rows:
        console.table(["job", "verb", "state", "started", "next"], rows, "<<<><")
        for job, state in found:
            if state.problem:
                console.say(f"\n{job.label} failed: {state.problem}")
    else:
        console.say("no jobs yet; `loraworkbench eval PROJECT --detach` starts one")
    return {"jobs": documents}


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
    started = "-" if state.started is None else f"{age(time.time() - state.started)} ago"
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
