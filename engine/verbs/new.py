"""`loraworkbench new`: a commented project file for a base and a dataset, with what was found in the data. No torch."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

from engine import spec
from engine.console import Console, one_line, shown_path
from engine.errors import InputError
from engine.files import write_atomic
from engine.rows import reader
from engine.rows.detect import SAMPLE, detect
from engine.store import Workspace, shipped
from engine.tokens import dataset

EXAMPLE = "data/word_problems"
"""The data of a project that names none."""
UNSEEN = 0.1
"""Share of the rows kept unseen where no test source is named: without unseen rows nothing can be measured."""


def run(
    root: Path | None, name: str, base: str | None, data: str | None, test: str | None, console: Console
) -> dict[str, Any]:
    """Write WORKSPACE/projects/NAME/project.toml.

    Args:
        root: the workspace; None: the one around the current folder, or a new one in it.
        base, data, test: as in the project file, but a path may also be relative to the current folder.

    Returns:
        {project, file, shape, columns, next}; `shape` is null where it is not clear, or not without the network.

    Raises:
        InputError: the name cannot be used, the project exists, or the data cannot be read.
    """
    _check_name(name)
    workspace = _workspace(root)
    file = workspace.root / "projects" / name / spec.FILE_NAME
    if file.exists():
        raise InputError("this project exists already", where=str(file), remedy="choose another name, or edit the file")
    values = _values(workspace, base, data, test)
    shape, columns, found = _look(workspace, values["data"], console)
    heading = f"{name}: a project of LoRA Workbench. Keys with a # in front have their default value.\n{found}"
    write_atomic(file, spec.commented(values, heading))
    following = [f"loraworkbench {verb}" for verb in (f"check {name}", f"rows {name} --row 1", f"train {name}")]
    console.say(f"written: {shown_path(file)}\n{found}\n\nnext:")
    for command in following:
        console.say(f"  {command}")
    return {"project": name, "file": file, "shape": shape, "columns": columns, "next": following}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name.isdigit() or name.endswith((".part", ".old")):
        remedy = "use letters, digits, - _ and ., not digits alone (a number names a run)"
        raise InputError(f"{one_line(name)!r} cannot be a project's name", remedy=remedy)


def _workspace(root: Path | None) -> Workspace:
    """The workspace given or around us; where there is none, the current folder becomes one."""
    try:
        return Workspace.find(root)
    except InputError:
        if root is not None:
            raise
        return Workspace(Path.cwd().resolve())


def _values(workspace: Workspace, base: str | None, data: str | None, test: str | None) -> dict[str, dict[str, Any]]:
    """The keys to write as set."""
    model = {"base": "starter" if base is None else _source(workspace, base)}
    if data is None:
        folder = EXAMPLE if (workspace.root / EXAMPLE).is_dir() else str(shipped(EXAMPLE))
        data, test = f"{folder}/train.jsonl", test or f"{folder}/test.jsonl"
    train = {"train": _source(workspace, data)}
    unseen = {"test_fraction": UNSEEN} if test is None else {"test": _source(workspace, test)}
    return {"model": model, "data": {**train, **unseen}}


def _source(workspace: Workspace, given: str) -> str:
    """A path as the project file has it: relative to the workspace where it lies inside, else absolute.

    What does not exist from the current folder stays as it is: a Hub name, or a path relative to the workspace already.
    """
    path = Path(given).expanduser()
    if given.startswith(dataset.HUB) or not path.exists():
        return given
    path = path.resolve()
    return str(path.relative_to(workspace.root) if path.is_relative_to(workspace.root) else path)


def _look(workspace: Workspace, data: dict[str, Any], console: Console) -> tuple[str | None, dict[str, str], str]:
    """Shape and columns of the first training rows, and a sentence about them."""
    train, test = data["train"], data.get("test")
    if test is not None and not test.startswith(dataset.HUB):
        next(reader.read(reader.Source(test), workspace.root))  # it is there and has a row
    if train.startswith(dataset.HUB):
        return None, {}, f"{one_line(train)}: `loraworkbench check` downloads it and says what its rows look like."
    read = islice(reader.read(reader.Source(train), workspace.root), SAMPLE)
    first = [row for row in read if isinstance(row, reader.Row)]
    try:
        if not first:
            raise InputError(f"none of the first {SAMPLE} rows can be read", remedy="`loraworkbench rows` says why")
        shape = detect(first)
    except InputError as error:  # something to settle in the file, which is therefore written
        console.warn(str(error))
        return None, {}, one_line(f"{train}: {error.problem}; {error.remedy}.")
    many = f"the first {len(first)} rows are" if len(first) > 1 else "the first row is"
    return shape.name, dict(shape.columns), f"{one_line(train)}: {many} {shape.describe()}."
