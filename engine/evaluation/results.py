"""What an evaluation found: rows of figures, items with their answers, what the figures mean, as JSON and as a table.

Comes from: `matrix`. Goes to: `evaluation.json`, `--json`, the screen. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine import text
from engine.evaluation import metrics
from engine.evaluation.metrics import Interval, McNemar, Paired, RowScore
from engine.tables import EvalTable

BASE = "base"
"""What the untouched base is called in rows, items and events."""

COMPLETION, ALL = SCOPES = ("completion", "all")

SPLIT_WORDS = {"train": "training rows", "test": "unseen rows"}

DEFINITIONS = {
    "nll": "sum over the scored tokens of -log p(token | the tokens before it), in nats, added up in float64",
    "tokens": "how many tokens were scored; the first of a text has nothing to be predicted from, and is not",
    "scope": "completion: the supervised tokens, which are the answer and the token that ends it. all: every token "
    "after the first, which is the BOS where the tokenizer adds one",
    "perplexity": "exp(sum of nll / sum of tokens) over all rows; null where nothing was scored, or where it exceeds "
    "the largest float",
    "bits_per_byte": "sum of nll / (ln 2 x UTF-8 bytes of the scored tokens' text); special tokens count in nll, not "
    "in bytes",
    "context": "a text longer than this many tokens is scored in windows, each token once; the last window is filled "
    "up with text to its left (as lm-eval's loglikelihood_rolling does)",
    "interval": "95 % percentile bootstrap over rows",
    "paired": "difference: nats per token minus those of base on the same tokens (negative: better than base); "
    "interval: 95 % bootstrap over rows; p: two-sided sign-flip permutation test",
    "exact_match": "share of the asked rows whose extracted answer equals the one extracted from the reference",
    "exact_match_interval": "95 % Wilson interval",
    "mcnemar": "asked rows that only this model (only_a) or only base (only_b) answered right; p: exact, two-sided",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one split in one scope; what the figures mean is in DEFINITIONS.

    Attributes:
        exact_match, exact_match_interval, mcnemar: only where scope is "completion" and answers were generated.
        paired, mcnemar: only for adapters, and where base was measured too.
    """

    model: str
    split: str
    scope: str
    perplexity: float | None
    nll: float
    tokens: int
    bits_per_byte: float | None
    interval: Interval | None
    exact_match: float | None = None
    exact_match_interval: Interval | None = None
    paired: Paired | None = None
    mcnemar: McNemar | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """What one model made of one row.

    Attributes:
        where: file:line of the row.
        nll, tokens: by scope.
        prompt: what was asked, special tokens included; None (like all that follows) where the row was not asked.
        reference, answer: the whole texts. stopped: the answer ended by itself.
        expected, extracted: the answers read off the two; `extracted` is None where there is none to read.
    """

    model: str
    split: str
    where: str
    nll: dict[str, float]
    tokens: dict[str, int]
    prompt: str | None = None
    reference: str | None = None
    answer: str | None = None
    stopped: bool | None = None
    expected: str | None = None
    extracted: str | None = None
    correct: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what does not apply to a row that was not asked."""
        made = asdict(self)
        if self.prompt is None:
            return {name: made[name] for name in ("model", "split", "where", "nll", "tokens")}
        return made


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one split: scores by scope, and items, each in the order of the split's rows."""

    model: str
    split: str
    scores: dict[str, list[RowScore]]
    items: list[Item]

    @property
    def correct(self) -> list[bool]:
        """Of the items that were asked."""
        return [item.correct for item in self.items if item.correct is not None]

    @property
    def exact_match(self) -> float | None:
        return sum(self.correct) / len(self.correct) if self.correct else None

    def row(self, scope: str, base: Cell | None, table: EvalTable) -> Row:
        """The figures of a scope, compared with the `base` of the same split where that is another model.

        The resamples of rows are the same for every model, as far as eval.seed is.
        """
        scores, asked = self.scores[scope], scope == COMPLETION and bool(self.correct)
        nll, tokens = [s.nll for s in scores], [s.tokens for s in scores]
        sums, paired, mcnemar = metrics.total(scores), None, None
        if base is not None and base.model != self.model:
            theirs = base.scores[scope]
            their_nll, their_tokens = [s.nll for s in theirs], [s.tokens for s in theirs]
            paired = metrics.paired_test(nll, tokens, their_nll, their_tokens, table.bootstrap, table.seed)
            mcnemar = metrics.mcnemar(self.correct, base.correct) if asked else None
        return Row(
            model=self.model,
            split=self.split,
            scope=scope,
            perplexity=sums.perplexity,
            nll=sums.nll,
            tokens=sums.tokens,
            bits_per_byte=sums.bits_per_byte,
            interval=metrics.bootstrap_interval(nll, tokens, table.bootstrap, table.seed),
            exact_match=self.exact_match if asked else None,
            exact_match_interval=metrics.wilson_interval(sum(self.correct), len(self.correct)) if asked else None,
            paired=paired,
            mcnemar=mcnemar,
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of a split's rows.

    Attributes:
        given: rows of the split. measured: those of them that were scored.
        asked: measured rows for which an answer was generated.
        not_askable: measured rows that could not be asked: the reason -> file:line of each.
    """

    given: int
    measured: int
    asked: int
    not_askable: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The matrix of models and splits.

    Attributes:
        settings: what it was measured with. counts: by split.
        cells: what the figures were made of, by model and split; not part of the document.
    """

    rows: list[Row]
    items: list[Item]
    settings: dict[str, Any]
    counts: dict[str, Counts]
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values; NaN and infinity become null."""
        return finite(
            {
                "rows": [asdict(row) for row in self.rows],
                "items": [item.to_json() for item in self.items],
                "settings": self.settings,
                "counts": {split: asdict(counts) for split, counts in self.counts.items()},
                "definitions": DEFINITIONS,
            }
        )


def finite(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinity replaced by None, tuples by lists, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


_HEADERS = ("model", "scope", "perplexity", "95 %", "bits/byte", "exact")
_NAME_CELLS = 18
_WIDTH = 80


def table(evaluation: Evaluation) -> str:
    """The rows for a person, a block a split, in at most 80 cells."""
    blocks = []
    for split, counts in evaluation.counts.items():
        rows = [row for row in evaluation.rows if row.split == split]
        lines = text.wrap(_heading(split, counts, rows), _WIDTH)
        lines.append(text.table(_HEADERS, [_cells(row) for row in rows], "<<>>>>"))
        for row in rows:
            if row.scope == COMPLETION and (said := _against_base(row)):
                lines += text.wrap(said, _WIDTH)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _heading(split: str, counts: Counts, rows: Sequence[Row]) -> str:
    tokens = {row.scope: row.tokens for row in rows}
    parts = [f"{counts.measured:,} of {counts.given:,}" if counts.measured < counts.given else f"{counts.measured:,}"]
    parts.append(f"{tokens[COMPLETION]:,} completion tokens, {tokens[ALL]:,} in all")
    if counts.asked:
        parts.append(f"{counts.asked:,} asked")
    if counts.not_askable:
        reasons = (f"{len(places):,} {reason}" for reason, places in counts.not_askable.items())
        parts.append(f"not askable: {', '.join(reasons)}")
    return f"{SPLIT_WORDS.get(split, text.one_line(split))}: {'; '.join(parts)}"


def _cells(row: Row) -> list[str]:
    low_high = "-" if row.interval is None else " - ".join(map(_short, row.interval))
    exact = "" if row.scope != COMPLETION else text.amount(row.exact_match, ".1%")
    name = text.cut(text.one_line(row.model), _NAME_CELLS)
    return [name, row.scope, _short(row.perplexity), low_high, text.amount(row.bits_per_byte, ".4f"), exact]


def _short(value: float | None) -> str:
    """A perplexity in at most 7 characters."""
    if value is None or not math.isfinite(value):
        return text.amount(value)
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.{3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0}f}"


def _against_base(row: Row) -> str:
    """How an adapter compares with base, in a sentence; "" where it was not compared."""
    parts = []
    if row.paired is not None:
        parts.append(f"{row.paired.difference:+.4f} nats per completion token (p = {row.paired.p:.2g})")
    if row.mcnemar is not None:
        test = row.mcnemar
        parts.append(f"{test.only_a:,} answers gained, {test.only_b:,} lost (p = {test.p:.2g})")
    return f"{text.one_line(row.model)} against base: {'; '.join(parts)}" if parts else ""
