"""Starting, resuming, stopping and deleting runs: everything here blocks, and is called in threads.

A run is a process of its own in a session of its own, without a pipe to anyone (the engine's `train --detach`): it goes
on when the terminal or the workbench dies. What is known of it afterwards is its folder, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine.errors import InputError, WorkFailed
from workbench.jobs.trash import move_to_trash

if TYPE_CHECKING:
    from engine.store import Run, Workspace

PATIENCE_SECONDS = 120.0
"""For the helper that starts the process: it waits for the run's first event itself, up to 30 s."""
TAIL_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class Wrong:
    """A mistake in a project file; line and column from 1."""

    line: int
    column: int
    text: str


def check(root: Path, project: str) -> list[Wrong]:
    """The mistakes of a project's file, none where a run may start.

    Raises:
        InputError: the file cannot be read, or there is no such project.
    """
    from engine.spec import SpecError

    try:
        _workspace(root).project(project).load()
    except SpecError as error:
        places = [(m.place or [1, 1], m.problem) for m in error.mistakes]
        return [Wrong(place[0], place[1], problem) for place, problem in places]
    return []


def new_run(root: Path, project: str) -> str:
    """Make the folder of a new run, with the resolved project file that it is started with; returns its label.

    Raises:
        InputError: the project file has mistakes. WorkFailed: the folder cannot be made.
    """
    from engine import spec
    from engine.files import write_atomic

    folder = _workspace(root).project(project)
    loaded = folder.load()
    run = folder.new_run()
    write_atomic(run.project_file, spec.dump(loaded))
    return run.label


def launch(root: Path, label: str) -> None:
    """Start, or go on with, a run whose folder exists; returns when the run has said its first word.

    Raises:
        InputError: it is done, or running. WorkFailed: it ended at once; the end of its log is in the message.
    """
    run = _run(root, label)
    state = run.state().state
    if state == "done":
        raise InputError(f"run {label} is done: there is nothing to resume")
    if state == "running":
        raise InputError(f"run {label} is running already")
    folder = run.path.parent.parent
    command = [sys.executable, "-m", "engine", "--workspace", str(root), "train", str(folder)]
    command += ["--resume", run.path.name, "--detach", "--json"]
    try:
        done = subprocess.run(
            command, cwd=root, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
            start_new_session=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise WorkFailed(f"run {label} has not started within {PATIENCE_SECONDS:.0f} s", where=str(run.log)) from error
    if done.returncode:
        raise _failure(label, run, done.stderr.decode("utf-8", "replace"), done.stdout.decode("utf-8", "replace"))


def _failure(label: str, run: Run, stderr: str, stdout: str) -> WorkFailed:
    """Why the helper failed, in its own words, else by the end of the log."""
    for line in reversed(stdout.splitlines()):
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(line)
            said = said.get("error", said)
            if isinstance(said, dict) and said.get("problem"):
                return WorkFailed(said["problem"], where=said.get("where"), remedy=said.get("remedy"))
    text = stderr.strip() or log_tail(run) or "without a word"
    return WorkFailed(f"run {label} did not start:\n{text[-TAIL_CHARACTERS:]}", where=str(run.log))


def log_tail(run: Run) -> str:
    """The end of a run's log."""
    with contextlib.suppress(OSError), run.log.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_CHARACTERS))
        return file.read().decode("utf-8", "replace").strip()
    return ""


def environment() -> dict[str, str]:
    """Ours, so that the child imports the same engine as we do, whatever the current folder holds."""
    package = str(Path(engine.__file__).resolve().parents[1])
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{before}" if before else package, "PYTHONSAFEPATH": "1"}


def stop(root: Path, label: str, pid: int | None = None) -> int:
    """Ask a run to stop after its step, or a job ("starter/jobs/0003"), by SIGTERM; returns the process's number.

    Args:
        pid: only if that is still its process.

    Raises:
        InputError: it does not run.
    """
    import psutil

    from engine import events
    from engine.log_ends import LogEnds

    run = _run(root, label)
    state = run.state().state
    if state != "running":
        words = "has not said its first word yet: wait a moment" if state == "empty" else f"does not run: it is {state}"
        raise InputError(f"run {label} {words}")
    with LogEnds(run.events) as log:
        started = log.last(events.Started)
    if started is None or (pid is not None and started.pid != pid):
        raise InputError(f"run {label} is another process by now")
    try:
        handle = os.pidfd_open(started.pid)  # from here on its number cannot become another process's
    except OSError as error:
        raise InputError(f"run {label} has just ended") from error
    try:
        if abs(psutil.Process(started.pid).create_time() - started.pid_started) >= 2.0:
            raise InputError(f"run {label} has just ended")
        signal.pidfd_send_signal(handle, signal.SIGTERM)
    except (psutil.Error, ProcessLookupError) as error:
        raise InputError(f"run {label} has just ended") from error
    except PermissionError as error:
        raise InputError(f"run {label} belongs to another user: process {started.pid}") from error
    finally:
        os.close(handle)
    return started.pid


def running_process(root: Path, label: str) -> int | None:
    """The number of a run's process, None where it does not run."""
    from engine import events
    from engine.log_ends import LogEnds

    run = _run(root, label)
    if run.state().state != "running":
        return None
    with LogEnds(run.events) as log:
        started = log.last(events.Started)
    return None if started is None else started.pid


def delete(root: Path, label: str) -> Path:
    """Move a run's folder to the workspace's trash; returns where it is now.

    Raises:
        InputError: it runs, or is not there.
    """
    run = _run(root, label)
    if run.state().state == "running":
        raise InputError(f"run {label} is running: stop it first")
    return move_to_trash(root, run.path)


def _workspace(root: Path) -> Workspace:
    from engine.store import Workspace

    return Workspace(root)


def _run(root: Path, label: str) -> Any:
    """The run or the job."""
    if "/jobs/" in label:
        return _workspace(root).followed(label)
    project, _, number = label.rpartition("/")
    return _workspace(root).project(project).run(number)
