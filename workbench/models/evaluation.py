"""Evaluations as the engine wrote them: which a project has, and their figures.

Comes from: `runs/*/evaluation.json`, `runs/evaluation.json`, `jobs/*/result.json` (written by `engine.evaluation.results`,
whose DEFINITIONS say what the figures mean). Goes to: the evaluation and adapters views. Reading is for threads.

    scan(folder, known) -> [Source, ...]   newest first, figures only       the rows behind them: `evaluated_rows`
    matrix(sources)     -> [Line, ...]     the newest of every model        their figures in words: `evaluation_words`
"""

from __future__ import annotations

import hashlib
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
        data = read(path)
        found = _figures.decode(data)
    except (ValueError, msgspec.MsgspecError) as error:
        return None if path.name == "result.json" else Source(path, when, problem=f"not an evaluation: {error}")
    lines = [Line(row, path, None) for row in found.rows]
    return Source(
        path, when, hashlib.sha256(data).hexdigest(), tuple(_with_wins(lines, found.items)), found.adapters,
        found.settings, found.counts,
    )  # fmt: skip


def read(path: Path) -> bytes:
    """A document's bytes.

    Raises:
        ValueError: it is too large. OSError: it cannot be read.
    """
    if path.stat().st_size > LONGEST:
        raise ValueError(f"larger than {LONGEST / 1e9:.1f} GB")
    return path.read_bytes()


_figures = msgspec.json.Decoder(_Figures)


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
