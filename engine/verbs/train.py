"""`loraworkbench train`: a new run or an old one resumed, here or detached from the terminal."""

from __future__ import annotations

from engine import events, spec
from engine.console import Console, shown_path
from engine.control import stop_requests
from engine.errors import InputError
from engine.jobs import detached, work
from engine.store import Run, Workspace


def run(
    workspace: Workspace, project_name: str, overrides: list[str], resume: int | None, detach: bool, console: Console
) -> None:
    """Train; with `detach` in a process of its own that survives the terminal.

    Raises:
        InputError, WorkFailed, Stopped: see `work.train`.
    """
    folder = workspace.project(project_name)
    if resume is None:
        run = work.new_run(folder, folder.load(overrides))
    else:
        run = folder.run(resume)
        if overrides:
            raise InputError("--set cannot be combined with --resume: a run goes on as it began", where=run.label)
        if run.state().state == "done":
            raise InputError("this run is done; there is nothing to resume", where=run.label)
    if detach:
        detached.start(workspace, run, ["train", str(folder.path), "--resume", run.path.name], console)
        return
    from engine.jobs.job import job, tell  # torch is not needed before

    project = spec.load(run.project_file)
    log = events.EventLog(run.events)
    emit = tell(log, console.emit)
    console.say(f"run {run.label}  ({shown_path(run.path)})")
    with run.lock(), stop_requests() as stop:
        resumed = _last_step(run) if resume is not None else None
        with job("train", folder.name, emit, run, resumed) as ending:
            result = work.train(folder, run, project, emit, stop)
            ending.reason = result.reason
    number = int(run.path.name)
    verbs = [f"loraworkbench {verb} {folder.name} --adapter {number}" for verb in ("eval", "merge")]
    console.say("\nnext:  " + "\n       ".join(verbs))


def _last_step(run: Run) -> int:
    from engine.training import checkpoint

    steps = checkpoint.steps_in(run.checkpoints)
    return steps[-1] if steps else 0
