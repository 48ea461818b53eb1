"""Several processes that train one adapter together, each on its share of every step's rows (data parallel).

    rows of a step --deal--> rank 0: its rows, gradient --+
                             rank 1: its rows, gradient --+--sum--> every rank: the same gradient, the same update

Comes from: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as `torchrun`, `accelerate launch` or
`jobs.launching` set them. Goes to: `loop`, which asks a `Ranks` wherever more than one process would matter; in one
process that does nothing. Rows are dealt from the order of one process, the denominator is that of the whole step, and
gradients travel once a step in one buffer: an adapter is small. Rank 0 measures, writes and decides. Where the base
is divided (`sharding`), all ranks run every pass together.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch

from engine.errors import InputError, Stopped, WorkFailed
from engine.tokens.examples import Example
from engine.training import interface
from engine.training.pulse import Pulse, RankLost

T = TypeVar("T")

MEETING = timedelta(seconds=300)
"""How long the ranks wait for each other at the start."""
WAITING = timedelta(days=7)
"""How long torch lets a rank wait for the others, which may measure for hours; who is lost is found out by `Pulse`."""
REASONS = ("done", "stopped", "early stopping")


class Ranks:
    """One process: there is nobody to share with."""

    number, count = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that measures, writes and speaks."""
        return self.number == 0

    def deal(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The rows of each rank: the longest first, each to the rank that has the fewest tokens."""
        if self.count == 1:
            return [list(examples)]
        hands: list[list[Example]] = [[] for _ in range(self.count)]
        tokens = [0] * self.count
        for example in sorted(examples, key=len, reverse=True):
            poorest = tokens.index(min(tokens))
            hands[poorest].append(example)
            tokens[poorest] += len(example)
        return hands

    def stream(self, number: int) -> int:
        """A number for the randomness of this rank's micro-batch `number`, which no other micro-batch of a step has."""
        return number * self.count + self.number

    def highest(self, value: int) -> int:
        """The highest of all ranks' values."""
        return value

    def agree(self, reason: str) -> str:
        """Why the training ends ("done": it does not), where any rank knows of a reason."""
        return REASONS[self.highest(REASONS.index(reason))]

    def summed(self, parameters: Sequence[torch.nn.Parameter], share: torch.Tensor) -> torch.Tensor:
        """Make each gradient the sum over all ranks; returns the sum of their shares of the loss."""
        return share

    def alike(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give every rank the values of rank 0."""

    def gather(self, texts: list[str]) -> list[str]:
        """The texts of all ranks, in the order of the ranks."""
        return texts

    def from_lead(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0 (something JSON can say); it is called there only."""
        return make()

    def after_lead(self, make: Callable[[], T]) -> T:
        """What `make` gives here; rank 0 goes first, so that the others find what it has put into caches."""
        return make()


ALONE = Ranks()


class Team(Ranks):
    """One of several processes.

    Every method is called by all ranks, in the same order.

    Raises:
        RankLost: another rank is gone, or cannot be reached. WorkFailed: another rank has failed.
    """

    def __init__(self, store: Any, number: int, count: int, device: torch.device) -> None:
        self.number, self.count, self.device = number, count, device
        self.store, self._calls = store, 0
        self.pulse = Pulse(store.clone(), number, count)

    def meet(self) -> None:
        """Wait for all ranks, and connect to them."""
        from torch import distributed

        limit = MEETING.total_seconds()
        self._wait(lambda: self.store.check([f"pulse/{n}" for n in range(self.count)]), limit)
        self.pulse.start()
        interface.settle(lambda words: self.gather([words]))
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        group = {"store": self.store, "rank": self.number, "world_size": self.count, "timeout": WAITING}
        # In a thread: gloo waits for a rank that is gone as long as for one that measures.
        errors: list[Exception] = []

        def connect() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)  # each thread has its own
                distributed.init_process_group(backend, **group)
            except Exception as error:
                errors.append(error)

        connecting = threading.Thread(target=connect, name="connecting", daemon=True)
        connecting.start()
        self._wait(lambda: not connecting.is_alive(), limit)
        if errors:
            remedy = f"every machine must reach every other; {interface.VARIABLE} names the network interface to use"
            problem = f"the ranks cannot connect: {str(errors[0]).splitlines()[0]}"
            raise WorkFailed(problem, remedy=remedy) from errors[0]

    @property
    def words(self) -> str:
        """How many there are, and how they speak to each other: for people."""
        return f"{self.count} processes train together ({'NCCL' if self.device.type == 'cuda' else 'gloo'})"

    def highest(self, value: int) -> int:
        from torch import distributed

        held = torch.tensor([value])
        self._finish(lambda: distributed.all_reduce(held, distributed.ReduceOp.MAX, async_op=True))
        return int(held)

    def summed(self, parameters: Sequence[torch.nn.Parameter], share: torch.Tensor) -> torch.Tensor:
        from torch import distributed

        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
        flat = torch.cat([*parts, there, share.to(self.device, torch.float32).reshape(1)])
        self._finish(lambda: distributed.all_reduce(flat, async_op=True))
        sizes = [p.numel() for p in parameters]
        *gradients, there, total = flat.split([*sizes, len(sizes), 1])
        for parameter, gradient, ranks in zip(parameters, gradients, there.tolist(), strict=True):
            # A parameter without a gradient on any rank has none: AdamW would let it decay.
            parameter.grad = gradient.view_as(parameter) if ranks else None
        return total[0]

    def collect(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        """Fill `whole` with the parts of all ranks, end to end in their order; all are of one size."""
        from torch import distributed

        gather = (
            getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
        )  # before torch 2.13
        self._finish(lambda: gather(whole, part, async_op=True))

    def alike(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        from torch import distributed

        flat = torch.cat([p.detach().flatten() for p in parameters])
        self._finish(lambda: distributed.broadcast(flat, 0, async_op=True))
        for parameter, value in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.data.copy_(value.view_as(parameter))

    def gather(self, texts: list[str]) -> list[str]:
        self._calls += 1
        keys = [f"gather/{self._calls}/{n}" for n in range(self.count)]
        self.store.set(keys[self.number], json.dumps(texts))
        self._wait(lambda: self.store.check(keys))
        return [text for key in keys for text in json.loads(self.store.get(key))]

    def from_lead(self, make: Callable[[], T]) -> T:
        self._calls += 1
        key = f"lead/{self._calls}"
        if self.leads:
            self.store.set(key, json.dumps(make()))
        else:
            self._wait(lambda: self.store.check([key]))
        return json.loads(self.store.get(key))

    def after_lead(self, make: Callable[[], T]) -> T:
        made = [make()] if self.leads else []
        self.from_lead(lambda: None)
        return made[0] if made else make()

    def _finish(self, begin: Callable[[], Any]) -> None:
        """Carry out a collective, looking after the others meanwhile."""
        try:
            work = begin()
            self._wait(work.is_completed)
            work.wait()
        except RuntimeError as error:
            self.pulse.after_a_break(error)

    def _wait(self, ready: Callable[[], bool], limit: float = float("inf")) -> None:
        pause, begun = 1e-4, time.monotonic()
        try:
            while not ready():
                self.pulse.check()
                if time.monotonic() - begun > limit:
                    raise RankLost(f"not all of {self.count} ranks have come within {limit:.0f} s")
                time.sleep(pause)
                pause = min(pause * 1.5, 0.02)
        except RuntimeError as error:
            self.pulse.after_a_break(error)

    def leave(self, error: BaseException | None) -> None:
        """End this rank's part."""
        from torch import distributed

        self.pulse.end(None if isinstance(error, Stopped) else error)
        if error is None or isinstance(error, Stopped):
            distributed.destroy_process_group()
        else:
            # What waits for a lost rank inside gloo or NCCL would keep this process from ending.
            atexit.register(_leave_at_once)


def _leave_at_once() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(1)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """While in the block this process is the rank that its environment says.

    Args:
        device: what this rank computes on.

    Raises:
        InputError: the environment is not complete. WorkFailed: the others do not come, or cannot be reached.
    """
    from torch import distributed

    try:
        store, number, count = next(distributed.rendezvous("env://", timeout=MEETING))
    except (ValueError, RuntimeError) as error:
        remedy = "start it with `loraworkbench train`, `torchrun` or `accelerate launch`"
        problem = f"the ranks cannot meet: {str(error).splitlines()[0]}"
        raise InputError(problem, remedy=remedy) from error
    team = Team(store, number, count, device)
    try:
        team.meet()
        yield team
    except BaseException as error:
        team.leave(error)
        raise
    team.leave(None)
