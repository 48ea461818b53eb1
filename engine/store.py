"""The workspace on disk: projects, their runs and jobs. No torch.

    WORKSPACE/projects/NAME/project.toml
    WORKSPACE/projects/NAME/runs/0007/   project.toml run.json events.jsonl log.txt checkpoints/ adapter/
                                         evaluation.json ledger.json samples.jsonl
    WORKSPACE/projects/NAME/jobs/0003/   job.json events.jsonl log.txt result.json
    WORKSPACE/data/

What state a run or a job is in is read from its folder (see `folders`).
"""

from __future__ import annotations

import difflib
import os
import re
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from engine import spec
from engine.errors import InputError
from engine.files import disk_errors, write_json
from engine.folders import Job, JobFolder, Run, RunState, State, process_lives, process_start

__all__ = [
    "Job", "JobFolder", "ProjectFolder", "Run", "RunState", "State", "Workspace", "process_lives",
    "process_start", "shipped",
]  # fmt: skip

_Folder = TypeVar("_Folder", bound=JobFolder)

WORKSPACE_VARIABLE = "LORAWORKBENCH_WORKSPACE"


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

    @property
    def jobs_folder(self) -> Path:
        return self.path / "jobs"

    def runs(self) -> list[Run]:
        """The runs, oldest first."""
        return _numbered(self.runs_folder, Run)

    def jobs(self) -> list[Job]:
        """The detached evaluations and merges, oldest first."""
        return _numbered(self.jobs_folder, Job)

    def run(self, number: str | int) -> Run:
        """The run with this number.

        Raises:
            InputError: there is none.
        """
        return self._one(self.runs(), "run", number, self.runs_folder)

    def job(self, number: str | int) -> Job:
        """The job with this number.

        Raises:
            InputError: there is none.
        """
        return self._one(self.jobs(), "job", number, self.jobs_folder)

    def _one(self, among: list[_Folder], noun: str, number: str | int, where: Path) -> _Folder:
        for each in among:
            if str(number).isdecimal() and int(each.path.name) == int(number):
                return each
        have = ", ".join(each.path.name for each in among) or "none yet"
        raise InputError(f"no {noun} {number} in project {self.name} ({noun}s: {have})", where=str(where))

    def new_run(self) -> Run:
        """Make the folder of the next run; two processes never get the same one.

        Raises:
            WorkFailed: it cannot be made.
        """
        return _make(self.runs_folder, Run)

    def new_job(self, verb: str, arguments: list[str]) -> Job:
        """Make the folder of the next job, with what it is to do in it.

        Args:
            arguments: of the command line, without verb and project.

        Raises:
            WorkFailed: it cannot be made.
        """
        job = _make(self.jobs_folder, Job)
        write_json(job.order, {"verb": verb, "arguments": arguments})
        return job


def _numbered(folder: Path, kind: type[_Folder]) -> list[_Folder]:
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir()]
    return [kind(p) for p in sorted(found, key=lambda p: int(p.name))]


def _make(folder: Path, kind: type[_Folder]) -> _Folder:
    """The next folder of its kind."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        there = _numbered(folder, kind)
        number = int(there[-1].path.name) + 1 if there else 1
        while True:
            path = folder / f"{number:04d}"
            try:
                path.mkdir()
                return kind(path)
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
        """A run by "PROJECT/NUMBER", its folder, its adapter's name ("PROJECT-NUMBER"), or a project's newest by its name.

        Raises:
            InputError: there is none.
        """
        path = Path(name)
        if path.is_dir() and path.name.isdecimal():
            return Run(path.resolve())
        names = {p.name for p in self.projects()}
        if match := re.fullmatch(r"(.+)/(\d+)", name) or (
            name not in names and re.fullmatch(r"([^/]+)-(\d{4,})", name)
        ):
            return self.project(match[1]).run(match[2])
        project = self.project(name)
        if not project.runs():
            remedy = f"`loraworkbench train {project.name}` makes one"
            raise InputError("this project has no runs yet", where=str(project.path), remedy=remedy)
        return project.runs()[-1]

    def followed(self, name: str) -> JobFolder:
        """A run (see `run`), or a job by "PROJECT/jobs/NUMBER" or by its folder.

        Raises:
            InputError: there is none.
        """
        path = Path(name)
        if path.is_dir() and path.name.isdecimal() and path.resolve().parent.name == "jobs":
            return Job(path.resolve())
        if match := re.fullmatch(r"(.+)/jobs/(\d+)", name):
            return self.project(match[1]).job(match[2])
        return self.run(name)

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
