"""`loraworkbench eval`: base and adapters, each on seen and unseen rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import adapters as adapter_files
from engine import events
from engine.console import Console
from engine.errors import InputError
from engine.files import write_json
from engine.jobs import record, work
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
    detach: bool = False,
    number: int | None = None,
) -> dict[str, Any]:
    """Measure, store evaluation.json, and return it as the document for --json.

    Args:
        adapters: folders, runs ("3", "starter/3"); empty: the project's newest, or base alone where there is none.
        splits: of "train" and "test"; empty: all there are.
        base: measure the base, too.
        detach: do it in a process and a job folder of its own; what is returned is about that.
        number: of the job folder to do it in, which `detach` has made.
    """
    folder = workspace.project(project_name)
    project = folder.load(overrides)
    chosen = chosen_adapters(workspace, folder, adapters)
    if detach:
        order = options(
            ("--set", overrides), ("--adapter", list(chosen.values())), ("--split", splits), ("--out", out and [out])
        )
        return start_job(workspace, folder, "eval", [*order, "--base" if base else "--no-base"], console)
    from engine.evaluation import matrix
    from engine.jobs.job import told_job

    place = None if number is None else folder.job(number)
    with told_job("eval", folder.name, console.emit, place, "stopped; nothing was written") as emit:
        data = work.dataset_of(project, workspace, emit)
        unknown = set(splits) - set(data.splits)
        if unknown:
            raise InputError(f"no split {sorted(unknown)[0]!r}", remedy=f"there are: {', '.join(data.splits)}")
        loaded = work.load_base(project, workspace, emit)
        for name, path in chosen.items():
            loaded.load_adapter(name, path)
        models: list[str | None] = [*([None] if base or not chosen else []), *chosen]
        parts = {n: e for n, e in data.splits.items() if not splits or n in splits}
        evaluation = matrix.evaluate(loaded, parts, models, project, stop=data.template.stop, emit=emit)
        document = {
            "project": folder.name,
            "adapters": {n: {"path": str(p), "sha256": adapter_files.inspect(p).sha256} for n, p in chosen.items()},
            **evaluation.to_json(),
        }
        target = out or place_of(folder, chosen)
        write_json(target, document)
        for name, path in chosen.items():
            record.tell_card(path, document["rows"], name)
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


def place_of(folder: ProjectFolder, chosen: dict[str, Path]) -> Path:
    """evaluation.json beside the (last) adapter of a run, else in the project's runs folder."""
    for path in reversed(chosen.values()):
        if path.parent.parent == folder.runs_folder:
            return path.parent / "evaluation.json"
    return folder.runs_folder / "evaluation.json"
