"""Which single change of a project makes a run fit into the memory that there is, the least loss first.

Comes from: a project, its base's shapes and `estimate`. Goes to: `loraworkbench check`, and the question before a run is
started. What gives the same result comes before what does not: smaller micro-batches, activations computed again, then
4 bits, a lower rank, shorter rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine import architecture, estimate
from engine.estimate import Device
from engine.store import Workspace
from engine.tables import Project

LEAST_TOKENS, LEAST_RANK = 256, 4


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the project file that would take less memory.

    Attributes:
        line: "train.micro_batch_tokens = 512". price: what it costs. bytes: the estimate with it.
    """

    line: str
    price: str
    bytes: int


def that_fits(
    project: Project,
    workspace: Workspace,
    device: Device,
    room: int,
    step_tokens: int | None = None,
    longest: int | None = None,
) -> Change | None:
    """The first change after which the estimate is at most `room` bytes, None where no single one is enough.

    Args: as `estimate.of_project`.
    """
    base = architecture.read(architecture.find(project.model, workspace))
    tokens = estimate.tokens_at_once(project.train, step_tokens, longest)[0]
    for line, price, changed, shortest in _changes(project, tokens, longest):
        step = step_tokens and min(step_tokens, project.train.examples_per_step * shortest) if shortest else step_tokens
        length = min(longest, shortest) if longest and shortest else longest
        needed = estimate.of_base(base, changed, device, step, length).total
        if needed <= room:
            return Change(line, price, needed)
    return None


def words(change: Change | None) -> str:
    """A sentence about a change."""
    from engine.text import size

    if change is None:
        return (
            "No single change is enough: take a smaller base, or several of micro-batch, checkpointing, 4 bits, rank."
        )
    return f"With {change.line} it would need {size(change.bytes)}, and fit ({change.price})."


def _changes(project: Project, tokens: int, longest: int | None) -> Iterator[tuple[str, str, Project, int | None]]:
    """(line, price, changed project, new longest row or None)."""
    train = project.train
    for micro in _halves(tokens, max(LEAST_TOKENS, longest or 1)):
        changed = _with(project, "train", micro_batch_tokens=micro)
        yield f"train.micro_batch_tokens = {micro}", "same result", changed, None
    if not train.activation_checkpointing:
        changed = _with(project, "train", activation_checkpointing=True)
        yield "train.activation_checkpointing = true", "same result, about a quarter slower", changed, None
    if project.model.quantization in ("none", "int8"):
        changed = _with(project, "model", quantization="nf4")
        yield 'model.quantization = "nf4"', "the base is rounded, and slower", changed, None
    for rank in _halves(project.lora.r, LEAST_RANK):
        yield f"lora.r = {rank}", "the adapter can learn less", _with(project, "lora", r=rank), None
    for length in _halves(train.max_length, LEAST_TOKENS):
        changed = _with(project, "train", max_length=length)
        yield f"train.max_length = {length}", "longer rows are cut", changed, length


def _halves(of: int, least: int) -> Iterator[int]:
    while (of := of // 2) >= least:
        yield of


def _with(project: Project, table: str, **values: Any) -> Project:
    return project.model_copy(update={table: getattr(project, table).model_copy(update=values)})
