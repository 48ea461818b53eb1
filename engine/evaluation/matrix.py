"""Measure base and adapters on the same rows: perplexity of every token exactly once, exact match, tests against base.

Comes from: `Loaded` (the base once, adapters switched in place) and `tokens.examples`. Goes to: `results`,
which says what the figures mean, and from there to `evaluation.json` and the closing table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from engine import events
from engine.errors import InputError
from engine.evaluation import metrics
from engine.evaluation.results import BASE, COMPLETION, SCOPES, SPLIT_WORDS, Cell, Counts, Evaluation, Item, table
from engine.evaluation.scoring import Progress, context_length, score, score_scopes
from engine.events import Emit
from engine.models.loaded import Loaded
from engine.tables import EvalTable, Project
from engine.tokens.examples import Example

if TYPE_CHECKING:
    from engine.generation.answering import Answer

__all__ = ["evaluate", "sample", "score", "table"]

Ask = Callable[[list[list[int]], Progress], "Sequence[Answer]"]
"""Answers to prompts (token ids), in their order, by the weights now in use."""


def sample(rows: int, limit: int, seed: int) -> list[int]:
    """Places of `limit` out of `rows` rows (0: all), in their order; the same seed chooses the same."""
    if limit == 0 or limit >= rows:
        return list(range(rows))
    return sorted(np.random.default_rng(seed).permutation(rows)[:limit].tolist())


def evaluate(
    loaded: Loaded,
    splits: Mapping[str, Sequence[Example]],
    models: Sequence[str | None],
    project: Project,
    *,
    emit: Emit,
    stop: str = "",
    ask: Ask | None = None,
    known: Evaluation | None = None,
) -> Evaluation:
    """The matrix of models and splits, every model on the same rows and tokens.

    Args:
        splits: examples by name; of "train" eval.train_rows are measured, of every other eval.test_rows.
        models: attached adapters by name; None is the base, against which the others are tested.
        emit: gets a `Stage` for what takes long and a `Scored` for each model, split and scope.
        stop: the text that ends an answer (`prompts.Template.stop`).
        ask: generates the answers; by default `answering.complete` with the project's [generate] table.
        known: an evaluation of the same weights; what it measured of the same rows in the same way is taken from there.

    Raises:
        InputError: a model twice, one that is not attached, an adapter called "base", no row to measure.
        WorkFailed: a model's predictions are NaN or infinite.
    """
    _check(loaded, models)
    chosen = {split: _chosen(split, examples, project.eval) for split, examples in splits.items()}
    measured = {split: rows for split, rows in chosen.items() if rows}
    if not measured:
        raise InputError("there is no row to measure", remedy="see eval.train_rows and data.test")
    kind = metrics.resolve(project.eval.exact_match, (e.reference for rows in measured.values() for e in rows))
    questions = {split: _questions(rows, kind, project.eval, loaded.limit) for split, rows in measured.items()}
    if ask is None and any(q.expected for q in questions.values()):
        ask = _asker(loaded, project, stop)
    settings = {
        "context": context_length(loaded, project.eval.window),
        "exact_match": kind,
        "eval": project.eval.model_dump(),
        "generate": project.generate.model_dump(exclude={"prompts"}),
    }
    before = known.cells if known is not None and known.settings == settings else {}
    cells: dict[tuple[str, str], Cell] = {}
    for name in models:
        with loaded.using(name):
            for split, rows in measured.items():
                cell = before.get((name or BASE, split))
                if cell is None or [item.where for item in cell.items] != [example.where for example in rows]:
                    cell = _measure(loaded, name or BASE, split, rows, questions[split], project.eval, emit, ask)
                cells[cell.model, split] = cell
    counts = {
        split: Counts(len(splits[split]), len(rows), len(questions[split].expected), questions[split].not_askable)
        for split, rows in measured.items()
    }
    rows_made = [
        cell.row(scope, cells.get((BASE, cell.split)), project.eval) for cell in cells.values() for scope in SCOPES
    ]
    return Evaluation(rows_made, [item for cell in cells.values() for item in cell.items], settings, counts, cells)


def _check(loaded: Loaded, models: Sequence[str | None]) -> None:
    """Every model can be measured, and is called by a name of its own."""
    for place, name in enumerate(models):
        if name in models[:place]:
            raise InputError(f"{name or BASE!r} is to be measured twice", remedy="name every adapter once")
        if name == BASE:
            raise InputError(f"an adapter cannot be called {BASE!r}: that is the model without adapters")
        if name is not None and name not in loaded.adapters:
            raise InputError(f"no adapter {name!r}", remedy=f"attached are: {', '.join(loaded.adapters) or 'none'}")


def _chosen(split: str, examples: Sequence[Example], table: EvalTable) -> list[Example]:
    """The rows of a split to measure."""
    if split == "train" and table.train_rows == 0:
        return []
    limit = table.train_rows if split == "train" else table.test_rows
    return [examples[i] for i in sample(len(examples), limit, table.seed)]


@dataclass(frozen=True, slots=True)
class _Questions:
    """The rows of a split that are asked.

    Attributes:
        expected: place of the row -> the answer that its reference holds.
        not_askable: why not -> file:line of the rows.
    """

    expected: dict[int, str]
    not_askable: dict[str, list[str]]
    extract: metrics.Extractor
    same: Callable[[str, str], bool]


def _questions(examples: Sequence[Example], kind: str, table: EvalTable, limit: int | None) -> _Questions:
    """A seeded sample of the rows that have an answer to be read off their reference, and a prompt that fits."""
    if kind == "none":
        return _Questions({}, {}, lambda text: None, metrics.same)
    extract = metrics.extractor(kind, table.answer_pattern)
    able: list[tuple[int, str]] = []
    refused: dict[str, list[str]] = {}
    for place, example in enumerate(examples):
        expected = extract(example.reference)
        if expected is None:
            refused.setdefault("without an answer in the reference", []).append(example.where)
        elif example.cut or example.supervised == 0:
            refused.setdefault("cut to fit train.max_length", []).append(example.where)
        elif example.weights[0] > 0:
            refused.setdefault("without a prompt", []).append(example.where)
        elif limit is not None and len(example.prompt_ids) >= limit:
            refused.setdefault("with a prompt that fills the model's context", []).append(example.where)
        else:
            able.append((place, expected))
    chosen = [able[i] for i in sample(len(able), table.match_rows, table.seed)]
    return _Questions(dict(chosen), refused, extract, str.__eq__ if kind == "text" else metrics.same)


def _measure(
    loaded: Loaded,
    model: str,
    split: str,
    examples: Sequence[Example],
    questions: _Questions,
    table: EvalTable,
    emit: Emit,
    ask: Ask | None,
) -> Cell:
    """Score and ask the weights now in use."""
    subject = f"of {model} on {SPLIT_WORDS.get(split, f'{split} rows')}"
    progress = _stage(emit, f"perplexity {subject}", "tokens")
    sizes = {"window": table.window, "batch_tokens": table.batch_tokens}
    scores = score_scopes(loaded, examples, SCOPES, **sizes, progress=progress)
    items = [
        Item(
            model,
            split,
            example.where,
            {scope: scores[scope][place].nll for scope in SCOPES},
            {scope: scores[scope][place].tokens for scope in SCOPES},
        )
        for place, example in enumerate(examples)
    ]
    if ask is not None and questions.expected:
        prompts = [examples[place].prompt_ids for place in questions.expected]
        progress = _stage(emit, f"answers {subject}", "rows")
        progress(0, len(prompts))
        answers = ask(prompts, progress)
        for (place, expected), answer in zip(questions.expected.items(), answers, strict=True):
            extracted = questions.extract(answer.text)
            items[place] = replace(
                items[place],
                prompt=loaded.tokenizer.decode(examples[place].prompt_ids),
                reference=examples[place].reference,
                answer=answer.text,
                stopped=answer.stopped,
                expected=expected,
                extracted=extracted,
                correct=extracted is not None and questions.same(extracted, expected),
            )
    cell = Cell(model, split, scores, items)
    for scope in SCOPES:
        _tell(cell, scope, emit)
    return cell


def _tell(cell: Cell, scope: str, emit: Emit) -> None:
    sums = metrics.total(cell.scores[scope])
    if sums.perplexity is None:
        text = f"{SPLIT_WORDS.get(cell.split, cell.split)}: no row has a token to score in scope {scope!r}"
        emit(events.Note(text=text, level="warning"))
        return
    emit(
        events.Scored(
            model=cell.model,
            split=cell.split,
            scope=scope,
            nll=sums.nll,
            tokens=sums.tokens,
            perplexity=sums.perplexity,
            exact_match=cell.exact_match if scope == COMPLETION else None,
        )
    )


def _stage(emit: Emit, name: str, unit: str) -> Progress:
    """Progress as the events of one stage."""

    def progress(done: int, total: int) -> None:
        emit(events.Stage(name=name, done=done, total=total, unit=unit))

    return progress


def _asker(loaded: Loaded, project: Project, stop: str) -> Ask:
    from engine.generation import answering

    settings = answering.settings_from(project.generate, loaded, stop)
    return lambda prompts, progress: answering.complete(loaded, prompts, settings, progress)
