"""The one thread that runs the model: it carries out tickets, between the micro-batches of a training where there is one.

Generations that come while others are being written join them: a token each in turn, so that two clients both see text
flow. Nothing here touches training: no random numbers of torch are drawn that training does not set anew, gradients
are not touched, modes and trainable parameters are put back. What takes long (`train`, `evaluate`) is prepared here,
by a `Workroom`, and done by whoever drives the owner; it serves between its parts.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine import protocol
from engine.control import StopRequest
from engine.errors import EngineError, InputError
from engine.generation.decoding import inference
from engine.generation.together import score
from engine.models import memory
from engine.models.lanes import cannot_share, lanes
from engine.models.loaded import Loaded
from engine.protocol import Asked
from engine.rows.shapes import Message
from engine.session.server import Ticket
from engine.session.shelf import MOST, Shelf
from engine.session.writing import Writing, refusal
from engine.tables import Project
from engine.tokens.examples import Encoder, Segment
from engine.tokens.prompts import Template
from engine.training.lora import NAME

if TYPE_CHECKING:
    from engine.training.loop import Training

Work = Callable[[], None]


class Workroom(Protocol):
    """What takes long; see `jobs.workroom`. Both raise `InputError` for what cannot be begun."""

    def train(self, owner: Owner, request: protocol.Train) -> tuple[protocol.Begun, Work]: ...

    def evaluate(self, owner: Owner, ticket: Ticket, request: protocol.Evaluate) -> Work: ...


class Owner:
    """Carries out what clients ask of a loaded base.

    Args:
        project, template: for prompts and [generate]; `label`, base and quantization are what `status` says.
        training: whose adapter answers under the name `run` and whose `stop` is asked; None: nothing is trained.
        workroom: None: this process takes no `train` and no `evaluate`.
        most: stored adapters that are kept.

    Attributes:
        work: what is to be done next, once the prompts are answered; see `hosting.serve_alone`.
        stopping: of the training that was begun, None where there is none. evaluating: see `StatusOf`.
    """

    def __init__(
        self,
        loaded: Loaded,
        project: Project,
        template: Template,
        label: str,
        training: Training | None = None,
        run: str = "",
        workroom: Workroom | None = None,
        most: int = MOST,
    ) -> None:
        self.loaded, self.project, self.template, self.label = loaded, project, template, label
        self.training, self.run, self.workroom = training, run, workroom
        self.stopping: StopRequest | None = training.stop if training is not None else None
        self.evaluating: list[str | None] | None = None
        self.work: Work | None = None
        self.encoder = Encoder(loaded.tokenizer)
        self.shelf = Shelf(loaded, most)
        self.desk: queue.SimpleQueue[Ticket] = queue.SimpleQueue()
        self.over = False
        self.last_asked = time.monotonic()
        self._later: list[Ticket] = []

    # --- from the server's thread

    def take(self, ticket: Ticket) -> None:
        self.desk.put(ticket)

    # --- on the model's thread

    def wait(self, seconds: float) -> bool:
        """Wait for a ticket, at most `seconds`; returns whether one is there."""
        if self._later:
            return True
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
        writing: list[Writing] = []
        while self._later or not self.desk.empty():
            try:
                self._admit(writing)
                self._write(writing)
            except Exception as error:  # of the device, or of all of them together: nobody is left without a word
                lost = memory.is_fatal(error)
                for ticket in [*(w.ticket for w in writing), *(self._later if lost else ())]:
                    ticket.end(refusal(ticket.request.id, error))
                if lost:
                    raise
            writing = []

    def _write(self, writing: list[Writing]) -> None:
        if not writing:
            return
        with inference(self.loaded):
            with lanes(self.loaded) as assigned:
                while sum(w.advance(assigned) for w in writing):  # a token for each of them
                    self._admit(writing)
            for w in writing:
                w.finish_alone()
        while writing:
            writing[0].end()
            writing.pop(0)
        if self.loaded.device.type == "cpu":
            memory.trim()

    def _admit(self, writing: list[Writing]) -> None:
        """Carry out what waits; what writes is begun.

        While texts are written, what changes or needs the whole model is put off, and with it all that comes after it,
        so that nothing overtakes and nothing waits for ever.
        """
        waiting, self._later = self._later, []
        while waiting or not self.desk.empty():
            ticket = waiting.pop(0) if waiting else self.desk.get()
            at_once = isinstance(ticket.request, protocol.Status | protocol.Stop)
            puts_off = self._later or not isinstance(ticket.request, protocol.Generate)
            if writing and puts_off and not at_once:
                self._later.append(ticket)
            else:
                self._begin(ticket, writing)

    def _begin(self, ticket: Ticket, writing: list[Writing]) -> None:
        if not isinstance(ticket.request, protocol.Status):
            self.last_asked = time.monotonic()
        if ticket.cancelled.is_set():
            ticket.end(protocol.Done(ticket.request.id, cancelled=True))
            return
        try:
            made = self._carry_out(ticket)
        except Exception as error:
            if memory.is_fatal(error):
                ticket.end(refusal(ticket.request.id, error))
                raise
            ticket.end(refusal(ticket.request.id, error.with_traceback(None)))
            if not isinstance(error, EngineError):
                memory.release(self.loaded.device)
            return
        if isinstance(made, Writing):
            writing.append(made)
        elif made is not None:
            ticket.end(made)

    def _carry_out(self, ticket: Ticket) -> protocol.Reply | Writing | None:
        request = ticket.request
        match request:
            case protocol.Status():
                return self.status(request.id)
            case protocol.Load():
                return protocol.Done(request.id, dropped=self.load(request.name, Path(request.path)))
            case protocol.Unload():
                self._refuse_while_measuring()
                self.shelf.unload(request.name)
            case protocol.Generate():
                return Writing(self, ticket, request)
            case protocol.Score():
                return self._score(request)
            case protocol.Train():
                begun, self.work = self._free_workroom().train(self, request)
                return begun
            case protocol.Evaluate():
                self.work = self._free_workroom().evaluate(self, ticket, request)
                return None
            case protocol.Stop():
                if self.stopping is None:
                    raise InputError("nothing is trained in this session")
                self.stopping.asked = True
            case protocol.Shutdown():
                if self.stopping is not None:
                    raise InputError("this session trains", remedy="stop the training first")
                self._refuse_while_measuring()
                self.over = True
        return protocol.Done(request.id)

    def _free_workroom(self) -> Workroom:
        if self.workroom is None:
            remedy = "start a session of the project (`loraworkbench session`)"
            raise InputError("this process trains one run and takes no other work", remedy=remedy)
        if self.stopping is not None:
            raise InputError(f"this session trains {self.run} already", remedy="wait for its end, or stop it")
        self._refuse_while_measuring()
        return self.workroom

    def _refuse_while_measuring(self) -> None:
        if self.evaluating is not None:
            raise InputError("this session is measuring its models", remedy="wait for the end, or cancel that request")

    # --- models

    def model(self, name: str | None) -> str | None:
        """The name that `Loaded` knows a client's model by.

        Raises:
            InputError: there is no such adapter here.
        """
        if name is None:
            return None
        if name == self.run and self.training is not None:
            return NAME
        if name not in self.shelf.stored:
            if name == self.run:
                raise InputError(f"{name!r} is about to be trained and has no weights yet")
            have = ", ".join([*([self.run] if self.run else []), *self.shelf.stored]) or "none"
            raise InputError(f"no adapter {name!r} in this session (there are: {have})")
        self.shelf.use(name)
        return name

    def load(self, name: str, path: Path) -> list[str]:
        """`Shelf.load`."""
        self._refuse_while_measuring()
        if name == self.run or name == NAME:
            raise InputError(f"the name {name!r} is taken: it is that of what is trained here")
        return self.shelf.load(name, path)

    def status(self, id: int) -> protocol.StatusOf:
        listed = [protocol.Loaded(n, s.sha256, cannot_share(self.loaded, n)) for n, s in self.shelf.stored.items()]
        step = steps = None
        if self.training is not None:
            listed.insert(0, protocol.Loaded(self.run, "", cannot_share(self.loaded, NAME), training=True))
            step, steps = self.training.progress.step, self.training.steps
        return protocol.StatusOf(
            id, protocol.VERSION, os.getpid(), self.label, self.project.model.base, self.loaded.quantization, listed,
            not self.loaded.base_changed, self.run or None, step, steps, memory.used_bytes(self.loaded.device),
            self.evaluating, self.workroom is not None,
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
