"""How a run ended, and what to do about it, in words. Comes from: a `RunModel`. Goes to: the run's header."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import events
from engine.text import duration

if TYPE_CHECKING:
    from workbench.models.run import RunModel


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, or how it is: one line, where, what to do."""

    text: str
    where: str = ""
    remedy: str = ""


def ending_of(run: RunModel) -> Ending | None:
    """How a run ended; None while it runs."""
    tell = _ENDINGS.get(run.state)
    return None if tell is None else tell(run)


def _done(run: RunModel) -> Ending:
    last = run.newest
    assert isinstance(last, events.Finished)
    early = ": the unseen loss no longer fell" if last.reason == "early stopping" else ""
    return Ending(f"done in {duration(last.seconds)}{early}", remedy="evaluate it (space e r) or merge it (space a m)")


def _stopped(run: RunModel) -> Ending:
    at = f" after step {run.step.step:,} of {run.step.steps:,}" if run.step else " before the first step"
    return Ending(f"stopped{at}; its checkpoint is written", remedy=run.resume_words() + " (space r c)")


def _failed(run: RunModel) -> Ending:
    last = run.newest
    assert isinstance(last, events.Failed)
    remedy = last.remedy or ("its traceback is in the log (o)" if last.trace else "")
    return Ending(f"failed: {last.problem}", last.where or "", remedy)


def _killed(run: RunModel) -> Ending:
    at = f" after step {run.step.step:,}" if run.step else ""
    pid = run.started.pid if run.started else 0
    cause = "most likely memory ran out, or the machine went down"
    again = "if it dies again: a lower train.micro_batch_tokens, or train.activation_checkpointing = true"
    text = f"killed{at}: process {pid} is gone without a word; {cause}"
    return Ending(text, remedy=f"{run.resume_words()} (space r c); {again}")


_ENDINGS: dict[str, Callable[[RunModel], Ending]] = {
    "done": _done,
    "stopped": _stopped,
    "failed": _failed,
    "killed": _killed,
}
