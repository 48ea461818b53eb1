"""`loraworkbench watch`: follow a run's events from another terminal, as many viewers as you like. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

# For `process_lives`, and now: Ctrl+C in the middle of importing a module that makes code out of text, as this one does,
# ends the process by the signal, whoever catches the exception (CPython remembers that somebody did not).
import psutil  # noqa: F401

from engine import events
from engine.console import Console
from engine.errors import WorkFailed
from engine.store import Job, JobFolder, Workspace, process_lives

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 120.0
"""How long a run may take from its folder to its first event: importing torch from a cold disk."""


def run(workspace: Workspace, name: str, console: Console) -> int:
    """Tell a run's events, from the first to the last; with JSON, its lines as they stand in the log.

    Returns:
        The exit code: 0 done, or left with Ctrl+C; 1 failed; 130 stopped.

    Raises:
        InputError: there is no such run.
        WorkFailed: it was killed: its process is gone and its log has no end.
    """
    followed = workspace.followed(name)
    console.say(f"watching {followed.label}; Ctrl+C leaves it alone")
    last: events.AnyEvent | None = None
    liveness = _Liveness(followed)
    try:
        for line in lines(followed.events, liveness):
            event = console.line(line)
            liveness.saw(event)
            last = event or last
    except KeyboardInterrupt:
        console.say(f"\nno longer watching; `loraworkbench watch {followed.label}` looks again")
        return 0
    if isinstance(last, events.Finished):
        return 130 if last.reason == "stopped" else 0
    if isinstance(last, events.Failed):
        return 1
    raise WorkFailed(
        "killed: the process is gone without an end, perhaps for want of memory",
        where=str(followed.path),
        remedy=_after_a_kill(followed),
    )


def _after_a_kill(followed: JobFolder) -> str:
    project, number = followed.project_path.name, int(followed.path.name)
    if isinstance(followed, Job):
        return f"start it again with `loraworkbench {followed.ordered()[0] or 'eval'} {project} --detach`"
    return f"go on from the newest checkpoint with `loraworkbench train {project} --resume {number}`"


class _Liveness:
    """Whether the process that works in a run lives: the one of the newest `started` event."""

    def __init__(self, run: JobFolder) -> None:
        self.folder = run.path
        self.started: events.Started | None = None

    def saw(self, event: events.AnyEvent | None) -> None:
        if isinstance(event, events.Started):
            self.started = event

    def __call__(self) -> bool:
        if self.started is None:
            return time.time() - self.folder.stat().st_mtime < PATIENCE_SECONDS
        return process_lives(self.started.pid, self.started.pid_started)


def lines(path: Path, alive: Callable[[], bool]) -> Iterator[bytes]:
    """The whole lines of a log as they come, those that `events.follow` would pass over included; ends as it does."""
    offset, ended = 0, False
    while not ended:
        living = alive()
        data = _after(path, offset)
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].split(b"\n"):
            if line:
                ended = isinstance(events.decode(line), events.Finished | events.Failed)
                yield line + b"\n"
        offset += whole
        if not whole:
            if not living:
                return
            time.sleep(POLL_SECONDS)


def _after(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:  # the run has not said anything yet
        return b""
