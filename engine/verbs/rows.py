"""`loraworkbench rows`: what became of every row, and any row as the model will see it.

    data/faq.jsonl:12  train, 48 tokens, 20 supervised
    <bos>Question: Do you ship on Sundays?
    Answer:⟦ No, on Mondays again.<eos>⟧

Comes from: a project's data, read as `train` reads it, except that too many refused rows do not end it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from engine import events
from engine.console import Console, one_line, printable
from engine.errors import InputError
from engine.rows import ledger, reader
from engine.store import Workspace
from engine.tables import Project
from engine.tokens import dataset, shown
from engine.tokens.dataset import Dataset, Split
from engine.tokens.examples import Example

LISTED = 20
"""Refused rows listed without --all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows to show.

    Attributes:
        split: "train" or "test"; None: train, and for `where` or where one source is parted, both.
        row: number of the first one in its source, from 1. where: its place, "FILE:LINE".
        limit: how many. tokens: list their tokens, too.
    """

    split: str | None = None
    row: int | None = None
    where: str | None = None
    limit: int = 1
    tokens: bool = False

    @property
    def asked(self) -> bool:
        """Whether anything was asked for; else the first row is shown to people as an example."""
        return self != Wanted(split=self.split)


def run(
    workspace: Workspace, project_name: str, overrides: list[str], wanted: Wanted, everything: bool, console: Console
) -> dict[str, Any]:
    """Print the ledger, the shape and rows.

    Args:
        everything: list every refused row that the ledger lists.

    Returns:
        `Dataset.to_json`, with `row` (the one asked for: split, where, tokens, supervised, cut, text, segments, ids,
        weights) and, where several were asked for, `shown`. `incomplete` says why nothing could be tokenised, in which
        case rows that are too long or have nothing to learn are not known.

    Raises:
        InputError: the project file, a source or its shape is wrong, or there is no such row.
    """
    from engine.models.tokenizer import tokenizer_of

    given = workspace.project(project_name).load(overrides)
    project, tokenizer = lenient(given), None
    try:
        _, tokenizer = tokenizer_of(project, workspace)
        data = dataset.load(project, workspace, tokenizer, _progress(console))
    except InputError as error:
        known = _without_tokens(project, workspace, console, error, everything)
        if tokenizer is None and not wanted.asked:
            return known
        console.document(known)
        raise
    document: dict[str, Any] = data.to_json()
    _tell_ledgers(console, {n: s.ledger for n, s in _sides(data).items()}, everything)
    console.say(f"\nshape: {data.shape.describe()}\ntemplate: {data.template.kind}")
    _warn(console, given, data)
    rows = [shown.document(tokenizer, *each) for each in _chosen(project, workspace, data, wanted)]
    for each in rows:
        _tell_row(console, tokenizer, each, wanted.tokens)
    if wanted.asked:
        document["row"] = rows[0]
    if wanted.limit > 1:
        document["shown"] = rows
    return document


def lenient(project: Project) -> Project:
    """The project with any share of refused rows allowed, for looking at them."""
    return project.model_copy(update={"data": project.data.model_copy(update={"max_refused": 1.0})})


def _progress(console: Console) -> events.Emit:
    """The stages of loading; what its notes say is told in another form here."""

    def emit(event: events.Event) -> None:
        if isinstance(event, events.Stage):
            console.emit(event)

    return emit


def read_sources(project: Project, workspace: Workspace) -> tuple[dict[str, reader.Loaded], list[InputError]]:
    """Each source as far as it can be read without a tokenizer, and what is wrong with the others."""
    data, loaded, wrong = project.data, {}, []
    shape: Any = data.shape
    for which, limit in (("train", data.train_limit), ("test", data.test_limit)):
        if which == "test" and data.test is None:
            continue
        try:
            source, named = dataset.source(data, which), dataset.columns(data)
            loaded[which] = reader.load(source, workspace.root, shape=shape, columns=named, limit=limit)
            shape = loaded[which].shape
        except InputError as error:
            wrong.append(error)
    return loaded, wrong


def _without_tokens(
    project: Project, workspace: Workspace, console: Console, why: InputError, everything: bool
) -> dict[str, Any]:
    """Tell what can be told although `why`, and return the document of it.

    Raises:
        InputError: a source cannot be read at all.
    """
    loaded, wrong = read_sources(project, workspace)
    if wrong:
        raise wrong[0] from None
    ledgers = {name: each.ledger for name, each in loaded.items()}
    _tell_ledgers(console, ledgers, everything)
    shape = loaded["train"].shape
    console.say(f"\nshape: {shape.describe()}")
    console.warn(f"rows that are too long or have nothing to learn are not known: {why}")
    return {
        "ledger": ledger.total(ledgers.values()).to_json(),
        "shape": shape.name,
        "columns": dict(shape.columns),
        "template": None,
        "splits": {name: each.to_json() for name, each in ledgers.items()},
        "overlap": [],
        "incomplete": str(why),
    }


# --- the ledger


def _sides(data: Dataset) -> dict[str, Split]:
    return {"train": data.train} | ({"test": data.test} if data.test is not None else {})


def _tell_ledgers(console: Console, ledgers: dict[str, ledger.Ledger], everything: bool) -> None:
    numbers = ("read", "kept", "cut", "refused", "duplicates", "nothing_to_learn")
    both = {**ledgers, "together": ledger.total(ledgers.values())} if len(ledgers) > 1 else ledgers
    table = [[name, *(f"{getattr(each, n):,}" for n in numbers)] for name, each in both.items()]
    console.table(["rows", *(n.replace("_", " ") for n in numbers)], table, "<>>>>>>")
    for name, each in ledgers.items():
        if not each.refused:
            continue
        console.say(f"\nrefused ({name}):")
        for reason, count in each.to_json()["reasons"].items():
            console.say(f"  {count:,} x {reason}")
        listed = each.refusals if everything else each.refusals[:LISTED]
        for refusal in listed:
            console.say(f"  {one_line(refusal.where)}: {one_line(refusal.reason)}")
            if refusal.excerpt:
                console.say(f"      {one_line(refusal.excerpt)}")
        if more := each.refused - len(listed):
            hint = "; --all lists more" if len(listed) < len(each.refusals) else ""
            console.say(f"  ... and {more:,} more{hint}")


def _warn(console: Console, project: Project, data: Dataset) -> None:
    for name, split in _sides(data).items():
        if problem := too_many_refused(split.ledger, project.data.max_refused):
            console.warn(f"{name}: {problem}: `train` will stop")
    if data.hidden_tools:
        console.warn(data.hidden_tools)
    if data.overlap:
        first = data.overlap[0]
        console.warn(f"{len(data.overlap):,} unseen rows stand among the training rows, too: {first[1]} = {first[0]}")


def too_many_refused(refused: ledger.Ledger, allowed: float) -> str | None:
    """What is wrong where more than a share of `allowed` was refused."""
    if refused.read and refused.refused > allowed * refused.read:
        return f"{refused.refused:,} of {refused.read:,} rows refused, more than data.max_refused = {allowed:g}"
    return None


# --- single rows


def _chosen(project: Project, workspace: Workspace, data: Dataset, wanted: Wanted) -> list[tuple[str, Example]]:
    """(split, example) of the rows wanted.

    Raises:
        InputError: there is no such row, or it was refused (with the reason).
    """
    sides = _sides(data)
    if wanted.split is not None and wanted.split not in sides:
        raise InputError("this project has no unseen rows", remedy="set data.test or data.test_fraction")
    for named in _looked_in(project, sides, wanted):
        for at, (_, row, _) in enumerate(named):
            if _matches(row, wanted):
                return [(name, example) for name, _, example in named[at : at + wanted.limit]]
    if not wanted.asked:
        return []
    where = wanted.where or _place(project, workspace, wanted.split or "train", wanted.row or 1)
    for split in sides.values():
        for refusal in split.ledger.refusals:
            if _at(refusal.where, where):
                raise InputError(f"this row was refused: {refusal.reason}", where=refusal.where)
    if wanted.where is not None:
        raise InputError("there is no such row", where=where, remedy="write it as the ledger does: FILE:LINE")
    elsewhere = [name for name in sides if any(row.where == where for row, _ in sides[name].items)]
    if elsewhere:
        raise InputError(f"this row is on the side of {elsewhere[0]}", where=where, remedy=f"--split {elsewhere[0]}")
    remedy = "data.train_limit and data.test_limit say how many are"
    raise InputError("this row is not used", where=where, remedy=remedy)


def _looked_in(
    project: Project, sides: dict[str, Split], wanted: Wanted
) -> list[list[tuple[str, reader.Row, Example]]]:
    """The rows to look through, as (split, row, example) in the order of their source; a list for each source.

    Where data.test_fraction parts one source, a row is looked for on both sides unless one is named.
    """
    parts = {
        name: [(name, row, example) for (row, _), example in zip(side.items, side.examples, strict=True)]
        for name, side in sides.items()
    }
    if wanted.split is not None:
        return [parts[wanted.split]]
    if not wanted.asked:
        return [parts["train"]]
    if project.data.test is None:
        return [sorted(chain.from_iterable(parts.values()), key=lambda each: each[1].index)]
    return list(parts.values()) if wanted.where else [parts["train"]]


def _matches(row: reader.Row, wanted: Wanted) -> bool:
    if wanted.where is not None:
        return _at(row.where, wanted.where)
    return wanted.row is None or row.index == wanted.row - 1


def _at(where: str, wanted: str) -> bool:
    return where == wanted or where.endswith(f"/{wanted}")


def _place(project: Project, workspace: Workspace, split: str, number: int) -> str:
    """Where row `number` of a split's source stands."""
    which = "test" if split == "test" and project.data.test is not None else "train"
    source = dataset.source(project.data, which)
    found = next(islice(reader.read(source, workspace.root), number - 1, None), None)
    if found is None:
        raise InputError(f"there is no row {number:,}", where=source.path_or_hub, remedy="it has fewer rows")
    return found.where


def _tell_row(console: Console, tokenizer: Any, row: dict[str, Any], tokens: bool) -> None:
    cut = ", cut at train.max_length" if row["cut"] else ""
    console.say(f"\n{row['where']}  {row['split']}, {row['tokens']:,} tokens, {row['supervised']:,} supervised{cut}")
    parts = []
    for segment in row["segments"]:
        text, weight = printable(segment["text"]), segment["weight"]
        if weight:
            text = f"⟦{console.style(text, '4')}⟧" + ("" if weight == 1 else f"x{weight:g}")
        parts.append(text)
    console.say("".join(parts), raw=True)
    if tokens:
        listed = zip(row["ids"], row["weights"], strict=True)
        table = [[str(token), f"{weight:g}", shown.token_name(tokenizer, token)] for token, weight in listed]
        console.table(["id", "weight", "token"], table, ">><")
