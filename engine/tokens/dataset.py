"""From the [data] table to tokenised examples for training and measuring, with a ledger of every row.

rows -> shapes -> prompts -> tokens, for the training source and the unseen one, cached by content: the same rows,
tokenizer and settings are tokenised once. Nothing is dropped without a line in the ledger.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine import events
from engine.errors import InputError
from engine.events import Emit
from engine.files import write_json
from engine.rows import reader
from engine.rows.ledger import NOTHING_TO_LEARN, Ledger, total
from engine.rows.shapes import RowError, Shape
from engine.store import Workspace
from engine.tables import DataTable, Project
from engine.tokens import prompts
from engine.tokens.examples import Encoder, Example
from engine.tokens.stored import cache_key, load_examples, save_examples

HUB = "hub:"


@dataclass(frozen=True)
class Split:
    """One side of the data: its examples, the rows they came from, and what became of every row."""

    examples: list[Example]
    items: list[tuple[reader.Row, prompts.Item]]
    ledger: Ledger


@dataclass(frozen=True)
class Dataset:
    """Training rows and unseen rows.

    Attributes:
        test: None where the project has no unseen rows.
        overlap: (train place, test place) of rows that stand on both sides.
        digest: SHA-256 over everything that is trained on.
    """

    train: Split
    test: Split | None
    shape: Shape
    template: prompts.Template
    overlap: list[tuple[str, str]]
    digest: str

    @property
    def splits(self) -> dict[str, list[Example]]:
        """What can be measured: "train" and, where there are unseen rows, "test"."""
        found = {"train": self.train.examples}
        return found | {"test": self.test.examples} if self.test is not None else found

    @property
    def hidden_tools(self) -> str | None:
        """What to say where rows define tools and the template, by the first of them, does not show them."""
        items = [item for split in (self.train, self.test) if split for _, item in split.items]
        with_tools = [item for item in items if isinstance(item, prompts.Conversation) and item.tools]
        if not with_tools or self.template.shows_tools(with_tools[0]):
            return None
        return f"{len(with_tools):,} rows define tools, which this template does not show to the model"

    def to_json(self) -> dict[str, Any]:
        """The ledger as `loraworkbench rows --json` prints it and a run stores it."""
        both = total([self.train.ledger] + ([self.test.ledger] if self.test else []))
        return {
            "ledger": both.to_json(),
            "shape": self.shape.name,
            "columns": dict(self.shape.columns),
            "template": self.template.kind,
            "splits": {n: s.ledger.to_json() for n, s in (("train", self.train), ("test", self.test)) if s},
            "overlap": [{"train": a, "test": b} for a, b in self.overlap],
        }


def source(data: DataTable, which: str) -> reader.Source:
    """Where the rows of "train" or "test" come from."""
    path = data.train if which == "train" else (data.test or "")
    split = data.train_split if which == "train" else data.test_split
    return reader.Source(path, subset=data.subset, split=split, revision=data.revision, streaming=data.streaming)


def columns(data: DataTable) -> dict[str, str]:
    """Column names that the project sets itself."""
    named = {n: getattr(data, f"{n}_column") for n in ("prompt", "completion", "messages", "text", "system")}
    return {n: c for n, c in named.items() if c}


def load(project: Project, workspace: Workspace, tokenizer: Any, emit: Emit) -> Dataset:
    """Read, split, render and tokenise a project's data.

    Raises:
        InputError: see `read` and `RawDataset.dataset`.
    """
    return read(project, workspace, tokenizer, emit).dataset(emit)


@dataclass(frozen=True)
class RawSplit:
    """One side of the data before it is tokenised.

    Attributes:
        file: where its examples are, or will be: named by the rows, the tokenizer and the settings.
    """

    name: str
    items: list[tuple[reader.Row, prompts.Item]]
    ledger: Ledger
    file: Path


@dataclass(frozen=True)
class RawDataset:
    """A project's data, read and split, before it is tokenised."""

    project: Project
    tokenizer: Any
    shape: Shape
    template: prompts.Template
    train: RawSplit
    test: RawSplit | None

    @property
    def is_stored(self) -> bool:
        """Whether all of it was tokenised before."""
        return all(side.file.is_file() for side in (self.train, self.test) if side)

    def tokenise(self, emit: Emit) -> tuple[Split, Split | None]:
        """Examples of the training and the unseen rows, from where they are stored, or made and stored there; called once.

        Raises:
            InputError: a row is too long and train.overlong is "stop".
        """
        return _tokenise(self, self.train, emit), _tokenise(self, self.test, emit) if self.test else None

    def dataset(self, emit: Emit) -> Dataset:
        """What `tokenise` gives, with what is to be said about it.

        Raises:
            InputError: see `tokenise`; or with those that cannot be tokenised more rows than data.max_refused cannot be used.
        """
        train, test = self.tokenise(emit)
        overlap = reader.overlap(self.train.items, self.test.items if self.test else [])
        if overlap:
            text = (
                f"{len({b for _, b in overlap})} unseen rows stand among the training rows too "
                f"(first: {overlap[0][1]} = {overlap[0][0]}); measured on them, the adapter only shows what it remembers"
            )
            emit(events.Note(text=text, level="warning"))
        digest = hashlib.sha256(b"".join(e.digest() for e in train.examples)).hexdigest()
        found = Dataset(train, test, self.shape, self.template, overlap, digest)
        if found.hidden_tools:
            emit(events.Note(text=found.hidden_tools, level="warning"))
        for name, split in (("training", train), ("unseen", test)):
            if split is not None:
                emit(events.Note(text=f"{name} rows: {split.ledger.summary()}"))
                _stop_if_refused(split.ledger, self.project.data)
        return found


def read(project: Project, workspace: Workspace, tokenizer: Any, emit: Emit) -> RawDataset:
    """Read a project's data and keep its unseen rows apart.

    Raises:
        InputError: a source cannot be read, its shape is unknown, more rows than data.max_refused cannot be used, or the
            template cannot be.
    """
    data = project.data
    emit(events.Stage(name="read rows", done=0, unit="rows"))
    found = reader.load(
        source(data, "train"), workspace.root, shape=data.shape, columns=columns(data), limit=data.train_limit
    )
    shape, train_items, train_ledger = found.shape, found.items, found.ledger
    test_items: list[tuple[reader.Row, prompts.Item]] | None = None
    test_ledger = Ledger()
    if data.test is not None:
        other = reader.load(source(data, "test"), workspace.root, shape=shape, limit=data.test_limit)
        test_items, test_ledger = other.items, other.ledger
    elif data.test_fraction > 0:
        train_items, test_items, test_ledger = _split(train_items, train_ledger, data)
    count = train_ledger.read + test_ledger.read
    emit(events.Stage(name="read rows", done=count, total=count, unit="rows"))
    for ledger in (train_ledger, test_ledger):
        _stop_if_refused(ledger, data)
    template = prompts.template_for(data, tokenizer)
    settings = json.dumps([project.train.max_length, project.train.overlong, template.fingerprint()])
    how = [settings, tokenizer.backend_tokenizer.to_str()]

    def side(name: str, items: list[tuple[reader.Row, prompts.Item]], ledger: Ledger) -> RawSplit:
        key = cache_key([*how, *(repr(item) + row.where for row, item in items)])
        return RawSplit(name, items, ledger, workspace.root / ".cache" / "tokens" / f"{key[:32]}.npz")

    test = side("unseen rows", test_items, test_ledger) if test_items is not None else None
    return RawDataset(project, tokenizer, shape, template, side("training rows", train_items, train_ledger), test)


def _split(
    items: list[tuple[reader.Row, prompts.Item]], ledger: Ledger, data: DataTable
) -> tuple[list[tuple[reader.Row, prompts.Item]], list[tuple[reader.Row, prompts.Item]], Ledger]:
    """Keep a seeded share of the rows unseen; their place in the ledger moves along."""
    chosen = unseen_among(len(items), data)
    train = [item for i, item in enumerate(items) if i not in chosen]
    test = [item for i, item in enumerate(items) if i in chosen]
    moved = ledger.move([row.where for row, _ in test])
    return train, test, moved


def unseen_among(count: int, data: DataTable) -> set[int]:
    """Which of `count` usable rows data.test_fraction keeps unseen, by position."""
    unseen = max(1, round(count * data.test_fraction)) if count > 1 else 0
    unseen = min(unseen, data.test_limit or unseen, max(0, count - 1))
    return set(np.random.default_rng(data.seed).permutation(count)[:unseen].tolist())


def _stop_if_refused(ledger: Ledger, data: DataTable) -> None:
    if ledger.read and ledger.refused > data.max_refused * ledger.read:
        first = ledger.refusals[0]
        raise InputError(
            f"{ledger.refused} of {ledger.read} rows cannot be used, more than data.max_refused = {data.max_refused:g}; "
            f"the first: {first.reason}",
            where=first.where,
            remedy="`loraworkbench rows PROJECT` lists them all; mend them, or raise data.max_refused",
        )


def _tokenise(raw: RawDataset, side: RawSplit, emit: Emit) -> Split:
    """Examples of all rows, from the cache where they were made before; cut and refused rows go into the ledger."""
    items, ledger = side.items, side.ledger
    max_length, overlong = raw.project.train.max_length, raw.project.train.overlong
    if (stored := load_examples(side.file)) is not None:
        examples, extra = stored
        for where, reason in extra["dropped"]:
            ledger.drop(where, reason)
        for example in examples:
            if example.cut:
                ledger.recut(example.where)
        kept = {e.where for e in examples}
        return Split(examples, [(r, i) for r, i in items if r.where in kept], ledger)
    encoder = Encoder(raw.tokenizer)
    examples, kept_items, dropped = [], [], []
    for number, (row, item) in enumerate(items):
        if number % 500 == 0 and number:
            emit(events.Stage(name=f"tokenise {side.name}", done=number, total=len(items), unit="rows"))
        try:
            example = encode(encoder, raw.template, row.where, item, max_length, overlong)
        except RowError as error:
            dropped.append((row.where, str(error)))
            ledger.drop(row.where, str(error))
            continue
        if example.cut:
            ledger.recut(row.where)
        examples.append(example)
        kept_items.append((row, item))
    emit(events.Stage(name=f"tokenise {side.name}", done=len(items), total=len(items), unit="rows"))
    save_examples(side.file, examples, {"dropped": dropped})
    return Split(examples, kept_items, ledger)


def encode(
    encoder: Encoder, template: prompts.Template, where: str, item: prompts.Item, max_length: int, overlong: str
) -> Example:
    """One row as an example.

    Raises:
        RowError: the row cannot be used (the reason is for the ledger).
        InputError: it is too long and `overlong` is "stop".
    """
    ids, weights = encoder.encode(template.render(item))
    return fitted(ids, weights, where, item, max_length, overlong)


def fitted(
    ids: list[int], weights: list[float], where: str, item: prompts.Item, max_length: int, overlong: str
) -> Example:
    """The example of an encoded row, brought to `max_length` tokens as `overlong` says. Raises what `encode` does."""
    cut = len(ids) > max_length
    if cut and overlong == "refuse":
        raise RowError(f"{len(ids)} tokens, more than train.max_length = {max_length}")
    if cut and overlong == "stop":
        raise InputError(
            f"{len(ids)} tokens, more than train.max_length = {max_length}",
            where=where,
            remedy='raise train.max_length, or set train.overlong to "cut" or "refuse"',
        )
    example = Example(
        np.array(ids[:max_length], np.int32), np.array(weights[:max_length], np.float32), where, _reference(item), cut
    )
    if not example.supervised:
        raise RowError(NOTHING_TO_LEARN if not cut else f"{NOTHING_TO_LEARN} within train.max_length")
    return example


def _reference(item: prompts.Item) -> str:
    """The text that an answer to this row's prompt is compared with."""
    if isinstance(item, prompts.Pair):
        return item.completion
    if isinstance(item, prompts.Conversation):
        return next((m.text for m in reversed(item.messages) if m.role == "assistant"), "")
    return ""


def store_ledger(path: Path, dataset: Dataset) -> None:
    """Write the ledger of a run."""
    write_json(path, dataset.to_json())
