"""`loraworkbench train`: a new run or an old one resumed, here or detached from the terminal."""

from __future__ import annotations

import subprocess
import sys
import time

from engine import events, spec
from engine.console import Console
from engine.control import stop_requests
from engine.errors import InputError, WorkFailed
from engine.jobs import work
from engine.store import ProjectFolder, Run, Workspace, process_lives, process_start


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
        _detach(folder, run, console)
        return
    from engine.jobs.job import job, tell  # torch is not needed before

    project = spec.load(run.project_file)
    log = events.EventLog(run.events)
    emit = tell(log, console.emit)
    console.say(f"run {run.label}  ({run.path})")
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


def _detach(folder: ProjectFolder, run: Run, console: Console, patience: float = 30.0) -> None:
    """Start the run in a session of its own, without a pipe to us, and wait for its first sign of life."""
    command = [sys.executable, "-m", "engine", "--workspace", str(folder.workspace)]
    command += ["train", str(folder.path), "--resume", run.path.name]
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    started = process_start(process.pid)
    begun, before = time.monotonic(), len(events.read(run.events)[0])
    while len(events.read(run.events)[0]) <= before and time.monotonic() - begun < patience:
        if process.poll() is not None or not process_lives(process.pid, started):
            tail = run.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise WorkFailed(f"the detached run ended at once:\n{tail}", where=str(run.log))
        time.sleep(0.05)
    console.say(f"run {run.label} goes on without this terminal (process {process.pid})")
    console.say(f"follow it:  loraworkbench watch {run.label}\nstop it:    kill -TERM {process.pid}")
