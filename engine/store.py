"""The workspace on disk: projects, their runs, what state each run is in. No torch.

    WORKSPACE/projects/NAME/project.toml
    WORKSPACE/projects/NAME/runs/0007/   project.toml run.json events.jsonl log.txt checkpoints/ adapter/
                                         evaluation.json ledger.json samples.jsonl
    WORKSPACE/data/

A run's state is read from its event log and from whether its process lives; nothing else records it.
"""

from __future__ import annotations

import difflib
import os
import re
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from engine import events, spec
from engine.errors import InputError, WorkFailed
from engine.files import disk_errors
from engine.log_ends import LogEnds

State = Literal["empty", "running", "done", "stopped", "failed", "killed"]
WORKSPACE_VARIABLE = "LORAWORKBENCH_WORKSPACE"


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


class Run:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Run({self.label})"

    @property
    def label(self) -> str:
        """ "starter/0007": how a run is named on the command line."""
        return f"{self.path.parent.parent.name}/{self.path.name}"

    @property
    def project_file(self) -> Path:
        return self.path / spec.FILE_NAME

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

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
        """Hold the run for one process.

        Raises:
            WorkFailed: another process works in it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            remedy = f"follow it with `loraworkbench watch {self.label}`"
            raise WorkFailed("another process is working in this run", where=str(self.path), remedy=remedy) from error
        try:
            yield
        finally:
            lock.release()


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


@dataclass(frozen=True)
class ProjectFolder:
    """A folder with a project.toml, inside a workspace."""

    path: Path
    workspace: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def file(self) -> Path:
        return self.path / spec.FILE_NAME

    @cached_property
    def runs_folder(self) -> Path:
        return self.path / "runs"

    def load(self, overrides: list[str] | None = None) -> spec.Project:
        """The project file, checked (see `spec.load`)."""
        return spec.load(self.file, overrides)

    def runs(self) -> list[Run]:
        """The runs, oldest first."""
        if not self.runs_folder.is_dir():
            return []
        found = [p for p in self.runs_folder.iterdir() if p.name.isdecimal() and p.is_dir()]
        return [Run(p) for p in sorted(found, key=lambda p: int(p.name))]

    def run(self, number: str | int) -> Run:
        """The run with this number.

        Raises:
            InputError: there is none.
        """
        for run in self.runs():
            if str(number).isdecimal() and int(run.path.name) == int(number):
                return run
        have = ", ".join(r.path.name for r in self.runs()) or "none yet"
        raise InputError(f"no run {number} in project {self.name} (runs: {have})", where=str(self.runs_folder))

    def new_run(self) -> Run:
        """Make the folder of the next run; two processes never get the same one.

        Raises:
            WorkFailed: it cannot be made.
        """
        with disk_errors(self.runs_folder):
            self.runs_folder.mkdir(parents=True, exist_ok=True)
            there = self.runs()
            number = int(there[-1].path.name) + 1 if there else 1
            while True:
                path = self.runs_folder / f"{number:04d}"
                try:
                    path.mkdir()
                    return Run(path)
                except FileExistsError:
                    number += 1


@dataclass(frozen=True)
class Workspace:
    """A folder with projects/ (and usually data/)."""

    root: Path

    @classmethod
    def find(cls, given: Path | None = None) -> Workspace:
        """The workspace: `given`, $LORAWORKBENCH_WORKSPACE, or the nearest folder upward that has projects/.

        Raises:
            InputError: there is none.
        """
        chosen = given or (Path(os.environ[WORKSPACE_VARIABLE]) if os.environ.get(WORKSPACE_VARIABLE) else None)
        if chosen is not None:
            if not chosen.is_dir():
                raise InputError("no such folder", where=str(chosen), remedy="give an existing workspace folder")
            return cls(chosen.resolve())
        here = Path.cwd().resolve()
        for folder in (here, *here.parents):
            if (folder / "projects").is_dir():
                return cls(folder)
        raise InputError(
            "not inside a workspace (a folder with projects/)",
            where=str(here),
            remedy="go to one, give --workspace, or make one here with `loraworkbench new NAME`",
        )

    def projects(self) -> list[ProjectFolder]:
        """The projects, by name."""
        folder = self.root / "projects"
        found = sorted(p.parent for p in folder.glob(f"*/{spec.FILE_NAME}")) if folder.is_dir() else []
        return [ProjectFolder(p, self.root) for p in found]

    def project(self, name: str) -> ProjectFolder:
        """A project by name, by its folder, or by its project.toml.

        Raises:
            InputError: there is none; names the nearest.
        """
        path = Path(name)
        for candidate in (self.root / "projects" / name, path, path.parent if path.name == spec.FILE_NAME else path):
            if (candidate / spec.FILE_NAME).is_file():
                return ProjectFolder(candidate.resolve(), self.root)
        names = [p.name for p in self.projects()]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"projects here: {', '.join(names) or 'none'}"
        raise InputError(f"no project {name!r}", where=str(self.root / "projects"), remedy=hint)

    def run(self, name: str) -> Run:
        """A run by "PROJECT/NUMBER", by its folder, or the newest of a project given by name.

        Raises:
            InputError: there is none.
        """
        path = Path(name)
        if path.is_dir() and path.name.isdecimal():
            return Run(path.resolve())
        if match := re.fullmatch(r"(.+)/(\d+)", name):
            return self.project(match[1]).run(match[2])
        project = self.project(name)
        if not project.runs():
            remedy = f"`loraworkbench train {project.name}` makes one"
            raise InputError("this project has no runs yet", where=str(project.path), remedy=remedy)
        return project.runs()[-1]

    def resolve(self, path: str) -> Path:
        """A path of the TOML: relative ones are relative to the workspace."""
        given = Path(os.path.expanduser(path))  # unlike Path's own, it leaves a ~ alone that is nobody's home
        return given if given.is_absolute() else self.root / given


def shipped(what: str) -> Path:
    """A folder that comes with the workbench ("data/starter", "projects/starter"): from a checkout, or an installation.

    Raises:
        InputError: this installation lacks it.
    """
    schemes = (sysconfig.get_default_scheme(), sysconfig.get_preferred_scheme("user"))
    installed = [Path(sysconfig.get_path("data", scheme), "share", "loraworkbench") for scheme in schemes]
    for root in (Path(__file__).resolve().parents[1], *installed):
        if (root / what).exists():
            return root / what
    raise InputError(f"{what} does not come with this installation", remedy="install from a clone of the repository")


def age(seconds: float | None) -> str:
    """Time since `seconds` (epoch) in one unit: "5 s", "12 min", "3 h", "9 d"."""
    if seconds is None:
        return "-"
    passed = max(0.0, time.time() - seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed // size:.0f} {unit}"
    return f"{passed // 1:.0f} s"
