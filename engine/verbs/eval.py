"""`loraworkbench eval`: base and adapters, each on seen and unseen rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import events
from engine.console import Console
from engine.errors import InputError
from engine.files import write_json
from engine.jobs import evaluating, work
from engine.store import ProjectFolder, Workspace
from engine.verbs.detaching import options, start_job


def run(
    workspace: Workspace,
    project_name: str,
    overrides: list[str],
    adapters: list[str],
    splits: list[str],
    base: bool,
    out: Path | None,
    console: Console,
    *,
    base_only: bool = False,
    detach: bool = False,
    number: int | None = None,
) -> dict[str, Any]:
    """Measure, store evaluation.json, and return it as the document for --json.

    Args:
        adapters: folders, runs ("3", "starter/3"); empty: the project's newest, or base alone where there is none.
        splits: of "train" and "test"; empty: all there are.
        base: measure the base, too. base_only: measure no adapter, even where there is one.
        detach: do it in a process and a job folder of its own; what is returned is about that.
        number: of the job folder to do it in, which `detach` has made.

    Raises:
        InputError: there is no such adapter or split; or the base alone is wanted, and an adapter or not the base.
    """
    if base_only and (adapters or not base):
        raise InputError("--base-only goes with neither --adapter nor --no-base", remedy="leave one of them out")
    folder = workspace.project(project_name)
    project = folder.load(overrides)
    chosen = {} if base_only else chosen_adapters(workspace, folder, adapters)
    if detach:
        order = options(
            ("--set", overrides), ("--adapter", list(chosen.values())), ("--split", splits), ("--out", out and [out])
        )
        models_of = "--base-only" if base and not chosen else "--base" if base else "--no-base"
        return start_job(workspace, folder, "eval", [*order, models_of], console)
    from engine.evaluation import matrix
    from engine.jobs.job import told_job

    place = None if number is None else folder.job(number)
    with told_job("eval", folder.name, console.emit, place, "stopped; nothing was written") as emit:
        data = work.dataset_of(project, workspace, emit)
        evaluating.check_splits(data, splits)
        loaded = work.load_base(project, workspace, emit)
        for name, path in chosen.items():
            loaded.load_adapter(name, path)
        models: list[str | None] = [*([None] if base or not chosen else []), *chosen]
        evaluation, document, target = evaluating.evaluate(
            loaded, data, folder, project, models, chosen, splits, out, emit
        )
        if place is not None:
            write_json(place.result, document)
        emit(events.Saved(what="evaluation", path=str(target), bytes=target.stat().st_size))
    console.say("\n" + matrix.table(evaluation))
    console.say(f"\nwritten: {target}  (every row, its answer and what was read off it)")
    return document


def chosen_adapters(workspace: Workspace, folder: ProjectFolder, names: list[str]) -> dict[str, Path]:
    """The adapters to measure by name; without names the newest, where there is one."""
    if names:
        return dict(work.adapter_of(workspace, folder, name) for name in names)
    if any((run.adapter / "adapter_config.json").is_file() for run in folder.runs()):
        return dict([work.adapter_of(workspace, folder, None)])
    return {}
