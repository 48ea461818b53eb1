"""Measure a loaded base and its adapters on a project's rows, and write down what was found.

Comes from: `loraworkbench eval`, and a session's clients. Goes to: evaluation.json, and the cards of the adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import adapters as adapter_files
from engine.errors import InputError
from engine.events import Emit
from engine.files import write_json
from engine.jobs import record
from engine.store import ProjectFolder
from engine.tables import Project


def check_splits(data: Any, splits: Sequence[str]) -> None:
    """Raises InputError: a split that the data does not have."""
    if unknown := sorted(set(splits) - set(data.splits)):
        raise InputError(f"no split {unknown[0]!r}", remedy=f"there are: {', '.join(data.splits)}")


def evaluate(
    loaded: Any,
    data: Any,
    folder: ProjectFolder,
    project: Project,
    models: Sequence[str | None],
    paths: Mapping[str, Path],
    splits: Sequence[str],
    out: Path | None,
    emit: Emit,
) -> tuple[Any, dict[str, Any], Path]:
    """The matrix of models and splits, in its file and in the adapters' cards.

    Args:
        models: attached adapters by name; None is the base. paths: the adapters' folders.
        splits: empty: all. out: the file; by default `place_of`.

    Returns:
        What `matrix.evaluate` found, the document, and the file it is in.

    Raises:
        InputError, WorkFailed: see `matrix.evaluate`; the file cannot be written.
    """
    from engine.evaluation import matrix

    parts = {n: e for n, e in data.splits.items() if not splits or n in splits}
    evaluation = matrix.evaluate(loaded, parts, models, project, stop=data.template.stop, emit=emit)
    document = {
        "project": folder.name,
        "adapters": {n: {"path": str(p), "sha256": adapter_files.inspect(p).sha256} for n, p in paths.items()},
        **evaluation.to_json(),
    }
    target = out or place_of(folder, paths)
    write_json(target, document)
    for name, path in paths.items():
        record.tell_card(path, document["rows"], name)
    return evaluation, document, target


def place_of(folder: ProjectFolder, chosen: Mapping[str, Path]) -> Path:
    """evaluation.json beside the (last) adapter of a run, else in the project's runs folder."""
    for path in reversed(list(chosen.values())):
        if path.parent.parent == folder.runs_folder:
            return path.parent / "evaluation.json"
    return folder.runs_folder / "evaluation.json"
