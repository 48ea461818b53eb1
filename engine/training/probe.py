"""What the largest micro-batch of a run takes, measured before the first step: one forward and one backward pass, whatever
the process has held before.

    the steps to come -> the micro-batch of most tokens -> forward, backward -> bytes; its gradient is dropped

Comes from: a `loop.Training` that has not begun or is resumed. Goes to: the `memory` event, beside the estimate. Nothing
that is trained changes: no optimizer step, and every micro-batch sets its own random state.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models import memory
from engine.tokens.examples import Example, split_by_tokens
from engine.training.loop import Training

MOST_STEPS = 2000
"""How many of the steps to come are looked through for the largest micro-batch."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Attributes: tokens: in the micro-batch, padding none. longest: of its examples. bytes: the process's peak with it,
    as `memory.peak_bytes`, without optimizer state that is not there yet; None: memory ran out."""

    tokens: int
    longest: int
    bytes: int | None


def measure(training: Training) -> Pass:
    """Run the largest micro-batch of this rank.

    Raises:
        Whatever a forward and backward pass raises; for too little memory only where `loop.Training.attempt` does.
    """
    examples, device = largest(training), training.loaded.device
    memory.forget_peak(device)
    training.loaded.causal.train()
    if not examples:  # more ranks than examples in a step
        training.keep_company(1)
        training.loaded.causal.eval()
        return Pass(0, 0, memory.peak_bytes(device))
    weights = float(sum(e.weights[1:].sum() for e in examples))
    try:
        done = training.attempt(examples, weights)
    finally:
        training.optimizer.zero_grad(set_to_none=True)
        training.loaded.causal.eval()
    if done is None:
        memory.release(device)
    peak = None if done is None else memory.peak_bytes(device)
    return Pass(sum(map(len, examples)), max(map(len, examples)), peak)


def largest(training: Training) -> list[Example]:
    """The examples of the micro-batch of most tokens, of this rank, in the steps to come."""
    first = training.progress.step
    found: list[Example] = []
    for step in range(first, max(first + 1, min(training.steps, first + MOST_STEPS))):
        chosen = [training.examples[i] for i in training.order.at(step).examples]
        own = training.ranks.deal(chosen)[training.ranks.number]
        for part in split_by_tokens([len(e) for e in own], training.micro_tokens):
            batch = [own[i] for i in part]
            if sum(map(len, batch)) > sum(map(len, found)):
                found = batch
    return found
