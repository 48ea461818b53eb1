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

    @property
    def number(self) -> str:
        return self.path.name

    @property
    def project(self) -> str:
        return self.label.split("/")[0]


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """A project folder and its runs, oldest first."""

    name: str
    path: Path
    runs: tuple[RunInfo, ...] = ()

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

    def first_project(self) -> str:
        """The project of the newest run; `starter` where there is no run; else the first; "" where there is none."""
        if self.runs:
            return self.runs[0].project
        return "starter" if "starter" in self.projects else next(iter(self.projects), "")

    def run(self, label: str) -> RunInfo | None:
        return next((r for p in self.projects.values() for r in p.runs if r.label == label), None)

    def running_summary(self) -> str:
        """ "▶ starter/0007 41%" of the newest running run, and how many more there are."""
        active = [r for r in self.runs if r.state == "running"]
        if not active:
            return ""
        first = active[0]
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

    def scan(self) -> Snapshot:
        from engine.store import Workspace

        projects: dict[str, ProjectInfo] = {}
        for folder in Workspace(self.root).projects():
            runs = []
            for run in folder.runs():
                with contextlib.suppress(FileNotFoundError):
                    runs.append(self._run(run))
            projects[folder.name] = ProjectInfo(folder.name, folder.path, tuple(runs))
        return Snapshot(self.root, projects, tuple(self._data()))

    def _run(self, run) -> RunInfo:
        def when(path: Path) -> tuple[int, int]:
            try:
                status = path.stat()
                return status.st_size, status.st_mtime_ns
            except OSError:
                return 0, 0

        marks = tuple(map(when, (run.events, run.adapter, run.checkpoints, run.path / "evaluation.json")))
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
        )  # fmt: skip
        self._known[run.path] = (marks, info)
        return info

    def _data(self) -> list[str]:
        """Files that could be data, relative to the workspace, at most two folders deep and 500."""
        found: list[str] = []
        top = self.root / "data"
        for folder, folders, files in os.walk(top):
            depth = len(Path(folder).relative_to(top).parts)
            folders[:] = sorted(f for f in folders if not f.startswith((".", "_"))) if depth < 2 else []
            found += [str((Path(folder) / f).relative_to(self.root)) for f in sorted(files) if f.endswith(DATA_ENDINGS)]
            if len(found) > 500:
                break
        return found[:500]
