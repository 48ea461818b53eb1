"""The one thread that runs the model: it carries out tickets, between the micro-batches of a training where there is one.

Generations that come while others are being written join them: a token each in turn, so that two clients both see text
flow. Nothing here touches training: no random numbers of torch are drawn that training does not set anew, gradients
are not touched, modes and trainable parameters are put back.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine import adapters, protocol
from engine.errors import EngineError, InputError
from engine.generation.answering import next_logits, settings_from
from engine.generation.decoding import inference
from engine.generation.sampling import TextStream
from engine.generation.together import Column, Together, score
from engine.models import memory
from engine.models.lanes import cannot_share, lanes
from engine.models.loaded import Loaded
from engine.protocol import Asked
from engine.rows.shapes import Message
from engine.session.server import Ticket
from engine.tables import Project
from engine.tokens.examples import Encoder, Segment
from engine.tokens.prompts import Template

if TYPE_CHECKING:
    from engine.training.loop import Training

PROBE_TOKENS = 16


@dataclass
class Attached:
    """A stored adapter of the session."""

    path: Path
    sha256: str
    used: float = field(default_factory=time.monotonic)


class Owner:
    """Carries out what clients ask of a loaded base.

    Args:
        project: for templates and [generate]; its `label`, base and quantization are what `status` says.
        training: whose adapter answers under the name `run` and whose `stop` is asked; None: nothing is trained.
    """

    def __init__(
        self,
        loaded: Loaded,
        project: Project,
        template: Template,
        label: str,
        training: Training | None = None,
        run: str = "",
    ) -> None:
        self.loaded, self.project, self.template, self.label = loaded, project, template, label
        self.training, self.run = training, run
        self.encoder = Encoder(loaded.tokenizer)
        self.desk: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self.attached: dict[str, Attached] = {}
        self.over = False
        self.last_asked = time.monotonic()
        self._later: list[Ticket] = []
        self._probe = self._base_logits()

    # --- from the server's thread

    def take(self, ticket: Ticket) -> None:
        self.desk.put(ticket)

    # --- on the model's thread

    def wait(self, seconds: float) -> bool:
        """Wait for a ticket, at most `seconds`; returns whether one is there."""
        try:
            self._later.append(self.desk.get(timeout=seconds))
        except queue.Empty:
            return False
        return True

    def serve(self) -> None:
        """Carry out all that waits, and what comes meanwhile.

        Raises:
            RuntimeError: the device failed; nothing can be carried out any more.
        """
        writing: list[_Writing] = []
        while self._later or writing or not self.desk.empty():
            self._collect(writing)
            if not writing:
                continue
            with inference(self.loaded):
                with lanes(self.loaded) as assigned:
                    while sum(w.advance(assigned) for w in writing):  # a token for each of them
                        self._join(writing)
                for w in writing:
                    w.finish_alone()
            for w in writing:
                w.end()
            writing = []

    def _collect(self, writing: list[_Writing]) -> None:
        """Carry out what is quick; what writes is begun."""
        while self._later or not self.desk.empty():
            ticket = self._later.pop(0) if self._later else self.desk.get()
            self._begin(ticket, writing)

    def _join(self, writing: list[_Writing]) -> None:
        """While texts are written: begin those that have come, answer what does not touch the model, keep the rest."""
        while not self.desk.empty():
            ticket = self.desk.get()
            if isinstance(ticket.request, protocol.Load | protocol.Unload | protocol.Score):
                self._later.append(ticket)
            else:
                self._begin(ticket, writing)

    def _begin(self, ticket: Ticket, writing: list[_Writing]) -> None:
        self.last_asked = time.monotonic()
        if ticket.cancelled.is_set():
            ticket.end(protocol.Done(ticket.request.id, cancelled=True))
            return
        try:
            made = self._carry_out(ticket)
        except (EngineError, KeyError) as error:
            ticket.end(refusal(ticket.request.id, error))
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            problem = "there is not enough memory for this"
            ticket.end(protocol.Refused(ticket.request.id, problem, remedy="unload an adapter, or ask for less"))
            memory.release(self.loaded.device)
            return
        if isinstance(made, _Writing):
            writing.append(made)
        elif made is not None:
            ticket.end(made)

    def _carry_out(self, ticket: Ticket) -> protocol.Reply | _Writing | None:
        request = ticket.request
        match request:
            case protocol.Status():
                return self.status(request.id)
            case protocol.Load():
                self.load(request.name, Path(request.path))
            case protocol.Unload():
                self._unload(request.name)
            case protocol.Generate():
                return _Writing(self, ticket, request)
            case protocol.Score():
                return self._score(request)
            case protocol.Stop():
                if self.training is None:
                    raise InputError("nothing is trained in this session")
                self.training.stop.asked = True
            case protocol.Shutdown():
                if self.training is not None:
                    raise InputError("this session trains", remedy="stop the training first")
                self.over = True
        return protocol.Done(request.id)

    # --- models

    def model(self, name: str | None) -> str | None:
        """The name that `Loaded` knows a client's model by.

        Raises:
            InputError: there is no such adapter here.
        """
        if name is None:
            return None
        if name == self.run and self.training is not None:
            return self.loaded.adapters[0]
        if name not in self.attached:
            have = ", ".join([*([self.run] if self.run else []), *self.attached]) or "none"
            raise InputError(f"no adapter {name!r} in this session (there are: {have})")
        self.attached[name].used = time.monotonic()
        return name

    def load(self, name: str, path: Path) -> None:
        """Attach a stored adapter; where memory is short, the least recently used ones make room.

        Raises:
            InputError: there is one of this name, it does not fit the base or the memory, or it changes the base.
        """
        if name in self.attached or name == self.run:
            raise InputError(f"an adapter called {name!r} is here already")
        info = adapters.inspect(path)
        while memory.attempt(lambda: (self.loaded.load_adapter(name, path),)) is None:
            if not self.attached:
                raise InputError("this adapter does not fit into memory", where=str(path))
            self._unload(min(self.attached, key=lambda n: self.attached[n].used))
            memory.release(self.loaded.device)
        self.attached[name] = Attached(path, info.sha256)
        if self._probe is not None and not torch.equal(self._probe, self._base_logits()):  # type: ignore[arg-type]
            self._unload(name)
            raise InputError("with this adapter loaded the base is no longer the base, bit for bit", where=str(path))

    def _unload(self, name: str) -> None:
        if name not in self.attached:
            raise InputError(f"no stored adapter {name!r} in this session")
        self.loaded.unload_adapter(name)
        del self.attached[name]

    def _base_logits(self) -> torch.Tensor | None:
        """What the base says after a few tokens; None where training's initialisation has changed it."""
        if self.loaded.base_changed:
            return None
        size = self.loaded.causal.get_input_embeddings().weight.shape[0]
        with self.loaded.using(None):
            return next_logits(self.loaded, [(7919 * i) % size for i in range(1, PROBE_TOKENS + 1)])

    def status(self, id: int) -> protocol.StatusOf:
        listed = [protocol.Loaded(n, a.sha256, cannot_share(self.loaded, n)) for n, a in self.attached.items()]
        step = steps = None
        if self.training is not None:
            alone = cannot_share(self.loaded, self.loaded.adapters[0])
            listed.insert(0, protocol.Loaded(self.run, "", alone, training=True))
            step, steps = self.training.progress.step, self.training.steps
        return protocol.StatusOf(
            id, protocol.VERSION, _pid(), self.label, self.project.model.base, self.loaded.quantization, listed,
            not self.loaded.base_changed, self.run or None, step, steps, memory.used_bytes(self.loaded.device),
        )  # fmt: skip

    # --- prompts

    def segments(self, asked: Asked) -> list[Segment]:
        """What is before the answer, its own beginning (`so_far`) included.

        Raises:
            InputError: the template refuses it, or there is nothing.
        """
        if asked.text is not None:
            made = [Segment(asked.text)]
        else:
            made = self.template.conversation([Message(m.role, m.content, 0.0) for m in asked.messages])
        return [*made, Segment(asked.so_far, raw=True)] if asked.so_far else made

    def _score(self, request: protocol.Score) -> protocol.Scores:
        ids, weights = self.encoder.encode([*self.segments(request.asked), Segment(request.answer, 1.0, raw=True)])
        first = next((i for i, w in enumerate(weights) if w > 0), len(ids))
        if first == len(ids) or first == 0:
            raise InputError("there is no answer to score")
        rows = score(self.loaded, [self.model(m) for m in request.models], ids, first)
        texts = [self.loaded.tokenizer.decode([i]) for i in ids[first:]]
        return protocol.Scores(request.id, texts, rows)


class _Writing:
    """A `generate` request on its way."""

    def __init__(self, owner: Owner, ticket: Ticket, request: protocol.Generate) -> None:
        if not request.columns:
            raise InputError("no column: nobody is asked")
        self.owner, self.ticket, self.request = owner, ticket, request
        loaded = owner.loaded
        changes = {
            name: value
            for name in ("max_new_tokens", "temperature", "top_p", "top_k", "seed", "stop")
            if (value := getattr(request, name)) is not None
        }
        table = checked(owner.project, changes)
        settings = settings_from(table, loaded, owner.template.stop)
        models = [owner.model(asked.model) for asked in request.columns]
        prompts = [owner.encoder.prompt(owner.segments(asked)) for asked in request.columns]
        limit = loaded.limit
        if limit and max(map(len, prompts)) >= limit:
            raise InputError(f"the prompt has {max(map(len, prompts))} tokens, and this base takes {limit}")
        columns = [Column(m, tuple(p)) for m, p in zip(models, prompts, strict=True)]
        self.together = Together(loaded, columns, settings, self._piece)
        self.streams = [TextStream(loaded.tokenizer, settings.stop_texts) for _ in columns]
        self.begun = time.monotonic()
        self.step = owner.training.progress.step if owner.training is not None else None

    def _piece(self, column: int, token: int, logprob: float) -> None:
        text = self.streams[column].push(token)
        piece = self.owner.loaded.tokenizer.decode([token])
        self.ticket.reply(protocol.Text(self.request.id, column, text, [(piece, round(logprob, 4))]))

    @property
    def cancelled(self) -> bool:
        return self.ticket.cancelled.is_set()

    def advance(self, assigned: Any) -> bool:
        return not self.cancelled and self.together.advance(assigned)

    def finish_alone(self) -> None:
        for _ in itertools.takewhile(lambda _: not self.cancelled, self._alone()):
            pass

    def _alone(self) -> Iterator[None]:
        if not self.cancelled:
            yield from self.together.advance_alone()

    def end(self) -> None:
        """Say the answers, whole or cut off, and that this is all."""
        owner = self.owner
        digests = {n: a.sha256 for n, a in owner.attached.items()} | dict.fromkeys(owner.loaded.adapters[:1], "")
        for place, found in self.together.results(digests).items():
            model, answer = self.request.columns[place].model, found.answer
            self.ticket.reply(
                protocol.Answered(
                    self.request.id, place, model, answer.text, len(answer.ids), owner.attached[model].sha256
                    if model in owner.attached else "", found.largest_logit_difference, found.kl, found.changed,
                    answer.stopped, answer.full, self.step if model is not None and model == owner.run else None,
                    time.monotonic() - self.begun,
                )
            )  # fmt: skip
        self.ticket.end(protocol.Done(self.request.id, cancelled=self.cancelled))


def checked(project: Project, changes: dict[str, Any]) -> Any:
    """The project's [generate] table with changes, checked like the file's.

    Raises:
        InputError: a value is out of its bounds.
    """
    from pydantic import ValidationError

    table = project.generate
    try:
        return type(table).model_validate({**table.model_dump(), **changes})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"generate: {wrong}") from error


def refusal(id: int, error: Exception) -> protocol.Refused:
    if isinstance(error, EngineError):
        return protocol.Refused(id, error.problem, error.where, error.remedy)
    return protocol.Refused(id, f"{type(error).__name__}: {error}")


def _pid() -> int:
    import os

    return os.getpid()
