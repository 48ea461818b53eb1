"""The rows behind the figures of an evaluation: what each model made of each, in which order, and which are looked for.

load(path) -> Document    Document.rows("starter-0001", "test") -> [Pair, ...]    arranged(pairs, "completion", "worst")
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from workbench.models.evaluation import BASE, Adapter, Number, Row, read


class Item(msgspec.Struct, gc=False):
    """What one model made of one row; see `engine.evaluation.results.Item`."""

    model: str
    split: str
    where: str
    nll: dict[str, Number]
    tokens: dict[str, int]
    prompt: str | None = None
    reference: str | None = None
    answer: str | None = None
    stopped: bool | None = None
    expected: str | None = None
    extracted: str | None = None
    correct: bool | None = None

    def mean(self, scope: str) -> float:
        """Nats per token; NaN where nothing was scored."""
        nll, tokens = self.nll.get(scope), self.tokens.get(scope, 0)
        return nll / tokens if nll is not None and tokens else math.nan


class _Whole(msgspec.Struct):
    rows: list[Row]
    items: list[Item]
    adapters: dict[str, Adapter] = {}


_whole = msgspec.json.Decoder(_Whole)


@dataclass(frozen=True, slots=True)
class Pair:
    """A row as one model and as base saw it; `at`: its place among the rows of the split, from 0."""

    at: int
    item: Item
    base: Item | None

    def change(self, scope: str) -> float:
        """Nats per token minus those of base: negative is better. NaN without base."""
        return self.item.mean(scope) - self.base.mean(scope) if self.base is not None else math.nan

    @property
    def turned(self) -> str:
        """ "gained" or "lost" where exactly one of the two answered right, else ""."""
        if self.base is None or self.item.correct is None or self.base.correct is None:
            return ""
        return "gained" if self.item.correct > self.base.correct else "lost" * (self.item.correct < self.base.correct)


class Document:
    """An evaluation with all its rows."""

    def __init__(self, path: Path, whole: _Whole) -> None:
        self.path = path
        self._by: dict[tuple[str, str], list[Item]] = {}
        for item in whole.items:
            self._by.setdefault((item.model, item.split), []).append(item)
        self.models = sorted(dict.fromkeys(m for m, _ in self._by), key=lambda m: (m != BASE, m))

    def items(self, model: str, split: str) -> list[Item]:
        return self._by.get((model, split), [])

    def rows(self, model: str, split: str) -> list[Pair]:
        """The rows of a cell in the order in which they were measured."""
        ours, theirs = self.items(model, split), self.items(BASE, split)
        if model == BASE or len(ours) != len(theirs):
            return [Pair(at, item, None) for at, item in enumerate(ours)]
        return [Pair(at, a, b) for at, (a, b) in enumerate(zip(ours, theirs, strict=True))]

    def everybody(self, at: int, split: str) -> list[Item]:
        """What every model made of one row."""
        return [items[at] for m in self.models if at < len(items := self.items(m, split))]


def load(path: Path) -> Document:
    """A document with its rows.

    Raises:
        LookupError: it cannot be read or is no evaluation.
    """
    try:
        return Document(path, _whole.decode(read(path)))
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise LookupError(f"{path.name} cannot be read: {error}") from error


ORDERS = {
    "worst": "worst first",
    "gain": "largest gain first",
    "loss": "largest loss first",
    "file": "as measured",
}
FILTERS = {"": "rows", "wrong": "wrong answers", "gained": "answers gained", "lost": "answers lost"}


def arranged(pairs: Sequence[Pair], scope: str, order: str, kept: str = "") -> list[Pair]:
    """Rows in an order of ORDERS, those of a filter of FILTERS; what has no figure comes last."""
    chosen = [p for p in pairs if _kept(p, kept)]
    if order == "file":
        return chosen
    sign = 1 if order == "gain" else -1

    def key(pair: Pair) -> tuple[bool, float, int]:
        value = pair.item.mean(scope) if order == "worst" else pair.change(scope)
        return math.isnan(value), 0.0 if math.isnan(value) else sign * value, pair.at

    return sorted(chosen, key=key)


def _kept(pair: Pair, kept: str) -> bool:
    return not kept or (pair.item.correct is False if kept == "wrong" else pair.turned == kept)


def containing(pairs: Sequence[Pair], text: str, case: bool) -> list[int]:
    """Places among `pairs` of those whose texts contain `text`."""
    wanted = text if case else text.casefold()
    found = []
    for at, p in enumerate(pairs):
        whole = "\n".join(t for t in (p.item.where, p.item.prompt, p.item.reference, p.item.answer) if t)
        if wanted in (whole if case else whole.casefold()):
            found.append(at)
    return found
