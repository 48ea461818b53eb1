"""Sums, intervals and tests over scored rows, and the reading of an answer off a text. numpy and the standard library.

Comes from: `matrix` (a `RowScore` a row, generated texts). Goes to: its rows and items. A figure about several rows
is made from their sums, never from their own figures: the mean of perplexities is not a perplexity.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np

from engine.blind import sign_test

Interval = tuple[float, float]

_BLOCK_ELEMENTS = 2**21
"""Random numbers held at once while resampling: 16 MiB."""


@dataclass(frozen=True, slots=True)
class RowScore:
    """What a model made of one row.

    Attributes:
        where: file:line of the row.
        nll: sum over the scored tokens of -log p(token | what stands before it), in nats.
        tokens: how many tokens were scored. nbytes: their length as UTF-8 text.
    """

    where: str
    nll: float
    tokens: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over rows, and what is made from them; None where nothing was scored."""

    nll: float
    tokens: int
    nbytes: int

    @property
    def perplexity(self) -> float | None:
        """exp(nll / tokens); infinity where that is too large for a float."""
        return _exp(self.nll / self.tokens) if self.tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        """nll / (ln 2 * bytes): comparable between models with different tokenizers."""
        return self.nll / (math.log(2) * self.nbytes) if self.nbytes else None


def total(rows: Iterable[RowScore]) -> Totals:
    """The sums of rows, exact to the last bit whatever their order (math.fsum)."""
    rows = list(rows)
    return Totals(math.fsum(r.nll for r in rows), sum(r.tokens for r in rows), sum(r.nbytes for r in rows))


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _blocks(resamples: int, width: int) -> Iterator[int]:
    """`resamples` in parts, so that a part x width random numbers fit into a block."""
    size = max(1, _BLOCK_ELEMENTS // max(1, width))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _resampled_ratio(values: np.ndarray, tokens: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """sum(values) / sum(tokens) of rows drawn with replacement: (resamples,)."""
    rng = np.random.default_rng(seed)
    ratios = []
    for size in _blocks(resamples, len(values)):
        drawn = rng.integers(len(values), size=(size, len(values)))
        ratios.append(values[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    return np.concatenate(ratios)


def _percentiles(samples: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    nll: Sequence[float], tokens: Sequence[int], resamples: int, seed: int, level: float = 0.95
) -> Interval | None:
    """Percentile interval of the perplexity when rows are drawn anew (Efron 1979; Efron and Tibshirani 1993, ch. 13).

    Rows are the unit, because the tokens of a row are not independent of each other.

    Args:
        nll: nats of each row. tokens: scored tokens of each row; rows without any are left out.

    Returns:
        (low, high), or None for fewer than two rows, from which no spread can be known.
    """
    scores, counts = _counted(nll, tokens)
    if len(scores) < 2:
        return None
    low, high = _percentiles(_resampled_ratio(scores, counts, resamples, seed), level)
    return _exp(low), _exp(high)


def _counted(nll: Sequence[float], tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have tokens, as two arrays (float64, int64)."""
    scores, counts = np.asarray(nll, np.float64), np.asarray(tokens, np.int64)
    if scores.shape != counts.shape:
        raise ValueError(f"{len(scores)} sums for {len(counts)} rows")
    return scores[counts > 0], counts[counts > 0]


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same rows.

    Attributes:
        difference: nats per token of a minus those of b; negative where a predicts better.
        interval: 95 % of the differences when rows are drawn anew.
        p: chance of a difference at least as large if the two were alike.
    """

    difference: float
    interval: Interval
    p: float


def paired_test(
    nll_a: Sequence[float],
    tokens_a: Sequence[int],
    nll_b: Sequence[float],
    tokens_b: Sequence[int],
    resamples: int,
    seed: int,
) -> Paired | None:
    """Difference in nats per token, its bootstrap interval over rows, and a two-sided sign-flip permutation test.

    If the models are alike, each row's difference might as well have the other sign; p is the share of `resamples`
    random sign patterns that reach the difference seen, (hits + 1) / (resamples + 1), which is never zero (Phipson and
    Smyth 2010, arXiv:1603.05766). The paired bootstrap is that of Koehn 2004 (EMNLP, W04-3250).

    Returns:
        None for fewer than two rows with tokens.

    Raises:
        ValueError: the two were not scored on the same tokens.
    """
    if list(tokens_a) != list(tokens_b):
        raise ValueError("the two models were not scored on the same tokens")
    a, counts = _counted(nll_a, tokens_a)
    b, _ = _counted(nll_b, tokens_b)
    if len(counts) < 2:
        return None
    differences = a - b
    seen = math.fsum(differences)
    slack = 1e-12 * float(np.abs(differences).sum())  # a pattern that ties with the one seen differs by rounding
    rng = np.random.default_rng(seed)
    hits = 0
    for size in _blocks(resamples, len(differences)):
        signs = rng.integers(0, 2, size=(size, len(differences)), dtype=np.int8) * 2.0 - 1.0
        hits += int(np.count_nonzero(np.abs(signs @ differences) >= abs(seen) - slack))
    interval = _percentiles(_resampled_ratio(differences, counts, resamples, seed), 0.95)
    return Paired(seen / int(counts.sum()), interval, (hits + 1) / (resamples + 1))


@dataclass(frozen=True, slots=True)
class McNemar:
    """Items that exactly one of two models answered right, and the chance of so uneven a split."""

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: Sequence[bool], correct_b: Sequence[bool]) -> McNemar:
    """Exact two-sided test: the items on which the two disagree are tosses of a fair coin (McNemar 1947).

    Raises:
        ValueError: the two did not answer the same number of items.
    """
    pairs = list(zip(correct_a, correct_b, strict=True))
    only_a, only_b = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return McNemar(only_a, only_b, sign_test(only_a, only_b))


def wilson_interval(hits: int, n: int, level: float = 0.95) -> Interval | None:
    """Interval of a proportion that holds near 0 and 1 too (Wilson 1927); None where n is 0."""
    if n == 0:
        return None
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = hits / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


Extractor = Callable[[str], str | None]
"""A text -> the answer in it, None where there is none."""

_MINUS = "\N{MINUS SIGN}\N{EN DASH}\N{FULLWIDTH HYPHEN-MINUS}-"  # the hyphen last: these stand in character classes
_CURRENCY = "$€£¥₹"
_NUMBER = re.compile(
    rf"""(?<!\w)(?<!\w\.)                                   # not inside a word, a number or "5-6"
    (?:(?P<sign>[+{_MINUS}])(?=\s?[{_CURRENCY}]|\.?\d))?    # a dash with a space after it is not a sign: "- 5 apples"
    \s?[{_CURRENCY}]?\s?
    (?P<inner>[+{_MINUS}](?=\.?\d))?                        # "$-5"
    (?P<digits>\d{{1,3}}(?:,\d{{2,3}})*,\d{{3}}(?!\d)(?:\.\d+)?   # 1,234.5 and 12,34,567
      |\d+(?:\.\d+)?
      |(?<![\w.])\.\d+)                                     # .5, but not the end of "...5"
    (?P<over>/0*[1-9]\d*)?                                  # 3/4""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+|\d+/0*[1-9]\d*)")
_ANSWER_LINE = re.compile(r"####([^\r\n]*)")
_REFERENCE_LINE = re.compile(r"^[ \t]*####", re.MULTILINE)


def extractor(kind: str, pattern: str = "") -> Extractor:
    """How answers are read, by the names of eval.exact_match.

    gsm8k: the first number on the first line with `####`; what a model writes after that line does not count.
    last_number: the last number of the text. text: all of it, runs of whitespace made one space.
    regex: the first group of the first match of `pattern`.

    Numbers come back bare: "$1,234.50." is "1234.50", "−5 %" is "-5".

    Raises:
        ValueError: no such kind.
    """
    if kind == "gsm8k":
        return _after_hashes
    if kind == "last_number":
        return lambda text: numbers[-1] if (numbers := _numbers(text)) else None
    if kind == "text":
        return lambda text: " ".join(text.split()) or None
    if kind == "regex":
        compiled = re.compile(pattern)
        return lambda text: match[1] if (match := compiled.search(text)) else None
    raise ValueError(f"no extractor {kind!r}")


def resolve(kind: str, references: Iterable[str]) -> str:
    """What "auto" means: gsm8k where most references hold a line that starts with `####`, else none."""
    if kind != "auto":
        return kind
    texts = [r for r in references if r]
    return "gsm8k" if 2 * sum(1 for r in texts if _REFERENCE_LINE.search(r)) > len(texts) else "none"


def _after_hashes(text: str) -> str | None:
    line = _ANSWER_LINE.search(text)
    numbers = _numbers(line[1]) if line else []
    return numbers[0] if numbers else None


def _numbers(text: str) -> list[str]:
    """The numbers of a text, bare: no commas, no currency, no plus, "-" for every minus, 0 before a leading point."""
    found = []
    for match in _NUMBER.finditer(text):
        sign = match["inner"] or match["sign"] or "+"
        digits = match["digits"].replace(",", "")
        bare = ("0" if digits.startswith(".") else "") + digits + (match["over"] or "")
        found.append(("-" if sign in _MINUS else "") + bare)
    return found


def same(a: str, b: str) -> bool:
    """Whether two extracted answers are equal: as exact numbers where both are ("29.00" and "29"), else as text."""
    x, y = _value(a), _value(b)
    return a == b if x is None or y is None else x == y


def _value(text: str) -> Fraction | None:
    bare = text.strip().replace("\N{MINUS SIGN}", "-")
    if not _PLAIN.fullmatch(bare) or len(bare) > 4000:  # int() refuses more than 4,300 digits
        return None
    return Fraction(bare)
