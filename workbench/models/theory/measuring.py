"""The page about perplexity."""

from __future__ import annotations

from collections.abc import Sequence

from engine.text import one_line
from workbench.models.theory.blocks import Block, Heading, Note, Numbers, Sources, Text, formula
from workbench.models.theory.facts import Choice, Facts
from workbench.models.theory.numbers import perplexities

JELINEK = "Jelinek et al. 1977, Perplexity: a measure of the difficulty of speech recognition tasks, JASA 62"
MEISTER = "Meister & Cotterell 2021, Language Model Evaluation Beyond Perplexity, arXiv:2106.00085"


def perplexity(facts: Facts, choice: Choice) -> Sequence[Block]:
    return [
        Text(
            "Perplexity is the exponential of the mean surprise a token: a model that is as unsure as if it had to guess "
            "among k equally likely tokens has perplexity k."
        ),
        formula(
            "nll         =  sum over tokens of -log p(token | tokens before), in nats",
            "perplexity  =  exp( nll of all rows / tokens of all rows )",
        ),
        Text(
            "Sums first, one division at the end. Averaging the perplexities of rows is another number: the exponential "
            "is convex, so a few bad rows lift the mean, and a row of 3 tokens counts as much as one of 300. Averaging the "
            "rows' mean nll is a third number, with the second of these faults only."
        ),
        *_measured(facts),
        Heading("What it does not tell"),
        Text(
            "- It depends on the tokenizer: fewer, longer tokens have a higher perplexity for the same text. Compare models "
            "with different tokenizers in bits per byte: nll / (ln 2 x bytes)."
        ),
        Text(
            "- It is measured with the true text as context (teacher forcing). How a model goes on from its own mistakes is "
            "not in it; generated answers and exact match are."
        ),
        Text(
            "- It falls when the model learns the form of the answers, long before it learns to be right: in a worked answer "
            "most tokens are form. A base that knows the facts but not your format looks worse than it is."
        ),
        Text(
            "- On training rows it says how much was learned by heart. Only unseen rows count, and only if none of them, nor "
            "a near copy, is among the training rows (the data view shows overlaps)."
        ),
        Text(
            "- A difference between two models means little without its interval: rows differ much more than models do, so "
            "compare row by row (the evaluation's paired test), not the two perplexities."
        ),
        Sources((JELINEK, MEISTER)),
    ]


def _measured(facts: Facts) -> list[Block]:
    if not facts.measured:
        return [Note("Where this project has an evaluation (space e e), the three numbers of its rows stand here.")]
    rows, worst = [], 0.0
    for m in facts.measured:
        found = perplexities(m.rows)
        worst = max(worst, abs(found.mean_of_rows / found.of_all - 1) if found.of_all else 0.0)
        rows.append(
            [one_line(m.model), one_line(m.split), f"{len(m.rows):,}", f"{sum(t for _, t in m.rows):,}",
             f"{found.of_all:.4g}", f"{found.mean_of_rows:.4g}", f"{found.of_mean_rows:.4g}"]
        )  # fmt: skip
    headers = ["model", "split", "rows", "tokens", "exp(sum/sum)", "mean of rows'", "exp(mean of rows)"]
    return [
        Note(f"The completions of run {one_line(facts.measured_run)}'s evaluation:"),
        Numbers(headers, rows, "<<>>>>>"),
        Note(f"The first is the perplexity; the mean of the rows' is up to {worst:.0%} away from it here."),
    ]
