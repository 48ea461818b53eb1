"""The training loop: plain torch, one visible denominator a step, nothing hidden and nothing lost.

    for each step:  order -> examples -> micro-batches (longest first, bounded by tokens)
                    loss = sum of weighted token losses / weights of the WHOLE step
                    backward each, clip, refuse NaN, optimizer step, event; then measure, sample, save

Comes from: tokenised examples and a `Loaded` with an adapter attached. Goes to: events, checkpoints, the adapter. The
loop is a generator that pauses after every micro-batch, so that whoever drives it can do something in between with the
same weights; nothing they do touches training's random state, which is set anew from (seed, step, micro-batch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from engine import events
from engine.control import StopRequest
from engine.errors import InputError, WorkFailed
from engine.events import Emit
from engine.models import memory
from engine.models.loaded import Loaded
from engine.models.products import Products
from engine.tables import Project
from engine.tokens.examples import Example, collate, split_by_tokens
from engine.training import checkpoint, lora, optimizer, order
from engine.training.checkpoint import Progress
from engine.training.ranks import ALONE, Ranks


@dataclass
class Training:
    """Everything that one training run works with.

    Attributes:
        measure: unseen loss in nats per supervised token, or None where there is nothing unseen.
        sample: answers the prompts to watch and emits them, given the step.
        initial: see `lora.attach`. checkpoints: their folder. ranks: the processes that train together.
        reason: why it ended: "done", "stopped" or "early stopping".
    """

    loaded: Loaded
    project: Project
    examples: Sequence[Example]
    emit: Emit
    checkpoints: Path
    made_from: str
    initial: lora.Tensors = field(default_factory=dict)
    measure: Callable[[], float] | None = None
    sample: Callable[[int], None] | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    ranks: Ranks = ALONE
    progress: Progress = field(default_factory=Progress)
    reason: str = "done"

    def __post_init__(self) -> None:
        self.train = self.project.train
        if not self.examples:
            raise InputError("there is nothing to train on", remedy="`loraworkbench rows PROJECT` shows why")
        self.order = order.Order([len(e) for e in self.examples], self.train)
        self.steps = self.order.steps
        self.optimizer = optimizer.build(self.loaded, self.train, self.project.lora)
        self.micro_tokens = self.train.micro_batch_tokens
        self.progress.made_from = self.made_from
        self._said = time.monotonic()
        self.products = Products(self.loaded, lora.NAME)
        self._prepare()

    def _prepare(self) -> None:
        limit, longest = self.loaded.limit, max(self.examples, key=len)
        if limit and len(longest) > limit:
            raise InputError(
                f"an example has {len(longest)} tokens, and this base takes {limit}",
                where=longest.where,
                remedy=f"set train.max_length to at most {limit}",
            )
        if self.train.activation_checkpointing:
            self.loaded.recompute_activations()

    def resume(self) -> int:
        """Go on from the newest checkpoint; returns the step it holds (0: there is none)."""
        steps = self.ranks.from_lead(lambda: checkpoint.steps_in(self.checkpoints))
        if steps:
            newest = checkpoint.path_of(self.checkpoints, steps[-1])
            self.progress = checkpoint.load(newest, self.loaded, self.optimizer, self.made_from)
            self.micro_tokens = min(self.micro_tokens, self.progress.micro_tokens or self.micro_tokens)
            self._stop_if_stale()
            self._retain()  # a run that was killed between saving and clearing away
        return self.progress.step

    def run(self, between: Callable[[], None] = lambda: None) -> str:
        """Train to the end, or until stopped; returns the reason it ended.

        Args:
            between: called after each micro-batch; it may use the model, whose weights are those of the moment.
        """
        for _ in self.micro_batches():
            between()
        return self.reason

    def micro_batches(self) -> Iterator[None]:
        """The loop. Pauses after every micro-batch.

        Raises:
            WorkFailed: a loss or gradient is not finite (weights are as after the last good step), a single example
                does not fit into memory, or a checkpoint cannot be written.
        """
        self.loaded.causal.train()
        self.ranks.alike([p for _, p in self.loaded.parameters()])
        while self.progress.step < self.steps and self.reason == "done":
            yield from self._step()
            self._between_steps()
        self.loaded.causal.eval()

    def _step(self) -> Iterator[None]:
        """One optimizer step."""
        step, started = self.progress.step, time.perf_counter()
        place, rate = self.order.at(step), order.learning_rate(self.train, step, self.steps)
        chosen = [self.examples[i] for i in place.examples]
        denominator = float(sum(e.weights[1:].sum() for e in chosen))
        optimizer.set_learning_rate(self.optimizer, rate)
        own, parts, losses = yield from self._accumulate(step, chosen, denominator)
        parameters = [p for _, p in self.loaded.parameters()]
        total = self.ranks.summed(parameters, torch.stack(losses).sum() if losses else torch.zeros(()))
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.train.max_gradient_norm or math.inf)
        if not bool(torch.isfinite(total + norm)):
            self._refuse(step, own, parts, losses)
        if denominator > 0:
            optimizer.step(self.optimizer)
        self.progress.step += 1
        seconds, tokens = time.perf_counter() - started, sum(len(e) for e in chosen)
        self._said = time.monotonic()
        self.emit(
            events.Step(
                step=self.progress.step,
                steps=self.steps,
                loss=float(total),
                learning_rate=rate,
                gradient_norm=float(norm),
                tokens=tokens,
                supervised_tokens=sum(e.supervised for e in chosen),
                seconds=seconds,
                tokens_per_second=tokens / seconds,
                memory_bytes=memory.used_bytes(self.loaded.device),
                epoch=place.epoch,
            )
        )

    def _accumulate(
        self, step: int, chosen: list[Example], denominator: float
    ) -> Generator[None, None, tuple[list[Example], list[list[int]], list[torch.Tensor]]]:
        """The gradient of this rank's part of a step, begun again with smaller micro-batches where memory runs out.

        Returns:
            This rank's examples, the micro-batches (places in them), and the share of the loss of each.
        """
        hands = self.ranks.deal(chosen)
        own = hands[self.ranks.number]
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            split = [split_by_tokens([len(e) for e in hand], self.micro_tokens) for hand in hands]
            parts = split[self.ranks.number]
            losses: list[torch.Tensor] = []
            for number, part in enumerate(parts):
                torch.manual_seed(order.random_seed(self.train.seed, step, self.ranks.stream(number)))
                share = self.attempt([own[i] for i in part], denominator)
                if share is None:
                    break
                losses.append(share)
                self._tick(step, number + 1, len(parts))
                yield
            self.keep_company(max(map(len, split)) - len(parts))
            short = 0 if len(losses) == len(parts) else 1 if len(parts) < len(own) else 2
            short = self.ranks.highest(short)
            if not short:
                return own, parts, losses
            self._halve(hands, alone=short == 2)

    def attempt(self, examples: list[Example], denominator: float) -> torch.Tensor | None:
        """`backward`, or None where memory ran out.

        Raises:
            WorkFailed: it did, and the base is sharded: the other ranks are in the middle of this pass.
        """
        share = memory.attempt(partial(self.backward, examples, denominator))
        if share is None and self.loaded.sharded:
            raise WorkFailed(
                f"not enough memory for a micro-batch of {sum(map(len, examples))} tokens",
                remedy="start a new run with fewer train.micro_batch_tokens or train.activation_checkpointing = true; "
                'with launch.strategy = "fsdp" a step cannot be repeated in smaller ones',
            )
        return share

    def keep_company(self, passes: int) -> None:
        """Where the base is sharded: take part in passes of the other ranks, with no row of one's own and no gradient."""
        if not self.loaded.sharded:
            return
        kept = [(p, p.grad) for _, p in self.loaded.parameters()]
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(passes):
            self.attempt([Example(np.zeros(2, np.int32), np.zeros(2, np.float32))], 1.0)
        for parameter, gradient in kept:
            parameter.grad = gradient

    def backward(self, examples: list[Example], denominator: float) -> torch.Tensor:
        """Add a micro-batch's gradient; its share of the step's loss, still on the device."""
        with self.products:
            share = self.loaded.summed(collate(examples)) / (denominator or 1.0)
            if share.requires_grad:  # not where only the head is trained, and nothing here is supervised
                share.backward()
        return share.detach()

    def _tick(self, step: int, done: int, total: int) -> None:
        """A sign of life within a step that takes long."""
        if time.monotonic() - self._said > 2.0 and done < total:
            self._said = time.monotonic()
            self.emit(events.Stage(name=f"step {step + 1}", done=done, total=total, unit="micro-batches"))

    def _halve(self, hands: list[list[Example]], alone: bool) -> None:
        """Smaller micro-batches on every rank; `alone`: memory ran out for a single example."""
        self.optimizer.zero_grad(set_to_none=True)
        longest = max(len(e) for hand in hands for e in hand)
        tokens = max(sum(len(e) for e in hand) for hand in hands)
        if alone:
            raise WorkFailed(
                f"not enough memory for a single example of {longest} tokens",
                remedy="lower train.max_length or lora.r, or set train.activation_checkpointing = true",
            )
        memory.release(self.loaded.device)
        self.micro_tokens = self.progress.micro_tokens = max(1, min(self.micro_tokens, tokens) // 2)
        how = f"in micro-batches of {self.micro_tokens} tokens; its denominator is the same"
        self.emit(events.Note(text=f"out of memory: the step is repeated {how}", level="warning"))

    def _refuse(self, step: int, own: list[Example], parts: list[list[int]], losses: list[torch.Tensor]) -> None:
        """Stop before the optimizer touches the weights, and name the rows."""
        bad = [p for p, share in zip(parts, losses, strict=True) if not math.isfinite(float(share))]
        rows = self.ranks.gather([own[i].where for part in bad for i in part])
        rows = rows or self.ranks.gather([own[i].where for part in parts for i in part])
        more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
        self.optimizer.zero_grad(set_to_none=True)
        if step > 0:
            self._save()
        raise WorkFailed(
            f"the loss or its gradient became NaN or infinite in step {step + 1}; the weights of step {step} are kept",
            where=", ".join(rows[:8]) + more,
            remedy="look at these rows (`loraworkbench rows`), lower train.learning_rate, or use bfloat16 for float16",
        )

    def _between_steps(self) -> None:
        step, train = self.progress.step, self.train
        last = step >= self.steps
        evaluates = last or bool(train.evaluate_every and step % train.evaluate_every == 0)
        if self.measure and evaluates:
            self._measure()
        if self.sample and self._watches(step, evaluates):
            self.sample(step)
        if self.stop and not last and self.reason == "done":
            self.reason = "stopped"
        self.reason = self.ranks.agree(self.reason)
        due = train.save_every and step % train.save_every == 0
        best = train.early_stopping and self.progress.best_step == step
        if last or self.reason != "done" or due or best:
            self._save()

    def _watches(self, step: int, evaluates: bool) -> bool:
        """Whether prompts are answered now: those that the project names at every evaluation, any at their own times."""
        every = self.train.sample_every
        if every and (step % every == 0 or step >= self.steps):
            return True
        return evaluates and bool(self.project.generate.prompts)

    def _measure(self) -> None:
        """The unseen loss, and what follows from it for early stopping."""
        assert self.measure is not None
        value, progress = self.measure(), self.progress
        if progress.best_loss is None or value < progress.best_loss:
            progress.best_loss, progress.best_step, progress.stale = value, progress.step, 0
        else:
            progress.stale += 1
        self._stop_if_stale()

    def _stop_if_stale(self) -> None:
        if self.train.early_stopping and self.progress.stale >= self.train.early_stopping:
            self.reason = "early stopping"

    def _save(self) -> None:
        if not self.ranks.leads:
            return
        path, size = checkpoint.save(self.checkpoints, self.loaded, self.optimizer, self.progress, self.initial)
        self._retain()
        self.emit(events.Saved(what="checkpoint", path=str(path), bytes=size, step=self.progress.step))

    def _retain(self) -> None:
        if not self.ranks.leads:
            return
        best = self.progress.best_step if self.train.early_stopping else None
        checkpoint.retain(self.checkpoints, self.train.keep_checkpoints, best)

    def restore_best(self) -> int | None:
        """With early stopping: go back to the best measured weights; returns their step."""
        best = self.progress.best_step
        if not self.train.early_stopping or best is None or best == self.progress.step:
            return None
        checkpoint.load(checkpoint.path_of(self.checkpoints, best), self.loaded, self.optimizer, self.made_from)
        return best
