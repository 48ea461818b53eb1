"""What is in a workspace: projects, their runs with states, adapters and checkpoints, data files.

A `Scanner` keeps what it read of each run by the size and time of its event log, so that a look at a workspace where
nothing happens costs a few hundred `stat` calls.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".ndjson", ".md")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as lists show it; see `engine.store.RunState`. `touched` is the last event's time, epoch seconds."""

    label: str
    path: Path
    state: str
    verb: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    started: float | None = None
    touched: float | None = None
    problem: str | None = None
    adapter: bool = False
    checkpoints: tuple[int, ...] = ()
    evaluated: bool = False
    measured: int = 0
    """When its evaluation.json was written, nanoseconds since the epoch."""

    @property
    def number(self) -> str:
        return self.path.name

    @property
    def project(self) -> str:
        return self.label.split("/")[0]


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A detached evaluation or merge ("starter/jobs/0003") as lists show it; times as in `RunInfo`."""

    label: str
    path: Path
    state: str
    verb: str = ""
    arguments: tuple[str, ...] = ()
    started: float | None = None
    touched: float | None = None
    problem: str | None = None

    @property
    def project(self) -> str:
        return self.label.split("/")[0]


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """A project folder, its runs and its jobs, oldest first."""

    name: str
    path: Path
    runs: tuple[RunInfo, ...] = ()
    jobs: tuple[JobInfo, ...] = ()

    @property
    def file(self) -> Path:
        return self.path / "project.toml"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A workspace at one moment."""

    root: Path
    projects: dict[str, ProjectInfo] = field(default_factory=dict)
    data: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunInfo]:
        """Of all projects, the newest first."""
        return sorted((r for p in self.projects.values() for r in p.runs), key=lambda r: -(r.started or 0.0))

    @property
    def jobs(self) -> list[JobInfo]:
        """Of all projects, the newest first."""
        return sorted((j for p in self.projects.values() for j in p.jobs), key=lambda j: -(j.started or 0.0))

    def first_project(self) -> str:
        """The project of the newest run; `starter` where there is no run; else the first; "" where there is none."""
        if self.runs:
            return self.runs[0].project
        return "starter" if "starter" in self.projects else next(iter(self.projects), "")

    def run(self, label: str) -> RunInfo | None:
        return next((r for p in self.projects.values() for r in p.runs if r.label == label), None)

    def running_summary(self) -> str:
        """ "▶ starter/0007 41%" of the newest running run, and how many more there are."""
        active: list[RunInfo | JobInfo] = [r for r in self.runs if r.state == "running"]
        active += [j for j in self.jobs if j.state == "running"]
        if not active:
            return ""
        first = active[0]
        if isinstance(first, JobInfo):
            done = f" {first.verb}"
        else:
            done = f" {100 * first.step // first.steps}%" if first.step and first.steps else ""
        return f"▶ {first.label}{done}" + (f" +{len(active) - 1}" if len(active) > 1 else "")


def glimpse(root: Path) -> Snapshot:
    """The projects by name alone, without what they hold: what can be said before the engine is imported."""
    files = sorted(root.glob("projects/*/project.toml"))
    return Snapshot(root, {f.parent.name: ProjectInfo(f.parent.name, f.parent) for f in files})


class Scanner:
    """Looks at a workspace, again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, tuple[tuple, RunInfo]] = {}
        self._known_jobs: dict[Path, tuple[tuple, JobInfo]] = {}

    def scan(self) -> Snapshot:
        from engine.store import Workspace

        projects: dict[str, ProjectInfo] = {}
        for folder in Workspace(self.root).projects():
            runs = []
            for run in folder.runs():
                with contextlib.suppress(FileNotFoundError):
                    runs.append(self._run(run))
            jobs = []
            for job in folder.jobs():
                with contextlib.suppress(FileNotFoundError):
                    jobs.append(self._job(job))
            projects[folder.name] = ProjectInfo(folder.name, folder.path, tuple(runs), tuple(jobs))
        return Snapshot(self.root, projects, tuple(data_files(self.root)))

    def _job(self, job) -> JobInfo:
        marks = (_when(job.events),)
        known = self._known_jobs.get(job.path)
        if known and known[0] == marks and known[1].state != "running":
            return known[1]
        state = job.state()
        verb, arguments = job.ordered()
        info = JobInfo(
            job.label, job.path, state.state, verb, tuple(arguments), state.started, state.seen, state.problem
        )
        self._known_jobs[job.path] = (marks, info)
        return info

    def _run(self, run) -> RunInfo:
        marks = tuple(map(_when, (run.events, run.adapter, run.checkpoints, run.path / "evaluation.json")))
        known = self._known.get(run.path)
        if known and known[0] == marks and known[1].state != "running":
            return known[1]
        state = run.state()
        saved = []
        with contextlib.suppress(OSError):
            saved = [int(p.name.rsplit("-", 1)[-1]) for p in run.checkpoints.iterdir() if p.name[-1:].isdigit()]
        info = RunInfo(
            run.label, run.path, state.state, state.verb, state.step, state.steps, state.loss, state.started, state.seen,
            state.problem, (run.adapter / "adapter_config.json").is_file(), tuple(sorted(saved)), marks[3][0] > 0,
            marks[3][1],
        )  # fmt: skip
        self._known[run.path] = (marks, info)
        return info


def data_files(root: Path) -> list[str]:
    """Files that could be data, relative to the workspace, at most two folders deep and 500."""
    found: list[str] = []
    top = root / "data"
    for folder, folders, files in os.walk(top):
        depth = len(Path(folder).relative_to(top).parts)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "_"))) if depth < 2 else []
        found += [str((Path(folder) / f).relative_to(root)) for f in sorted(files) if f.endswith(DATA_ENDINGS)]
        if len(found) > 500:
            break
    return found[:500]


def _when(path: Path) -> tuple[int, int]:
    """A file's size and time, 0 where it is not there."""
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        return 0, 0
