"""Evaluations as the engine wrote them: which a project has, their figures, in words, and the rows behind each figure.

Comes from: `runs/*/evaluation.json`, `runs/evaluation.json`, `jobs/*/result.json` (written by `engine.evaluation.results`,
whose DEFINITIONS say what the figures mean). Goes to: the evaluation and adapters views. Reading is for threads.

    scan(folder, known) -> [Source, ...]   newest first, figures only     load(path) -> Document   with all its rows
    matrix(sources)     -> [Line, ...]     the newest of every model      Document.rows("starter-0001", "test")
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

BASE = "base"
SPLIT_WORDS = {"train": "training rows", "test": "unseen rows"}
LONGEST = 1 << 30
"""Bytes of a document that is read."""

Number = float | None
Interval = tuple[Number, Number] | None


class Paired(msgspec.Struct, frozen=True):
    """Nats per token minus those of base on the same tokens."""

    difference: Number = None
    interval: Interval = None
    p: Number = None


class McNemar(msgspec.Struct, frozen=True):
    """Asked rows that only this model (a) or only base (b) answered right."""

    only_a: int
    only_b: int
    p: Number = None


class Row(msgspec.Struct, frozen=True):
    """One model on one split in one scope; see `engine.evaluation.results.Row`."""

    model: str
    split: str
    scope: str
    perplexity: Number = None
    nll: Number = None
    tokens: int = 0
    bits_per_byte: Number = None
    interval: Interval = None
    exact_match: Number = None
    exact_match_interval: Interval = None
    paired: Paired | None = None
    mcnemar: McNemar | None = None


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


class Counts(msgspec.Struct, frozen=True):
    """What became of a split's rows."""

    given: int = 0
    measured: int = 0
    asked: int = 0
    not_askable: dict[str, list[str]] = {}


class Adapter(msgspec.Struct, frozen=True):
    """Which weights a model's name stood for."""

    path: str = ""
    sha256: str = ""


class _Light(msgspec.Struct, gc=False):
    model: str
    split: str
    nll: dict[str, Number]
    tokens: dict[str, int]


class _Figures(msgspec.Struct):
    """A document without its rows' texts."""

    rows: list[Row]
    items: list[_Light]
    project: str = ""
    adapters: dict[str, Adapter] = {}
    settings: dict[str, Any] = {}
    counts: dict[str, Counts] = {}


class _Whole(msgspec.Struct):
    rows: list[Row]
    items: list[Item]
    adapters: dict[str, Adapter] = {}


@dataclass(frozen=True, slots=True)
class Wins:
    """On how many rows a model predicts better and worse than base."""

    better: int = 0
    worse: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Source:
    """One document.

    Attributes:
        when: when it was written, seconds since the epoch. digest: of its bytes.
        lines: its figures. problem: why it cannot be read, "" where it can.
    """

    path: Path
    when: float
    digest: str = ""
    lines: tuple[Line, ...] = ()
    adapters: dict[str, Adapter] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Counts] = field(default_factory=dict)
    problem: str = ""

    @property
    def models(self) -> list[str]:
        return list(dict.fromkeys(line.row.model for line in self.lines))

    def base(self, line: Line) -> Row | None:
        """Base on the same split and scope in this document."""
        same = (BASE, line.row.split, line.row.scope)
        return next((x.row for x in self.lines if (x.row.model, x.row.split, x.row.scope) == same), None)


@dataclass(frozen=True)
class Line:
    """One line of the matrix.

    Attributes:
        wins: against base, None for base and where base was not measured.
        other: it was measured on other tokens than the base shown with it.
    """

    row: Row
    source: Path
    wins: Wins | None = None
    other: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.row.model, self.row.split, self.row.scope


# --- reading


def files(folder: Path) -> list[Path]:
    """Where evaluations of a project's folder may stand."""
    found = [*folder.glob("runs/*/evaluation.json"), *folder.glob("runs/evaluation.json")]
    return [*found, *folder.glob("jobs/*/result.json")]


def scan(folder: Path, known: dict[Path, tuple[tuple[int, int], Source | None]]) -> list[Source]:
    """The evaluations of a project, newest first; copies of one count once.

    Args:
        known: what earlier scans found, by file; changed.
    """
    seen: dict[Path, tuple[tuple[int, int], Source | None]] = {}
    for path in files(folder):
        try:
            status = path.stat()
            mark = status.st_size, status.st_mtime_ns
            before = known.get(path)
            seen[path] = before if before and before[0] == mark else (mark, _source(path, status.st_mtime))
        except OSError:
            continue
    known.clear()
    known.update(seen)
    newest = sorted((s for _, s in seen.values() if s is not None), key=lambda s: (-s.when, str(s.path)))
    once: dict[str, Source] = {}
    for source in newest:
        once.setdefault(source.digest or str(source.path), source)
    return list(once.values())


def _source(path: Path, when: float) -> Source | None:
    """A document's figures; None for what is no evaluation (the result of a merge)."""
    try:
        data = _read(path)
        found = _figures.decode(data)
    except (ValueError, msgspec.MsgspecError) as error:
        return None if path.name == "result.json" else Source(path, when, problem=f"not an evaluation: {error}")
    lines = [Line(row, path, None) for row in found.rows]
    return Source(
        path, when, hashlib.sha256(data).hexdigest(), tuple(_with_wins(lines, found.items)), found.adapters,
        found.settings, found.counts,
    )  # fmt: skip


def _read(path: Path) -> bytes:
    if path.stat().st_size > LONGEST:
        raise ValueError(f"larger than {LONGEST / 1e9:.1f} GB")
    return path.read_bytes()


_figures, _whole = msgspec.json.Decoder(_Figures), msgspec.json.Decoder(_Whole)


def _with_wins(lines: list[Line], items: Sequence[_Light]) -> list[Line]:
    by: dict[tuple[str, str], list[_Light]] = {}
    for item in items:
        by.setdefault((item.model, item.split), []).append(item)
    made = []
    for line in lines:
        row = line.row
        ours, theirs = by.get((row.model, row.split)), by.get((BASE, row.split))
        if row.model != BASE and ours and theirs and len(ours) == len(theirs):
            line = replace(line, wins=_wins(ours, theirs, row.scope))
        made.append(line)
    return made


def _wins(ours: Iterable[_Light], theirs: Iterable[_Light], scope: str) -> Wins:
    better = worse = rows = 0
    for a, b in zip(ours, theirs, strict=True):
        x, y = a.nll.get(scope), b.nll.get(scope)
        if x is None or y is None or not a.tokens.get(scope):
            continue
        rows += 1
        better += x < y
        worse += x > y
    return Wins(better, worse, rows)


# --- the matrix


def matrix(sources: Sequence[Source], only: Path | None = None) -> list[Line]:
    """Lines of the newest measurement of every model, base first; `only`: of one document."""
    taken: dict[tuple[str, str, str], Line] = {}
    origin = {s.path: s for s in sources}
    for source in sources:
        if only is None or source.path == only:
            for line in source.lines:
                taken.setdefault(line.key, line)
    models = sorted(dict.fromkeys(k[0] for k in taken), key=lambda m: (m != BASE, m))
    splits = sorted(dict.fromkeys(k[1] for k in taken), key=lambda s: (s != "test", s))
    scopes = list(dict.fromkeys(k[2] for k in taken))
    ordered = [taken[k] for s in splits for c in scopes for m in models if (k := (m, s, c)) in taken]
    made = []
    for line in ordered:
        shown = taken.get((BASE, line.row.split, line.row.scope))
        own = origin[line.source].base(line)
        other = line.row.model != BASE and shown is not None and (own or line.row).tokens != shown.row.tokens
        made.append(replace(line, other=other))
    return made


def measured(sources: Sequence[Source], model: str, split: str = "test", scope: str = "completion") -> Row | None:
    """The newest figures of a model."""
    found = (x.row for s in sources for x in s.lines if x.key == (model, split, scope))
    return next(found, None)


# --- rows


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
        return Document(path, _whole.decode(_read(path)))
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


# --- words


def chance(p: Number) -> str:
    """ "p < 0.001", "p = 0.03"."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.995 else "p = 1"


def against(line: Line) -> str:
    """How a model compares with base, in a sentence; "" where it was not compared."""
    paired, wins = line.row.paired, line.wins
    if paired is None or paired.difference is None:
        return ""
    beyond = paired.p is not None and paired.p < 0.05
    if wins is not None and wins.rows and not wins.better and not wins.worse:
        return "the same as base on every row: this adapter changed nothing"
    lower = paired.difference < 0
    word = "better" if lower else "worse"
    parts = []
    if wins is not None:
        parts.append(f"{word} than base on {wins.better if lower else wins.worse:,} of {wins.rows:,} rows")
    else:
        parts.append(f"{word} than base")
    low_high = between(paired.interval, "+.4f")
    parts.append(f"{paired.difference:+.4f} nats per token" + (f" (95 %: {low_high})" if low_high else ""))
    if paired.p is not None:
        parts.append(chance(paired.p))
    return ", ".join(parts) + ("" if beyond or paired.p is None else ": no difference beyond chance")


def answers(line: Line) -> str:
    """How its answers compare with base's, in a sentence; "" where they were not."""
    test = line.row.mcnemar
    if test is None:
        return ""
    if not test.only_a and not test.only_b:
        return "no answer gained or lost against base"
    beyond = test.p is not None and test.p < 0.05
    said = f"{test.only_a:,} answers gained, {test.only_b:,} lost against base"
    return f"{said}, {chance(test.p)}" + ("" if beyond else ": no difference beyond chance")


def between(interval: Interval, pattern: str) -> str:
    """ "3.01 to 3.42"; "" where there is no interval."""
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    return f"{interval[0]:{pattern}} to {interval[1]:{pattern}}"


def short(value: Number) -> str:
    """A perplexity in at most 7 characters."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value) or value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.{3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0}f}"


def perplexity(mean: float) -> float:
    """exp of nats per token; infinite where that is too large a number."""
    return math.exp(mean) if mean < 700 else math.inf if mean == mean else math.nan
