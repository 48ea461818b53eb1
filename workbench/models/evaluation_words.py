"""Figures of an evaluation in words: how a model compares with base, an interval, a perplexity in few characters."""

from __future__ import annotations

import math

from workbench.models.evaluation import Interval, Line, Number


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
