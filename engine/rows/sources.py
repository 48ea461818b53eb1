"""A project's data as it lies there: its sources by split, their first rows and columns, pages of rows, a search.

Comes from: project.toml, of which only [data] is looked at, so that data can be seen while another table has mistakes,
and `index.Table`. Goes to: the `browse` verb. Cells are texts cut to a width; nothing is rendered or tokenised here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from engine.errors import InputError
from engine.rows.detect import SAMPLE, detect
from engine.rows.formats import Refusal, Row
from engine.rows.index import Table
from engine.rows.jsonrows import to_json
from engine.rows.reader import NO_SHAPE, Source
from engine.rows.shapes import RowError, Shape, convert

_COLUMNS = ("prompt", "completion", "messages", "text", "system")
_BLOCK = 256
"""Rows that a search looks at before it asks whether to go on."""


@dataclass(frozen=True)
class Data:
    """What is said of the sources: by split; "test" is missing where there is none of its own.

    Attributes:
        fraction: data.test_fraction. shape, columns: what the project says of the rows itself.
    """

    sources: dict[str, Source]
    fraction: float = 0.0
    shape: str = "auto"
    columns: dict[str, str] | None = None


def data_of(root: Path, project: str) -> Data:
    """The sources of a project.

    Raises:
        InputError: there is no such project, or its file is wrong.
    """
    try:
        with (root / "projects" / project / "project.toml").open("rb") as file:
            plain = _plain(tomli.load(file).get("data", {}))
    except (OSError, ValueError):
        plain = None
    return plain or _checked(root, project)


def _plain(table: Any) -> Data | None:
    """What a [data] table says, where it is as usual: files, texts, a number. None where it has to be looked at well."""
    if not isinstance(table, dict):
        return None
    train, test, fraction, shape = (table.get(n) for n in ("train", "test", "test_fraction", "shape"))
    named = {n: table[f"{n}_column"] for n in _COLUMNS if f"{n}_column" in table}
    texts = [train, test or "", shape or "auto", *named.values()]
    if not all(isinstance(text, str) for text in texts) or not isinstance(fraction, int | float | None):
        return None
    if str(train).startswith("hub:") or str(test).startswith("hub:"):
        return None
    sources = {"train": Source(str(train))} | ({"test": Source(str(test))} if test else {})
    return Data(sources, float(fraction or 0), shape or "auto", {n: c for n, c in named.items() if c})


def _checked(root: Path, project: str) -> Data:
    """The same with the whole file checked, which takes longer (pydantic is imported for it)."""
    from engine.store import Workspace

    data = Workspace(root).project(project).load().data
    more: dict[str, Any] = {"subset": data.subset, "revision": data.revision, "streaming": data.streaming}
    sources = {"train": Source(data.train, split=data.train_split, **more)}
    if data.test is not None:
        sources["test"] = Source(data.test, split=data.test_split, **more)
    named = {n: c for n in _COLUMNS if (c := getattr(data, f"{n}_column"))}
    return Data(sources, data.test_fraction, data.shape, named)


class Sources:
    """The sources of one project, opened when they are first asked for. Threads may share it."""

    def __init__(self, root: Path, project: str) -> None:
        self.root, self.project = root, project
        self._lock = threading.RLock()
        self._data: Data | None = None
        self._tables: dict[str, Table] = {}
        self._shape: tuple[Shape | None, str | None] | None = None

    @property
    def data(self) -> Data:
        with self._lock:
            if self._data is None:
                self._data = data_of(self.root, self.project)
            return self._data

    @property
    def names(self) -> list[str]:
        """Splits that are sources of their own."""
        return list(self.data.sources)

    def shares_rows(self, split: str) -> bool:
        """Whether a split is the part of the training source that data.test_fraction keeps unseen."""
        return split == "test" and "test" not in self.data.sources and self.data.fraction > 0

    def table(self, split: str) -> Table:
        """The rows of a split's source.

        Raises:
            InputError: the project has no such split, or the source is not there.
        """
        name = "train" if self.shares_rows(split) else split
        if name not in self.data.sources:
            raise InputError("this project has no unseen rows", remedy="set data.test or data.test_fraction")
        with self._lock:
            if name not in self._tables:
                self._tables[name] = Table(self.data.sources[name], self.root)
            return self._tables[name]

    def sample(self, split: str) -> list[Row | Refusal]:
        """The first rows; waits for them."""
        table = self.table(split)
        while not (found := table.rows(1, SAMPLE)) or (len(found) < SAMPLE and not table.complete):
            if not table.work():
                return table.rows(1, SAMPLE) or []
        return found

    @property
    def shape(self) -> tuple[Shape | None, str | None]:
        """The shape of the training rows, or None and why it is not known."""
        with self._lock:
            if self._shape is None:
                rows = [r for r in self.sample("train") if isinstance(r, Row)]
                try:
                    found = detect(rows, shape=self.data.shape, columns=self.data.columns) if rows else NO_SHAPE
                    self._shape = found, None
                except InputError as error:
                    self._shape = None, f"{error.problem}; {error.remedy}" if error.remedy else error.problem
            return self._shape

    def describe(self) -> dict[str, Any]:
        """What the sources are: files, sizes, columns, shape. The first rows are read for it."""
        splits = {name: self._describe(name) for name in self.names}
        if self.shares_rows("test"):
            splits["test"] = {"fraction": self.data.fraction}
        shape, problem = self.shape
        told = None if shape is None else {"name": shape.name, "columns": dict(shape.columns), "said": shape.describe()}
        return {"project": self.project, "splits": splits, "shape": told, "shape_problem": problem}

    def _describe(self, name: str) -> dict[str, Any]:
        try:
            table, rows = self.table(name), self.sample(name)
        except InputError as error:
            if name == "train":
                raise
            return {"error": {"problem": error.problem, "where": error.where, "remedy": error.remedy}}
        columns = dict.fromkeys(c for r in rows if isinstance(r, Row) for c in r.fields)
        files = [{"name": part.name, "path": str(part.path), "format": part.kind} for part in table.files]
        return {
            "source": table.source.path_or_hub, "files": files, "size": table.size, "columns": list(columns),
            "known": table.known, "complete": table.complete,
        }  # fmt: skip

    def page(self, split: str, start: int, count: int, width: int) -> dict[str, Any]:
        """Rows from number `start` on, as far as they are known."""
        table = self.table(split)
        rows = table.rows(start, count)
        shown = [self.shown(row, start + i, split, width) for i, row in enumerate(rows or ())]
        return {"start": start, "rows": shown, "known": table.known, "complete": table.complete}

    def shown(self, row: Row | Refusal, number: int, split: str, width: int) -> dict[str, Any]:
        """A row as a document: number, where, cells (column -> text), and why it is refused, where it is."""
        if isinstance(row, Refusal):
            cells = {"": row.excerpt}
            return {"number": number, "where": row.where, "cells": cells, "refused": row.reason}
        refused = None
        shape, _ = self.shape
        if shape is not None and shape is not NO_SHAPE:
            try:
                convert(row, shape)
            except RowError as error:
                refused = error.reason
        cells = {name[:width]: cell(value)[:width] for name, value in row.fields.items()}
        return {"number": number, "where": row.where, "cells": cells, "refused": refused}

    def find(
        self,
        split: str,
        text: str,
        case: bool,
        start: int,
        backward: bool,
        most: int,
        go_on: Callable[[int, list[int]], bool],
    ) -> dict[str, Any]:
        """The next `most` rows from `start` on (or back) that have `text`, past the end and round to `start` again.

        Args:
            case: whether upper and lower case count.
            go_on: told where the search is and what it has found; says whether to go on.

        Returns:
            {"numbers": the rows in the order in which they were met, "wrapped": whether the end was passed,
            "whole": whether these are all}.
        """
        table, found = self.table(split), []
        fold: Callable[[str], str] = str if case else str.lower
        needle = fold(text)
        told: dict[str, Any] = {"numbers": found, "wrapped": False, "whole": False}
        while not table.complete:
            if not go_on(0, found):
                return told
            time.sleep(0.05)  # another thread counts
        for first, count, told["wrapped"] in _blocks(min(start, max(1, table.known)), table.known, backward):
            if not go_on(first, found):
                return told
            numbered = list(enumerate(table.rows(first, count) or [], first))
            found += [n for n, row in (reversed(numbered) if backward else numbered) if _has(row, needle, fold)]
            if len(found) >= most:
                del found[most:]
                return told
        return told | {"whole": True}


def _blocks(start: int, last: int, backward: bool) -> Iterator[tuple[int, int, bool]]:
    """(first, count, whether the end was passed) of all rows, from `start` around the end to it again."""
    if backward:
        spans = [(start, 1, False), (last, start + 1, True)]
        for high, low, wrapped in spans:
            for first in range(high, low - 1, -_BLOCK):
                begin = max(low, first - _BLOCK + 1)
                yield begin, first - begin + 1, wrapped
        return
    for low, high, wrapped in ((start, last, False), (1, start - 1, True)):
        for first in range(low, high + 1, _BLOCK):
            yield first, min(_BLOCK, high + 1 - first), wrapped


def cell(value: Any) -> str:
    """A value as the text that stands in a table."""
    return str(value) if isinstance(value, str) else to_json(value)


def _has(row: Row | Refusal, needle: str, fold: Callable[[str], str]) -> bool:
    if isinstance(row, Refusal):
        return needle in fold(row.excerpt)
    return any(needle in fold(cell(value)) for value in row.fields.values())
