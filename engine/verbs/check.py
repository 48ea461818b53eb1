"""`loraworkbench check`: everything that is wrong with a project, at once, before anything is trained.

Looks at the project file, the data sources, the tokenizer and the lengths of the rows; of a base that is on disk also
at its shapes. Loads no weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine import estimate, events, smaller
from engine.adapters import pattern_value
from engine.console import Console, from_here
from engine.errors import InputError
from engine.rows import ledger
from engine.safetensors_io import Checkpoint, read_json
from engine.spec import SpecError
from engine.store import Workspace
from engine.tables import LoraTable, Project, TrainTable
from engine.text import size
from engine.tokens import dataset
from engine.tokens.dataset import Dataset, Split
from engine.tokens.examples import Encoder
from engine.tokens.prompts import Template
from engine.tokens.survey import spread
from engine.training import needs
from engine.training.order import Order
from engine.verbs.rows import lenient, read_sources, too_many_refused

EMBEDDINGS = frozenset(("embed_tokens", "embed_in", "wte", "wpe", "word_embeddings", "lm_head", "embed_out", "output"))
"""Modules with a matrix that "all-linear" leaves out: tables of embeddings, and the head."""


@dataclass
class Report:
    """What was found.

    Attributes:
        problems: what would stop the training, as {where, problem, remedy}.
        warnings: what would not.
        facts: what else the document has.
    """

    problems: list[dict[str, str | None]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def problem(self, problem: str, where: str | None = None, remedy: str | None = None) -> None:
        """Add a problem, once."""
        found = {"where": where, "problem": problem, "remedy": remedy}
        if found not in self.problems:
            self.problems.append(found)

    def error(self, error: InputError) -> None:
        """Add the problem of an error, or all mistakes of a project file."""
        if isinstance(error, SpecError):
            for mistake in error.mistakes:
                self.problem(mistake.problem, mistake.where)
        else:
            self.problem(error.problem, error.where, error.remedy)


def run(
    workspace: Workspace, project_name: str, overrides: list[str], no_model: bool, console: Console
) -> dict[str, Any]:
    """Check a project and print what was found.

    Args:
        no_model: leave the base alone, also its tokenizer; then nothing is known about lengths.

    Returns:
        {ok, project, problems: [{where, problem, remedy}], warnings, ...} and, as far as it came to that, `data` (the
        ledger, see `Dataset.to_json`), `lengths` (of each split: rows, cut, tokens, supervised, min, median, p95, max),
        `steps`, `steps_per_epoch`, `trainable_parameters` (null where only loading the base would tell) and `memory` (the
        estimated peak of a run: bytes, parts; null where the base's shapes are not known; see `engine.estimate`).

    Raises:
        InputError: there is no such project.
    """
    folder = workspace.project(project_name)
    report = Report()
    try:
        project = folder.load(overrides)
    except SpecError as error:
        report.error(error)
    else:
        for problem in needs.problems(project, estimate.room(project.launch.device).device):
            report.error(problem)
        if no_model:
            _check_sources(project, workspace, report, console)
        else:
            _check_all(project, workspace, report, console)
    for warning in report.warnings:
        console.warn(warning)
    _tell_problems(console, report)
    return {
        "ok": not report.problems,
        "project": folder.name,
        "problems": report.problems,
        "warnings": report.warnings,
        **report.facts,
    }


def _tell_problems(console: Console, report: Report) -> None:
    count = len(report.problems)
    console.say("\nno problems" if not count else f"\n{count} problem{'s' * (count > 1)}:")
    for found in report.problems:
        place = f"{from_here(found['where'])}: " if found["where"] else ""
        console.say(f"  {place}{found['problem']}")
        if found["remedy"]:
            console.say(f"      {found['remedy']}")


# --- data


def _check_sources(project: Project, workspace: Workspace, report: Report, console: Console) -> None:
    """What can be said without a tokenizer."""
    loaded, wrong = read_sources(project, workspace)
    for error in wrong:
        report.error(error)
    ledgers = {name: each.ledger for name, each in loaded.items()}
    for name, each in ledgers.items():
        console.say(f"{name}: {each.summary()}")
    if "train" in loaded:
        shape = loaded["train"].shape
        console.say(f"shape: {shape.describe()}")
        report.facts["data"] = {
            "ledger": ledger.total(ledgers.values()).to_json(),
            "shape": shape.name,
            "columns": dict(shape.columns),
            "splits": {name: each.to_json() for name, each in ledgers.items()},
        }
    _judge_ledgers(ledgers, project, report)


def _check_all(project: Project, workspace: Workspace, report: Report, console: Console) -> None:
    from engine.models.tokenizer import tokenizer_of

    try:
        location, tokenizer = tokenizer_of(project, workspace)
    except InputError as error:
        report.error(error)
        _check_sources(project, workspace, report, console)
        return

    def emit(event: events.Event) -> None:
        if isinstance(event, events.Note) and event.level == "warning":
            report.warnings.append(event.text)
        else:
            console.emit(event)

    try:
        data = dataset.load(lenient(project), workspace, tokenizer, emit)
    except InputError as error:
        report.error(error)
        for other in read_sources(project, workspace)[1]:
            report.error(other)
        return
    console.say(f"shape: {data.shape.describe()}; template: {data.template.kind}")
    report.facts["data"] = data.to_json()
    _judge_ledgers({"train": data.train.ledger} | ({"test": data.test.ledger} if data.test else {}), project, report)
    base = Path(location) if Path(location).is_dir() else None
    _check_lengths(data, project, base, report, console)
    _check_size(project, base, report, console)
    _check_memory(data, project, workspace, report, console)


def _judge_ledgers(ledgers: dict[str, ledger.Ledger], project: Project, report: Report) -> None:
    for name, each in ledgers.items():
        place = each.refusals[0].where if each.refusals else None
        if problem := too_many_refused(each, project.data.max_refused):
            remedy = "`loraworkbench rows PROJECT` lists them; mend them, or raise data.max_refused"
            report.problem(f"{problem}; the first: {each.refusals[0].reason}", place, remedy)
        elif not each.kept + each.cut:
            report.problem(f"no {name} row can be used", place)
    if project.data.test is None and project.data.test_fraction == 0:
        report.warnings.append("no unseen rows to measure on: set data.test or data.test_fraction")


def _check_lengths(data: Dataset, project: Project, base: Path | None, report: Report, console: Console) -> None:
    sides = {"train": data.train} | ({"test": data.test} if data.test else {})
    found = {n: _lengths(split, data.template) for n, split in sides.items() if split.examples}
    report.facts["lengths"] = found
    if found:
        headers = ["tokens a row", "min", "median", "p95", "max", "cut", "in all", "supervised"]
        keys = ("min", "median", "p95", "max", "cut", "tokens", "supervised")
        console.table(headers, [[n, *(f"{each[k]:,}" for k in keys)] for n, each in found.items()], "<>>>>>>>")
    if "train" not in found:
        return
    if found["train"]["cut"]:
        cut, longest = found["train"]["cut"], found["train"]["max"]
        text = f"{cut:,} training rows are cut at train.max_length = {project.train.max_length}"
        report.warnings.append(f"{text}; the longest has {longest:,} tokens")
    limit = _context(base)
    longest = max(map(len, data.train.examples))
    if limit and longest > limit:
        place = max(data.train.examples, key=len).where
        remedy = f"set train.max_length to at most {limit}"
        report.problem(f"a row has {longest:,} tokens, and this base takes {limit:,}", place, remedy)
    steps, per_epoch = step_counts([len(e) for e in data.train.examples], project.train)
    report.facts |= {"steps": steps, "steps_per_epoch": per_epoch}
    console.say(f"{steps:,} steps, {per_epoch:,} an epoch")


def _lengths(split: Split, template: Template) -> dict[str, int]:
    """Lengths in tokens as they are before anything is cut."""
    encoder = Encoder(template.tokenizer)
    lengths = np.array(
        [
            len(encoder.encode(template.render(item))[0]) if example.cut else len(example)
            for (_, item), example in zip(split.items, split.examples, strict=True)
        ]
    )
    return {
        "rows": len(lengths),
        "cut": sum(e.cut for e in split.examples),
        "tokens": sum(map(len, split.examples)),
        "supervised": sum(e.supervised for e in split.examples),
        **spread(lengths),
    }


def step_counts(lengths: Sequence[int], train: TrainTable) -> tuple[int, int]:
    """Optimizer steps of the whole training, and of its first epoch."""
    one = train.model_copy(update={"epochs": 1.0, "steps": 0})
    return Order(lengths, train).steps, Order(lengths, one).steps


# --- the base, where it is on disk


def _context(base: Path | None) -> int | None:
    """Longest context in tokens by the base's config."""
    if base is None:
        return None
    config = read_json(base / "config.json")
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    found = text.get("max_position_embeddings") or text.get("n_positions")
    return found if isinstance(found, int) else None


def _check_size(project: Project, base: Path | None, report: Report, console: Console) -> None:
    count = None
    if base is not None:
        try:
            with Checkpoint.open(base) as checkpoint:
                shapes = {name: entry.shape for name, entry in checkpoint.entries.items()}
        except InputError as error:
            report.error(error)
        else:
            count = trainable_parameters(shapes, project.lora)
    report.facts["trainable_parameters"] = count
    if count == 0:
        report.problem("lora.target_modules names nothing in this base", remedy='use "all-linear"')
    elif count is not None:
        console.say(f"{count:,} trainable parameters")


def _check_memory(data: Dataset, project: Project, workspace: Workspace, report: Report, console: Console) -> None:
    """The estimated peak of a training run, against the memory that this machine has."""
    lengths = [len(e) for e in data.train.examples]
    report.facts["memory"] = None
    if not lengths:
        return
    place, sizes = estimate.room(project.launch.device), (_largest_step(lengths, project), max(lengths))
    try:
        found = estimate.of_project(project, workspace, place.device, *sizes)
    except InputError as error:
        console.say(f"memory: not known ({error.problem})")
        return
    report.facts["memory"] = {**found.to_json(), "on": place.name, "available": place.total}
    of = f" of {size(place.total)}" if place.total else ""
    console.say(f"needs about {size(found.total)}{of} ({place.name})")
    if place.total and found.total > place.total:
        less = smaller.words(smaller.that_fits(project, workspace, place.device, place.total, *sizes))
        too_much = f"a run needs about {size(found.total)}, and {place.name} has {size(place.total)}"
        report.warnings.append(f"{too_much}. {less}")


def _largest_step(lengths: Sequence[int], project: Project) -> int:
    """Tokens of the largest step of the first epoch."""
    order = Order(lengths, project.train)
    steps = step_counts(lengths, project.train)[1]
    return max(sum(lengths[i] for i in order.at(step).examples) for step in range(steps))


def trainable_parameters(shapes: dict[str, tuple[int, ...]], lora: LoraTable) -> int | None:
    """Parameters of the adapter for a base whose tensors have these shapes: r (inputs + outputs) for every target.

    None where the shapes do not tell: with DoRA or modules to save, or for targets that match no stored name.
    """
    if lora.dora or lora.modules_to_save:
        return None
    matrices = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    linear = {name: shape for name, shape in matrices.items() if len(shape) == 2}
    chosen = [name for name in linear if _targeted(name, lora.target_modules)]
    if not chosen and isinstance(lora.target_modules, str):
        return None  # a regular expression over names that the loaded model may spell otherwise
    return sum(pattern_value(lora.rank_pattern, name, lora.r) * sum(linear[name]) for name in chosen)


def _targeted(name: str, targets: str | list[str]) -> bool:
    """PEFT's rule (`peft.tuners.tuners_utils.check_target_module_exists`)."""
    if targets == "all-linear":
        return name.rpartition(".")[2] not in EMBEDDINGS
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
