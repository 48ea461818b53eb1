"""An evaluation for the screen: columns and cells of its matrix and of its rows, one row in full, figures in words.

Comes from: `models.evaluation`. Goes to: `editors.eval_view`. Everything that a model or a data set said is made harmless.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from textual.content import Content

from engine.text import amount, cells, cut, one_line, pad, printable
from workbench.models import evaluation_words
from workbench.models.evaluated_rows import Document, Item, Pair
from workbench.models.evaluation import BASE, SPLIT_WORDS, Line, Source
from workbench.models.evaluation_words import short
from workbench.widgets.sortable_table import Cell, Column

MOST_SHOWN = 20_000
"""Characters of a text that are shown of one row."""

# --- the matrix

MATRIX = [
    Column("model", "model", most=44, grows=True),
    Column("split", "rows", most=14),
    Column("scope", "scope", most=12),
    Column("perplexity", "ppl", ">", most=12),
    Column("interval", "95 %", ">", most=20, rank=2),
    Column("against", "against base", most=22, rank=1),
    Column("wins", "better on", ">", most=18, rank=3),
    Column("exact", "exact", ">", most=8),
    Column("exact_interval", "95 %", ">", most=16, rank=5),
    Column("turned", "gained/lost", ">", most=12, rank=4),
    Column("bits", "bits/byte", ">", most=10, rank=6),
    Column("tokens", "tokens", ">", most=12, rank=7),
    Column("nll", "nll", ">", most=14, rank=8),
]


def words_against(line: Line) -> Cell:
    """ "better, p < 0.001"."""
    paired = line.row.paired
    if line.wins is not None and line.wins.rows and not line.wins.better and not line.wins.worse:
        return "the same"
    if paired is None or paired.difference is None:
        return ""
    if paired.p is not None and paired.p >= 0.05:
        return f"no clear one, {evaluation_words.chance(paired.p)}"
    better = paired.difference < 0
    return f"{'better' if better else 'worse'}, {evaluation_words.chance(paired.p)}".strip(
        ", "
    ), "good" if better else "bad"


def matrix_cells(line: Line) -> list[Cell]:
    """In the order of MATRIX."""
    row, wins, test = line.row, line.wins, line.row.mcnemar
    low_high = row.interval and f"{short(row.interval[0])} - {short(row.interval[1])}"
    exact = row.exact_match_interval
    return [
        f"{row.model} (other rows)" if line.other else row.model,
        SPLIT_WORDS.get(row.split, row.split).removesuffix(" rows"),
        row.scope,
        short(row.perplexity),
        low_high or "",
        words_against(line),
        f"{wins.better:,} of {wins.rows:,}" if wins is not None else "",
        amount(row.exact_match, ".1%") if row.exact_match is not None else "",
        f"{amount(exact[0], '.1%')} - {amount(exact[1], '.1%')}" if exact else "",
        f"+{test.only_a:,} -{test.only_b:,}" if test is not None else "",
        amount(row.bits_per_byte, ".4f"),
        f"{row.tokens:,}",
        amount(row.nll, ",.1f"),
    ]


_SORT: dict[str, Callable[[Line], Any]] = {
    "model": lambda x: (x.row.model != BASE, x.row.model),
    "split": lambda x: x.row.split,
    "scope": lambda x: x.row.scope,
    "perplexity": lambda x: x.row.perplexity,
    "interval": lambda x: x.row.interval and x.row.interval[0],
    "against": lambda x: x.row.paired and x.row.paired.difference,
    "wins": lambda x: x.wins and x.wins.rows and x.wins.better / x.wins.rows,
    "exact": lambda x: x.row.exact_match,
    "exact_interval": lambda x: x.row.exact_match_interval and x.row.exact_match_interval[0],
    "turned": lambda x: x.row.mcnemar and x.row.mcnemar.only_a - x.row.mcnemar.only_b,
    "bits": lambda x: x.row.bits_per_byte,
    "tokens": lambda x: x.row.tokens,
    "nll": lambda x: x.row.nll,
}


def sorted_lines(lines: Sequence[Line], key: str, descending: bool) -> list[Line]:
    """Lines by a column of MATRIX, those without a value last; "" as they are."""
    if key not in _SORT:
        return list(lines)
    get = _SORT[key]
    have = [x for x in lines if get(x) is not None]
    return sorted(have, key=get, reverse=descending) + [x for x in lines if get(x) is None]


def sentence(line: Line) -> Content:
    """What a line of the matrix says."""
    row = line.row
    name, where = one_line(row.model), SPLIT_WORDS.get(row.split, one_line(row.split))
    interval = row.interval and f" (95 %: {short(row.interval[0])} to {short(row.interval[1])})"
    parts = [f"{name} on {where}, {one_line(row.scope)}: perplexity {short(row.perplexity)}{interval or ''}."]
    if said := evaluation_words.against(line):
        parts.append(f"{said[0].upper()}{said[1:]}.")
    if said := evaluation_words.answers(line):
        parts.append(f"{said[0].upper()}{said[1:]}.")
    if line.other:
        parts.append("It was measured on other rows than the base above; compared with base on its own rows.")
    return Content(" ".join(parts))


def facts(line: Line, source: Source | None) -> Content:
    """All figures of a line, for the inspector."""
    row, test = line.row, line.row.mcnemar
    pairs = [
        ("model", row.model), ("rows", SPLIT_WORDS.get(row.split, row.split)), ("scope", row.scope),
        ("perplexity", short(row.perplexity)), ("95 %", evaluation_words.between(row.interval, ",.4f") or "-"),
        ("nll", f"{amount(row.nll, ',.2f')} nats"), ("tokens", f"{row.tokens:,}"),
        ("bits/byte", amount(row.bits_per_byte, ".4f")),
    ]  # fmt: skip
    if row.exact_match is not None:
        pairs += [
            ("exact match", amount(row.exact_match, ".2%")),
            ("95 %", evaluation_words.between(row.exact_match_interval, ".1%") or "-"),
        ]  # fmt: skip
    if line.wins is not None:
        wins = line.wins
        pairs.append(("rows", f"{wins.better:,} better, {wins.worse:,} worse of {wins.rows:,}"))
    if row.paired is not None:
        pairs += [
            ("difference", f"{amount(row.paired.difference, '+.4f')} nats/token"),
            ("95 %", evaluation_words.between(row.paired.interval, "+.4f") or "-"),
            ("permutation", evaluation_words.chance(row.paired.p) or "-"),
        ]
    if test is not None:
        pairs.append(("McNemar", f"+{test.only_a:,} -{test.only_b:,}, {evaluation_words.chance(test.p)}"))
    if source is not None:
        pairs.append(("measured", when(source.when)))
        adapter = source.adapters.get(row.model)
        if adapter is not None:
            pairs += [("weights", adapter.sha256[:16] or "-"), ("folder", adapter.path)]
        counts = source.counts.get(row.split)
        if counts is not None:
            pairs.append(("rows", f"{counts.measured:,} of {counts.given:,}, {counts.asked:,} asked"))
            pairs += [("not asked", f"{len(w):,} {why}") for why, w in counts.not_askable.items()]
        if isinstance(source.settings.get("exact_match"), str):
            pairs.append(("answer by", source.settings["exact_match"]))
    return titled(pairs)


def titled(pairs: Sequence[tuple[str, str]]) -> Content:
    """Titles and texts below each other."""
    width = max((len(t) for t, _ in pairs), default=0)
    return Content("\n").join(
        Content.assemble((f"{title:<{width}}  ", "$text-muted"), one_line(text)) for title, text in pairs
    )


def summary(source: Source) -> str:
    """When it was written, which models on which rows."""
    rows = " and ".join(
        f"{c.measured:,} {SPLIT_WORDS.get(s, s).removesuffix(' rows')}" for s, c in source.counts.items()
    )
    return f"{when(source.when)}: {', '.join(source.models)}" + (f" on {rows} rows" if rows else "")


def when(seconds: float) -> str:
    """ "25 Nov 18:32"."""
    return time.strftime("%d %b %H:%M", time.localtime(seconds))


# --- which evaluations there are

HISTORY = [
    Column("when", "written", most=14),
    Column("models", "models", most=60, grows=True),
    Column("rows", "rows", ">", most=16),
    Column("file", "file", most=50, rank=1, grows=True),
]


def history_cells(source: Source, root: Path) -> list[Cell]:
    """In the order of HISTORY."""
    try:
        file = str(source.path.relative_to(root))
    except ValueError:
        file = str(source.path)
    if source.problem:
        return [when(source.when), (source.problem, "bad"), "", file]
    rows = " + ".join(f"{c.measured:,}" for c in source.counts.values())
    return [when(source.when), ", ".join(source.models), rows, file]


# --- rows


def rows_columns(scope: str, compared: bool) -> list[Column]:
    return [
        Column("at", "row", ">", most=8),
        Column("mean", "nats/tok", ">", most=11),
        Column("perplexity", "ppl", ">", most=9),
        *([
            Column("base", "base ppl", ">", most=9, rank=1),
            Column("change", "change", ">", most=9),
        ] if compared else []),
        Column("tokens", "tokens", ">", most=7, rank=4),
        Column("answer", "answer", most=12, rank=0),
        Column("extracted", "extracted", most=24, rank=2),
        Column("where", "where", most=32, rank=3),
        Column("text", "text", most=200, grows=True, rank=5),
    ]  # fmt: skip


def verdict(item: Item) -> Cell:
    if item.correct is None:
        return ("not asked", "dim")
    return ("right", "good") if item.correct else ("wrong", "bad")


def answer_cell(pair: Pair) -> Cell:
    """ "right", "wrong", "gained" (base was wrong), "lost" (base was right)."""
    if pair.turned:
        return pair.turned, "good" if pair.turned == "gained" else "bad"
    return verdict(pair.item)


def row_cells(pair: Pair, scope: str, compared: bool) -> list[Cell]:
    """In the order of `rows_columns`."""
    item, mean = pair.item, pair.item.mean(scope)
    change = pair.change(scope)
    base: list[Cell] = []
    if compared:
        base = [
            short(evaluation_words.perplexity(pair.base.mean(scope))) if pair.base is not None else "-",
            "-" if math.isnan(change) else (f"{change:+.3f}", "good" if change < 0 else "bad" if change > 0 else ""),
        ]
    return [
        f"{pair.at + 1:,}", "-" if math.isnan(mean) else f"{mean:.3f}", short(evaluation_words.perplexity(mean)), *base,
        f"{item.tokens.get(scope, 0):,}", answer_cell(pair), item.extracted or "", item.where,
        item.answer or item.reference or "",
    ]  # fmt: skip


def preview(pair: Pair) -> Content:
    """The answer of a row and what it should have been, in two lines."""
    item = pair.item
    if item.prompt is None:
        return Content.assemble((f"{one_line(item.where)}: ", "$text-muted"), "scored, not asked")
    expected = (
        f"expected {one_line(item.expected or '-')[:60]}, answered {one_line(item.extracted or 'nothing to read')[:60]}"
    )
    return Content.assemble(
        (f"{one_line(item.where)}: ", "$text-muted"), expected, "\n", one_line((item.answer or "")[:600])
    )


# --- one row


def row_in_full(document: Document, pair: Pair, split: str, width: int, ascii_only: bool) -> Content:
    """What every model made of one row."""
    everybody = document.everybody(pair.at, split)
    parts: list[Content] = [_measures(everybody, pair.item.model, width), Content("")]
    asked = next((i for i in everybody if i.prompt is not None), None)
    if asked is None:
        parts.append(
            Content.styled("This row was scored, not asked: its texts are in the data (space d).", "$text-muted")
        )
        return Content("\n").join(parts)
    parts += _block("Prompt", "", asked.prompt or "", width, ascii_only)
    parts += _block(
        "Reference", f"expected {one_line(asked.expected or '-')}", asked.reference or "", width, ascii_only
    )
    ours = [i for i in everybody if i.model == pair.item.model]
    for item in [*ours, *(i for i in everybody if i.model != pair.item.model)]:
        if item.correct is None:
            continue
        mark = ("+" if item.correct else "x") if ascii_only else ("✓" if item.correct else "✗")
        said = f"{mark} {'right' if item.correct else 'wrong'}: "
        said += f"answered {one_line(item.extracted)}" if item.extracted is not None else "no answer to be read off it"
        if item.stopped is False:
            said += "; cut off at generate.max_new_tokens"
        parts += _block(item.model, said, item.answer or "", width, ascii_only)
    return Content("\n").join(parts)


def _measures(everybody: Sequence[Item], chosen: str, width: int) -> Content:
    """A line a model: per scope its perplexity, nats per token, and their change against base."""
    scopes = list(dict.fromkeys(scope for i in everybody for scope in i.nll))
    base = next((i for i in everybody if i.model == BASE), None)
    room = max(8, width - 31 * len(scopes))
    name = min(room, max((cells(one_line(i.model)) for i in everybody), default=5))
    heads = " " * name + "".join(f"  {cut(one_line(s), 28):>28}" for s in scopes)
    titles = " " * name + f"  {'ppl':>8}  {'nats/tok':>8}  {'change':>8}" * len(scopes)
    lines = [Content.styled(heads.rstrip(), "$text-muted"), Content.styled(titles.rstrip(), "$text-muted")]
    for item in everybody:
        text = pad(cut(one_line(item.model), name), name)
        for s in scopes:
            mean = item.mean(s)
            change = mean - base.mean(s) if base is not None and item is not base else math.nan
            text += f"  {short(evaluation_words.perplexity(mean)):>8}  {amount(None if math.isnan(mean) else mean, '.3f'):>8}"
            text += f"  {'' if math.isnan(change) else f'{change:+.3f}':>8}"
        lines.append(Content.styled(text.rstrip(), "bold") if item.model == chosen else Content(text.rstrip()))
    return Content("\n").join(lines)


def _block(title: str, about: str, text: str, width: int, ascii_only: bool) -> list[Content]:
    rule = ("-" if ascii_only else "─") * 2
    head = Content.assemble((f"{rule} {one_line(title)} {rule}", "bold $text-primary"), f"  {about}" if about else "")
    cut_words = f"\n… {len(text) - MOST_SHOWN:,} more characters" if len(text) > MOST_SHOWN else ""
    return [head, Content(printable(text[:MOST_SHOWN]).rstrip("\n") + cut_words), Content("")]
