"""What becomes of every row, and how long each is, without holding them: the ledger of `dataset.load`, row by row.

    pass 1   every row read and converted: refused or usable, duplicates, which are unseen, what stands on both sides
    pass 2   every usable row encoded: its length, cut, refused as too long or with nothing to learn

The numbers are those of `dataset.load` on the same project (a test holds that); what is kept is a few bytes a row.
Goes to: `browse`, which tells how far it is while it goes on.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.rows.ledger import Ledger, total
from engine.rows.reader import Reading, Source, asked
from engine.rows.shapes import Item, RowError, Shape
from engine.store import Workspace
from engine.tables import Project
from engine.tokens import dataset
from engine.tokens.examples import Encoder
from engine.tokens.prompts import Template, template_for

REFUSED, KEPT, CUT, UNSEEN, REPEATED, SHARED = 0, 1, 2, 4, 8, 16
"""What became of a row: one of the first three, with UNSEEN (data.test_fraction keeps it for measuring), REPEATED (an
earlier row has its content) and SHARED (an unseen row that stands among the training rows, too) added."""
EXAMPLES = 1000
"""Pairs of shared rows that are listed; all are counted."""
_TELL_ROWS = 20


@dataclass
class Rows:
    """The rows of one source: what became of each, and its length in tokens before anything is cut (0: not known)."""

    source: Source
    limit: int | None
    fates: bytearray = field(default_factory=bytearray)
    lengths: array = field(default_factory=lambda: array("I"))

    def mark(self, index: int, fate: int) -> None:
        """Row `index` has this fate; those between it and the last one marked were refused."""
        missing = index + 1 - len(self.fates)
        if missing > 0:
            self.fates.extend(bytes(missing))
            self.lengths.extend([0] * missing)
        self.fates[index] = fate


@dataclass
class Side:
    """The rows that are trained on, or those that are kept unseen."""

    ledger: Ledger = field(default_factory=Ledger)
    lengths: array = field(default_factory=lambda: array("I"))
    tokens: int = 0
    supervised: int = 0


class Survey:
    """One look at a project's data.

    Args:
        lock: held while the tokenizer works, which is not to be used by two threads at once.

    Attributes:
        stage, done, total: what is being done, and how many rows of it (total None: not known).
        rows: by source, "train" and, where it is a source of its own, "test". sides: "train" and "test".
        shared: (train row, test row), numbers from 1 in their sources, of the first unseen rows that stand among the
            training rows; shared_count: how many there are.
        unseen: numbers of the rows that data.test_fraction keeps, ascending; None until they are known.
        stops: why `train` would stop (train.overlong = "stop"), else None.
    """

    def __init__(self, project: Project, workspace: Workspace, tokenizer: Any, lock: threading.Lock) -> None:
        self.project, self.workspace, self.lock = project, workspace, lock
        self.template: Template = template_for(project.data, tokenizer)
        self.encoder = Encoder(tokenizer)
        self.shape: Shape | None = None
        data = project.data
        self.rows = {"train": Rows(dataset.source(data, "train"), data.train_limit)}
        if data.test is not None:
            self.rows["test"] = Rows(dataset.source(data, "test"), data.test_limit)
        self.sides = {"train": Side()} | ({"test": Side()} if data.test is not None or data.test_fraction > 0 else {})
        self.stage, self.done, self.total, self.finished = "read", 0, None, False
        self.shared: list[tuple[int, int]] = []
        self.shared_count = 0
        self.unseen: array | None = None
        self.stops: InputError | None = None

    def run(self, tell: Callable[[], None] = lambda: None) -> None:
        """Do both passes. `tell` is called every few hundred rows, and may raise to end it.

        Raises:
            InputError: a source cannot be read, or its shape is not known.
        """
        self._tell = tell
        usable = {name: self._read(name) for name in self.rows}
        if "test" in self.sides and "test" not in self.rows:
            self._choose_unseen(usable["train"])
        elif "test" in self.rows:
            self._compare(usable["train"], usable["test"])
        self.total, self.done, self.stage = sum(len(u) for u in usable.values()), 0, "tokenise"
        usable.clear()
        for name in self.rows:
            self._encode(name)
        self.finished = True
        tell()

    def _reading(self, name: str) -> Reading:
        rows, data = self.rows[name], self.project.data
        columns = dataset.columns(data) if self.shape is None else None
        reading = Reading(
            rows.source, self.workspace.root, shape=self.shape or data.shape, columns=columns, limit=rows.limit
        )
        if self.shape is None:
            self.shape = reading.shape
        return reading

    # --- pass 1

    def _read(self, name: str) -> _Usable:
        self.stage, self.done, self.total = f"read {name}", 0, None
        reading, rows = self._reading(name), self.rows[name]
        self.sides[name].ledger = reading.ledger
        usable = _Usable(keep_places="test" not in self.rows)
        for row, item in reading.items():
            rows.mark(row.index, KEPT | (REPEATED if reading.repeats else 0))
            if "test" in self.sides:
                usable.add(row.index, row.where, item)
            else:
                usable.count += 1
            self._step(reading.ledger.read)
        if reading.ledger.read > len(rows.fates):
            rows.mark(reading.ledger.read - 1, REFUSED)
        self._tell()
        return usable

    def _choose_unseen(self, usable: _Usable) -> None:
        """As `dataset._split`: the rows of data.test_fraction, with their places in the ledger."""
        chosen = dataset.unseen_among(len(usable), self.project.data)
        fates, digests = self.rows["train"].fates, list(usable.asked)
        first: dict[bytes, int] = {}
        for at, index in enumerate(usable.indices):
            if at not in chosen:
                first.setdefault(digests[at], index)
        for at in sorted(chosen):
            fates[usable.indices[at]] |= UNSEEN
            self._share(first, digests[at], usable.indices[at], fates)
        self.unseen = array("Q", (usable.indices[at] + 1 for at in sorted(chosen)))
        self.sides["test"].ledger = self.sides["train"].ledger.move(usable.places[at] for at in sorted(chosen))

    def _compare(self, train: _Usable, test: _Usable) -> None:
        first: dict[bytes, int] = {}
        for index, digest in zip(train.indices, train.asked, strict=True):
            first.setdefault(digest, index)
        for index, digest in zip(test.indices, test.asked, strict=True):
            self._share(first, digest, index, self.rows["test"].fates)

    def _share(self, first: dict[bytes, int], digest: bytes, index: int, fates: bytearray) -> None:
        """Note that unseen row `index` stands among the training rows, where it does."""
        if digest not in first:
            return
        fates[index] |= SHARED
        self.shared_count += 1
        if len(self.shared) < EXAMPLES:
            self.shared.append((first[digest] + 1, index + 1))

    # --- pass 2

    def _encode(self, name: str) -> None:
        rows = self.rows[name]
        for row, item in self._reading(name).items():
            side = self.sides["test" if rows.fates[row.index] & UNSEEN else name]
            self.done += 1
            self._step(self.done)
            try:
                with self.lock:
                    ids, weights = self.encoder.encode(self.template.render(item))
            except RowError as error:
                self._drop(side, rows, row.index, row.where, str(error))
                continue
            rows.lengths[row.index] = len(ids)
            side.lengths.append(len(ids))
            self._fit(side, rows, row.index, row.where, item, ids, weights)

    def _fit(
        self, side: Side, rows: Rows, index: int, where: str, item: Item, ids: list[int], weights: list[float]
    ) -> None:
        train = self.project.train
        try:
            try:
                example = dataset.fitted(ids, weights, where, item, train.max_length, train.overlong)
            except InputError as error:  # train.overlong = "stop"
                self.stops = self.stops or error
                raise RowError(error.problem) from error
        except RowError as error:
            self._drop(side, rows, index, where, str(error))
            return
        side.tokens += len(example)
        side.supervised += example.supervised
        if example.cut:
            side.ledger.recut(where)
            rows.fates[index] ^= KEPT | CUT

    def _drop(self, side: Side, rows: Rows, index: int, where: str, reason: str) -> None:
        side.ledger.drop(where, reason)
        rows.fates[index] &= UNSEEN | SHARED

    def _step(self, done: int) -> None:
        self.done = done
        if done % _TELL_ROWS == 0:
            self._tell()

    # --- what is known

    def ledgers(self) -> dict[str, Ledger]:
        """By side, and where there are two, their sum as "together"."""
        found = {name: side.ledger for name, side in self.sides.items()}
        return {**found, "together": total(found.values())} if len(found) > 1 else found


class _Usable:
    """What pass 1 keeps of the rows that can be used: index, digest of what is asked, and where it must, the place."""

    def __init__(self, keep_places: bool) -> None:
        self.count = 0
        self.indices = array("Q")
        self.places: list[str] = []
        self._digests, self._keep_places = bytearray(), keep_places

    def __len__(self) -> int:
        return self.count

    def add(self, index: int, where: str, item: Item) -> None:
        self.count += 1
        self.indices.append(index)
        self._digests += asked(item)
        if self._keep_places:
            self.places.append(where)

    @property
    def asked(self) -> Iterator[bytes]:
        return (bytes(self._digests[16 * i : 16 * i + 16]) for i in range(self.count))


# --- lengths


def spread(lengths: np.ndarray) -> dict[str, int]:
    """Of lengths in tokens: min, median, p95, max; each is the length of a row."""
    low, median, p95, high = np.percentile(lengths, [0, 50, 95, 100], method="nearest").tolist()
    return {"min": low, "median": median, "p95": p95, "max": high}


def histogram(lengths: np.ndarray, limit: int, wanted: int = 20) -> list[tuple[int, int, int]]:
    """(shortest, longest, rows) of about `wanted` bins of a round width, from 1 token up.

    A bin ends at `limit`, so that what is too long stands apart; the last one holds all that is far from the rest.
    """
    if not len(lengths):
        return []
    longest, usual = int(lengths.max()), int(np.percentile(lengths, 99))
    top = longest if longest <= 3 * usual else 2 * usual
    width = next(w for e in range(12) for w in (10**e, 2 * 10**e, 5 * 10**e) if top <= w * wanted)
    starts = {*range(1, top + 1, width)} | ({limit + 1} if limit < longest else set())
    if top < longest:
        starts.add(-(-top // width) * width + 1)
    firsts = sorted(starts)
    counts = np.histogram(lengths, bins=[*firsts, max(longest, firsts[-1]) + 1])[0].tolist()
    lasts = [*(first - 1 for first in firsts[1:]), max(longest, firsts[-1] + width - 1 if top == longest else longest)]
    return list(zip(firsts, lasts, counts, strict=True))
