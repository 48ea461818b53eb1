"""`loraworkbench train`: a new run or an old one resumed, here or detached, in one process or as one of several."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from engine import events, spec
from engine.console import Console, shown_path
from engine.control import stop_requests
from engine.errors import InputError
from engine.jobs import detached, launching, work
from engine.jobs.ahead import Ahead
from engine.store import ProjectFolder, Run, Workspace
from engine.tables import LaunchTable, Project

if TYPE_CHECKING:
    import torch

    from engine.training.ranks import Ranks, Team


def run(
    workspace: Workspace, project_name: str, overrides: list[str], resume: int | None, detach: bool, console: Console
) -> None:
    """Train; with `detach` in a process of its own that survives the terminal.

    Raises:
        InputError, WorkFailed, Stopped: see `work.train` and `launching.start`.
    """
    folder, place = workspace.project(project_name), launching.place()
    if place is not None:
        _train_as(place, folder, overrides, resume, detach, console)
        return
    run = _run(folder, overrides, resume)
    changes = overrides if resume is not None else []
    if detach:
        more = [part for each in changes for part in ("--set", each)]
        order = ["train", str(folder.path), "--resume", run.path.name, *more]
        console.document(detached.start(workspace, run, order, console))
        return
    project = spec.load(run.project_file, changes)
    if project.launch.processes > 1 or project.launch.machines > 1:
        console.say(f"run {run.label}  ({shown_path(run.path)})")
        launching.start(workspace, run, project.launch, changes, console)
        return
    _train(folder, run, project, resume is not None, console)


def _run(folder: ProjectFolder, overrides: list[str], resume: int | None) -> Run:
    """The run to work on, made where it is new."""
    if resume is None:
        return work.new_run(folder, folder.load(overrides))
    run = folder.run(resume)
    if any(not each.strip().startswith("launch.") for each in overrides):
        problem = "--set cannot be combined with --resume, but for [launch]: a run goes on as it began"
        raise InputError(problem, where=run.label)
    if run.state().state == "done":
        raise InputError("this run is done; there is nothing to resume", where=run.label)
    return run


def _train_as(
    place: launching.Place,
    folder: ProjectFolder,
    overrides: list[str],
    resume: int | None,
    detach: bool,
    console: Console,
) -> None:
    """Train as one of several processes."""
    from engine.training.ranks import joined

    if detach:
        raise InputError("--detach starts its own processes", remedy="leave it away where torchrun starts them")
    before = folder.load(overrides) if resume is None else spec.load(folder.run(resume).project_file, overrides)
    device = _device(place, before.launch)
    with joined(device) as team:
        label = team.from_lead(lambda: _run(folder, overrides, resume).path.name)
        run = folder.run(label)
        team.pulse.remedy = f"go on from its checkpoint: `loraworkbench train {folder.name} --resume {int(label)}`"
        project = spec.load(run.project_file, overrides if resume is not None else [])
        here = {
            "device": str(device),
            "processes": max(1, team.count // project.launch.machines),
        }  # torchrun may know better
        launch = project.launch.model_copy(update=here)
        _train(folder, run, project.model_copy(update={"launch": launch}), resume is not None, console, team)


def _device(place: launching.Place, launch: LaunchTable) -> torch.device:
    """A GPU for each process of a machine, or the CPU."""
    import torch

    from engine.models.loading import choose_device

    device = choose_device(launch)
    if device.type == "cpu":
        return device
    if place.local >= torch.cuda.device_count():
        problem = f"there is no GPU for process {place.local + 1} of this machine (GPUs: {torch.cuda.device_count()})"
        raise InputError(problem, remedy="lower launch.processes (torchrun: --nproc-per-node)")
    device = torch.device("cuda", place.local)
    torch.cuda.set_device(device)
    return device


def _train(
    folder: ProjectFolder, run: Run, project: Project, resumes: bool, console: Console, team: Team | None = None
) -> None:
    """The run from its first event to its last."""
    if team is not None and not team.leads:
        _follow(folder, run, project, team)
        return
    from engine.jobs.job import job, tell  # torch is not needed before

    log = events.EventLog(run.events)
    emit = tell(log, console.emit)
    if team is None:
        console.say(f"run {run.label}  ({shown_path(run.path)})")
    begin = partial(Ahead, project, Workspace(folder.workspace)) if team is None else contextlib.nullcontext
    with run.lock(), stop_requests() as stop, begin() as ahead:
        resumed = _last_step(run) if resumes and run.state().state != "empty" else None
        with job("train", folder.name, emit, run, resumed) as ending:
            if team is not None:
                emit(events.Note(text=team.words))
            result = work.train(folder, run, project, emit, stop, ranks=team, ahead=ahead)
            ending.reason = result.reason
    number = int(run.path.name)
    verbs = [f"loraworkbench {verb} {folder.name} --adapter {number}" for verb in ("eval", "merge")]
    console.say("\nnext:  " + "\n       ".join(verbs))


def _follow(folder: ProjectFolder, run: Run, project: Project, team: Ranks) -> None:
    """The part of a rank that does not lead: what it has to say goes to the log, and to rank 0."""
    from engine.jobs.job import job

    with stop_requests() as stop, job("train", folder.name, lambda _: None, run):
        work.train(folder, run, project, lambda _: None, stop, ranks=team)


def _last_step(run: Run) -> int:
    from engine.training import checkpoint

    steps = checkpoint.steps_in(run.checkpoints)
    return steps[-1] if steps else 0
