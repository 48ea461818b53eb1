"""`loraworkbench session`: hold a project's base; answer prompts, train and measure for any number of clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import events
from engine.console import Console
from engine.control import stop_requests
from engine.jobs import work
from engine.store import Workspace
from engine.verbs.detaching import options, start_job


def run(
    workspace: Workspace,
    project_name: str,
    overrides: list[str],
    adapters: list[str],
    idle_minutes: float,
    console: Console,
    *,
    detach: bool = False,
    number: int | None = None,
) -> dict[str, Any]:
    """Load the base and the adapters, listen, and serve until idle, stopped or told to end.

    Args:
        adapters: to load at the start; clients load others.
        idle_minutes: without a request for so long, it ends and frees the memory; 0: never.
        detach, number: see `verbs.eval`.

    Returns:
        {"job", "path", "reason"}; with `detach` what `detached.start` says.
    """
    folder = workspace.project(project_name)
    project = folder.load(overrides)
    chosen = dict(work.adapter_of(workspace, folder, name) for name in adapters)
    if detach or number is None:
        order = options(("--set", overrides), ("--adapter", list(chosen.values())), ("--idle", [idle_minutes]))
        if detach:
            return start_job(workspace, folder, "session", order, console)
        number = int(folder.new_job("session", order).path.name)
    from engine.jobs.job import job, tell
    from engine.jobs.workroom import Workroom
    from engine.session.hosting import hosted, serve_alone
    from engine.tokens import prompts

    place = folder.job(number)
    log = events.EventLog(place.events)
    emit = tell(log, console.emit)
    with place.lock(), stop_requests() as stop, job("session", folder.name, emit, place) as ending:
        loaded = work.load_base(project, workspace, emit)
        template = prompts.template_for(project.data, loaded.tokenizer)
        room = Workroom(folder, overrides, emit, stop)
        with hosted(place.path, loaded, project, template, folder.name, workroom=room) as owner:
            for name, path in chosen.items():
                owner.load(name, Path(path))
            emit(events.Note(text=f"listening: base and {len(chosen)} adapters"))
            ending.reason = serve_alone(owner, lambda: bool(stop), 60 * idle_minutes)
    return {"job": place.label, "path": str(place.path), "reason": ending.reason}
