"""Which examples make which step: a function of (seed, step), so that a resumed run sees what it would have seen.

An epoch is a permutation seeded by (seed, epoch); steps are cut from it in order; what is left at an epoch's end makes
a smaller step of its own and never leaks into the next epoch.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.tables import TrainTable
from engine.tokens.examples import best_fit_decreasing


@dataclass(frozen=True, slots=True)
class StepOrder:
    """The examples of one step, and how many epochs are complete after it."""

    examples: list[int]
    epoch: float


class Order:
    """The steps of a run.

    Args:
        lengths: tokens of each example, of at least one.
        train: for epochs or steps, examples or tokens per step, packing, seed.
    """

    def __init__(self, lengths: Sequence[int], train: TrainTable) -> None:
        if not lengths:
            raise ValueError("no examples to order")
        self.lengths, self.train = lengths, train
        self.units: list[list[int]] = (
            best_fit_decreasing(lengths, train.max_length) if train.packing else [[i] for i in range(len(lengths))]
        )
        self._epochs: list[list[list[int]]] = []
        self._starts: list[int] = [0]
        self.steps = train.steps or self._steps_of(train.epochs)

    def _steps_of(self, epochs: float) -> int:
        whole, part = int(epochs), epochs - int(epochs)
        total = sum(len(self._epoch(e)) for e in range(whole))
        return max(1, total + (math.ceil(part * len(self._epoch(whole)) - 1e-9) if part else 0))

    def _epoch(self, epoch: int) -> list[list[int]]:
        """The steps of one epoch, as lists of examples."""
        while len(self._epochs) <= epoch:
            shuffled = np.random.default_rng((self.train.seed, len(self._epochs))).permutation(len(self.units))
            steps: list[list[int]] = []
            size, limit = 0, self.train.tokens_per_step
            for unit in (self.units[i] for i in shuffled):
                weight = sum(self.lengths[i] for i in unit) if limit else 1
                if not steps or size + weight > (limit or self.train.examples_per_step):
                    steps.append([])
                    size = 0
                steps[-1] += unit
                size += weight
            self._epochs.append(steps)
            self._starts.append(self._starts[-1] + len(steps))
        return self._epochs[epoch]

    def at(self, step: int) -> StepOrder:
        """The examples of step `step`, counted from 0."""
        while self._starts[-1] <= step:
            self._epoch(len(self._epochs))
        epoch = bisect.bisect_right(self._starts, step) - 1
        steps, inside = self._epochs[epoch], step - self._starts[epoch]
        return StepOrder(list(steps[inside]), epoch + (inside + 1) / len(steps))


def learning_rate(train: TrainTable, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up that starts above zero, then the schedule.

    Linear and cosine go to `minimum_learning_rate` x `learning_rate`, as transformers' schedules of the same names do
    for a minimum of 0. Its warm-up is one step behind: it starts at zero, and so wastes the first step.
    """
    warm = math.ceil(train.warmup * steps - 1e-9)  # 0.07 * 100 is a little more than 7
    if step < warm:
        return train.learning_rate * (step + 1) / warm
    passed = (step - warm) / max(1, steps - warm)
    low = train.minimum_learning_rate
    if train.schedule == "constant":
        return train.learning_rate
    shape = 1.0 - passed if train.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
    return train.learning_rate * (low + (1.0 - low) * shape)


def random_seed(*numbers: int) -> int:
    """A 63-bit seed that is a function of the numbers, on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
