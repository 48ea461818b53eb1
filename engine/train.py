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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from engine import checkpoint, events, loss, lora, memory, optimizer, order
from engine.checkpoint import Progress
from engine.control import StopRequest
from engine.errors import InputError, WorkFailed
from engine.events import Emit
from engine.model import Loaded
from engine.tables import Project
from engine.tokens import Example, collate, split_by_tokens


@dataclass
class Training:
    """Everything that one training run works with.

    Attributes:
        measure: unseen loss in nats per supervised token, or None where there is nothing unseen.
        sample: answers `generate.prompts` and emits them, given the step.
        initial: see `lora.attach`.
        checkpoints: folder of the checkpoints.
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
        self._prepare()

    def _prepare(self) -> None:
        limit = self.loaded.limit
        longest = max(self.examples, key=len)
        if limit and len(longest) > limit:
            raise InputError(
                f"an example has {len(longest)} tokens, and this base takes {limit}",
                where=longest.where,
                remedy=f"set train.max_length to at most {limit}",
            )
        if self.train.activation_checkpointing:
            self.loaded.causal.gradient_checkpointing_enable({"use_reentrant": False})
            self.loaded.causal.enable_input_require_grads()

    def resume(self) -> int:
        """Go on from the newest checkpoint; returns the step it holds (0: there is none)."""
        steps = checkpoint.steps_in(self.checkpoints)
        if steps:
            path = checkpoint.path_of(self.checkpoints, steps[-1])
            self.progress = checkpoint.load(path, self.loaded, self.optimizer, self.made_from)
        return self.progress.step

    def run(self) -> str:
        """Train to the end, or until stopped; returns the reason it ended."""
        for _ in self.micro_batches():
            pass
        return self.reason

    def micro_batches(self) -> Iterator[None]:
        """The loop. Pauses after every micro-batch.

        Raises:
            WorkFailed: a loss or gradient is not finite (weights are as after the last good step), there is not enough
                memory for a single example, or a checkpoint cannot be written.
        """
        self.loaded.causal.train()
        while self.progress.step < self.steps and self.reason == "done":
            yield from self._step()
            self._between_steps()
        self.loaded.causal.eval()

    def _step(self) -> Iterator[None]:
        """One optimizer step; repeated with smaller micro-batches where memory runs out."""
        step, started = self.progress.step, time.perf_counter()
        place = self.order.at(step)
        chosen = [self.examples[i] for i in place.examples]
        denominator = float(sum(e.weights[1:].sum() for e in chosen))
        rate = order.learning_rate(self.train, step, self.steps)
        optimizer.set_learning_rate(self.optimizer, rate)
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            parts = split_by_tokens([len(e) for e in chosen], self.micro_tokens)
            losses: list[torch.Tensor] = []
            try:
                for number, part in enumerate(parts):
                    torch.manual_seed(order.random_seed(self.train.seed, step, number))
                    losses.append(self._backward([chosen[i] for i in part], denominator))
                    self._tick(step, number + 1, len(parts))
                    yield
                break
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                self._halve(chosen, error)
        norm = self._clip()
        total = torch.stack(losses).sum()
        if not bool(torch.isfinite(total + norm)):
            self._refuse(step, chosen, parts, losses)
        if denominator > 0:
            self.optimizer.step()
        self.progress.step += 1
        seconds = time.perf_counter() - started
        tokens = sum(len(e) for e in chosen)
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

    def _backward(self, examples: list[Example], denominator: float) -> torch.Tensor:
        """Add a micro-batch's gradient; its share of the step's loss, still on the device."""
        batch, device = collate(examples), self.loaded.device
        hidden = self.loaded.hidden(batch)
        targets, weights = torch.from_numpy(batch.targets).to(device), torch.from_numpy(batch.weights).to(device)
        share = loss.summed(hidden, targets, weights, self.loaded.head) / (denominator or 1.0)
        share.backward()
        return share.detach()

    def _tick(self, step: int, done: int, total: int) -> None:
        """A sign of life within a step that takes long."""
        if time.monotonic() - self._said > 2.0 and done < total:
            self._said = time.monotonic()
            self.emit(events.Stage(name=f"step {step + 1}", done=done, total=total, unit="micro-batches"))

    def _clip(self) -> torch.Tensor:
        parameters = [p for _, p in self.loaded.parameters()]
        return torch.nn.utils.clip_grad_norm_(parameters, self.train.max_gradient_norm or math.inf)

    def _halve(self, chosen: list[Example], error: Exception) -> None:
        longest = max(len(e) for e in chosen)
        self.optimizer.zero_grad(set_to_none=True)
        if self.micro_tokens <= longest and len(split_by_tokens([len(e) for e in chosen], self.micro_tokens)) == len(chosen):
            raise WorkFailed(
                f"not enough memory for a single example of {longest} tokens",
                remedy="lower train.max_length or lora.r, or set train.activation_checkpointing = true",
            ) from error
        memory.release(self.loaded.device)
        self.micro_tokens = max(1, min(self.micro_tokens, sum(len(e) for e in chosen)) // 2)
        text = f"out of memory: repeating the step with micro-batches of {self.micro_tokens} tokens (the result is the same)"
        self.emit(events.Note(text=text, level="warning"))

    def _refuse(
        self, step: int, chosen: list[Example], parts: list[list[int]], losses: list[torch.Tensor]
    ) -> None:
        """Stop before the optimizer touches the weights, and name the rows."""
        bad = [p for p, share in zip(parts, losses, strict=True) if not math.isfinite(float(share))] or parts
        rows = [chosen[i].where for part in bad for i in part]
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        self.optimizer.zero_grad(set_to_none=True)
        if step > 0:
            self._save()
        raise WorkFailed(
            f"the loss or its gradient became NaN or infinite in step {step + 1}; the weights of step {step} are kept",
            where=shown,
            remedy="look at these rows with `loraworkbench rows`, lower train.learning_rate, or use dtype bfloat16 instead of float16",
        )

    def _between_steps(self) -> None:
        step, train = self.progress.step, self.train
        last = step >= self.steps
        if self.measure and train.evaluate_every and (step % train.evaluate_every == 0 or last):
            self._measure()
        if self.sample and train.sample_every and (step % train.sample_every == 0 or last):
            self.sample(step)
        if self.stop and not last:
            self.reason = "stopped"
        due = train.save_every and step % train.save_every == 0
        best = train.early_stopping and self.progress.best_step == step
        if last or self.reason != "done" or due or best:
            self._save()

    def _measure(self) -> None:
        """The unseen loss, and what follows from it for early stopping."""
        assert self.measure is not None
        value, progress = self.measure(), self.progress
        if progress.best_loss is None or value < progress.best_loss:
            progress.best_loss, progress.best_step, progress.stale = value, progress.step, 0
        else:
            progress.stale += 1
        if self.train.early_stopping and progress.stale >= self.train.early_stopping:
            self.reason = "early stopping"

    def _save(self) -> None:
        path, size = checkpoint.save(self.checkpoints, self.loaded, self.optimizer, self.progress, self.initial)
        best = self.progress.best_step if self.train.early_stopping else None
        checkpoint.retain(self.checkpoints, self.train.keep_checkpoints, best)
        self.emit(events.Saved(what="checkpoint", path=str(path), bytes=size, step=self.progress.step))

    def restore_best(self) -> int | None:
        """With early stopping: go back to the best measured weights; returns their step."""
        best = self.progress.best_step
        if not self.train.early_stopping or best is None or best == self.progress.step:
            return None
        checkpoint.load(checkpoint.path_of(self.checkpoints, best), self.loaded, self.optimizer, self.made_from)
        return best
