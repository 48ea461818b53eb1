"""`loraworkbench new`: a commented project file for a base and a dataset, with what was found in the data. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
SAMPLES, LONGEST = 2, 400
"""First rows in the document, and characters of each of their fields."""


def run(
    root: Path | None,
    name: str,
    base: str | None,
    data: str | None,
    test: str | None,
    console: Console,
    *,
    fraction: float | None = None,
    columns: Mapping[str, str | None] | None = None,
    dry: bool = False,
) -> dict[str, Any]:
    """Write WORKSPACE/projects/NAME/project.toml.

    Args:
        root: the workspace; None: the one around the current folder, or a new one in it.
        base, data, test: as in the project file, but a path may also be relative to the current folder.
        fraction: share of the rows kept unseen where there is no `test`; None: a tenth.
        columns: `prompt_column` and `completion_column` as in the project file, where they are not detected.
        dry: write nothing, only say what would be.

    Returns:
        {project, file, written, shape, columns, found, sample, next}; `shape` is null where it is not clear, or not
        without the network; `found` says it in words; `sample` has the first rows, column -> text.

    Raises:
        InputError: the name cannot be used, the project exists, or the data cannot be read.
    """
    spec.check_name(name)
    workspace = _workspace(root)
    file = workspace.root / "projects" / name / spec.FILE_NAME
    if file.exists():
        raise InputError("this project exists already", where=str(file), remedy="choose another name, or edit the file")
    if test is not None and fraction is not None:
        raise InputError("unseen rows are either --test or --fraction of the training rows", remedy="give one of them")
    values = _values(workspace, base, data, test, fraction)
    values["data"] |= {key: column for key, column in (columns or {}).items() if column}
    shape, meanings, found, sample = _look(workspace, values["data"], console)
    about = {"project": name, "file": file, "shape": shape, "columns": meanings, "found": found, "sample": sample}
    if dry:
        console.say(f"{found}\nwould be written: {shown_path(file)}")
        return {**about, "written": False, "next": []}
    heading = f"{name}: a project of LoRA Workbench. Keys with a # in front have their default value.\n{found}"
    write_atomic(file, spec.commented(values, heading))
    following = [f"loraworkbench {verb}" for verb in (f"check {name}", f"rows {name} --row 1", f"train {name}")]
    console.say(f"written: {shown_path(file)}\n{found}\n\nnext:")
    for command in following:
        console.say(f"  {command}")
    return {**about, "written": True, "next": following}


def _workspace(root: Path | None) -> Workspace:
    """The workspace given or around us; where there is none, the current folder becomes one."""
    try:
        return Workspace.find(root)
    except InputError:
        if root is not None:
            raise
        return Workspace(Path.cwd().resolve())


def _values(
    workspace: Workspace, base: str | None, data: str | None, test: str | None, fraction: float | None
) -> dict[str, dict[str, Any]]:
    """The keys to write as set."""
    model = {"base": "starter" if base is None else _source(workspace, base)}
    if data is None:
        folder = EXAMPLE if (workspace.root / EXAMPLE).is_dir() else str(shipped(EXAMPLE))
        data, test = f"{folder}/train.jsonl", test or (None if fraction else f"{folder}/test.jsonl")
    train = {"train": _source(workspace, data)}
    unseen = {"test_fraction": fraction or UNSEEN} if test is None else {"test": _source(workspace, test)}
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


def _look(
    workspace: Workspace, data: dict[str, Any], console: Console
) -> tuple[str | None, dict[str, str], str, list[dict[str, str]]]:
    """Shape and columns of the first training rows, a sentence about them, and the first `SAMPLES` of them."""
    train, test = data["train"], data.get("test")
    if test is not None and not test.startswith(dataset.HUB):
        next(reader.read(reader.Source(test), workspace.root))  # it is there and has a row
    if train.startswith(dataset.HUB):
        return None, {}, f"{one_line(train)}: `loraworkbench check` downloads it and says what its rows look like.", []
    read = islice(reader.read(reader.Source(train), workspace.root), SAMPLE)
    first = [row for row in read if isinstance(row, reader.Row)]
    sample = [{column: _excerpt(value) for column, value in row.fields.items()} for row in first[:SAMPLES]]
    try:
        if not first:
            raise InputError(f"none of the first {SAMPLE} rows can be read", remedy="`loraworkbench rows` says why")
        shape = detect(first, columns={key: data.get(key) for key in ("prompt_column", "completion_column")})
    except InputError as error:  # something to settle in the file, which is therefore written
        console.warn(str(error))
        return None, {}, one_line(f"{train}: {error.problem}; {error.remedy}."), sample
    many = f"the first {len(first)} rows are" if len(first) > 1 else "the first row is"
    return shape.name, dict(shape.columns), f"{one_line(train)}: {many} {shape.describe()}.", sample


def _excerpt(value: Any) -> str:
    """The beginning of a field as text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
