"""A folder in which a job works: its event log, its log.txt, its lock, and what state it is in. No torch.

    runs/0007/   a training (`Run`): project.toml run.json events.jsonl log.txt checkpoints/ adapter/ evaluation.json
    jobs/0003/   an evaluation or a merge that runs detached (`Job`): job.json events.jsonl log.txt result.json

The state is read from the event log and from whether the process lives; nothing else records it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine import events, spec
from engine.errors import WorkFailed
from engine.log_ends import LogEnds

State = Literal["empty", "running", "done", "stopped", "failed", "killed"]


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run's events say of it.

    Attributes:
        state: "killed" is a log without an end whose process is gone.
        step, steps, loss: of the last optimizer step; None before the first.
        started, seen: times of the first and last event, seconds since the epoch.
        problem: why it failed, or None.
    """

    state: State
    verb: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    started: float | None = None
    seen: float | None = None
    problem: str | None = None


class JobFolder:
    """A folder with an event log that one process at a time appends to."""

    NOUN = "job"

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label})"

    @property
    def label(self) -> str:
        """ "starter/0007" of a run, "starter/jobs/0003" of a job: how it is named on the command line."""
        return f"{self.project_path.name}/{self.path.name}"

    @property
    def project_path(self) -> Path:
        return self.path.parent.parent

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def state(self) -> RunState:
        """What the event log says, without reading more of it than that takes (see `LogEnds`)."""
        try:
            with LogEnds(self.events) as log:
                begun = log.last(events.Started)
                last = log.last(events.Event)
                if begun is None or last is None:
                    return RunState("empty")
                first, step = log.first(), log.last(events.Step)
        except FileNotFoundError:
            return RunState("empty")
        state: State
        problem = None
        if isinstance(last, events.Finished):
            state = "stopped" if last.reason == "stopped" else "done"
        elif isinstance(last, events.Failed):
            state, problem = "failed", last.problem
        else:
            state = "running" if process_lives(begun.pid, begun.pid_started) else "killed"
        return RunState(
            state,
            begun.verb,
            step.step if step else None,
            step.steps if step else None,
            step.loss if step else None,
            first.t if first else None,
            last.t,
            problem,
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one process.

        Raises:
            WorkFailed: another process works in it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            remedy = f"follow it with `loraworkbench watch {self.label}`"
            problem = f"another process is working in this {self.NOUN}"
            raise WorkFailed(problem, where=str(self.path), remedy=remedy) from error
        try:
            yield
        finally:
            lock.release()


class Run(JobFolder):
    """The folder of a training."""

    NOUN = "run"

    @property
    def project_file(self) -> Path:
        return self.path / spec.FILE_NAME

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"


class Job(JobFolder):
    """The folder of an evaluation or a merge that goes on without a terminal."""

    @property
    def label(self) -> str:
        return f"{self.project_path.name}/{self.path.parent.name}/{self.path.name}"

    @property
    def order(self) -> Path:
        """What it was started to do: {"verb": "eval", "arguments": [...]}."""
        return self.path / "job.json"

    @property
    def result(self) -> Path:
        """The document that the verb's --json prints; there when the job is done."""
        return self.path / "result.json"

    def ordered(self) -> tuple[str, list[str]]:
        """The verb and its arguments, without the project; ("", []) where nothing readable says."""
        try:
            found: Any = json.loads(self.order.read_text(encoding="utf-8"))
            return str(found["verb"]), [str(a) for a in found["arguments"]]
        except (OSError, ValueError, KeyError, TypeError):
            return "", []


def process_start(pid: int) -> float:
    """When process `pid` started, seconds since the epoch; 0.0 where it does not exist."""
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def process_lives(pid: int, started: float) -> bool:
    """Whether the process that had `pid` and started at `started` still lives (a reused pid does not count)."""
    import psutil

    if pid < 1:
        return False
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
