"""A `generate` request on its way: columns that stream to its client, and at the end whose answer is whose.

Used by `owner`, which gives every request a token in turn. A request that fails ends alone; the others go on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine import protocol
from engine.errors import EngineError, InputError
from engine.generation.answering import settings_from
from engine.generation.sampling import TextStream
from engine.generation.together import Column, Together
from engine.models import memory
from engine.models.lanes import Lanes
from engine.session.server import Ticket
from engine.tables import Project
from engine.training.lora import NAME

if TYPE_CHECKING:
    from engine.session.owner import Owner


class Writing:
    """A `generate` request.

    Raises:
        InputError: nobody is asked, a model is not here, a setting is out of bounds, or a prompt does not fit.
    """

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
        settings = settings_from(checked(owner.project, changes), loaded, owner.template.stop)
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
        self.failed: Exception | None = None

    def _piece(self, column: int, token: int, logprob: float) -> None:
        text = self.streams[column].push(token)
        piece = self.owner.loaded.tokenizer.decode([token])
        self.ticket.reply(protocol.Text(self.request.id, column, text, [(piece, round(logprob, 4))]))

    @property
    def cancelled(self) -> bool:
        return self.ticket.cancelled.is_set()

    def advance(self, assigned: Lanes) -> bool:
        """A token for each column that shares the batch; False when they are done.

        Raises:
            RuntimeError: the device failed, and nothing can be computed any more.
        """
        if self.cancelled or self.failed is not None:
            return False
        try:
            return self.together.advance(assigned)
        except Exception as error:
            self._fail(error)
            return False

    def finish_alone(self) -> None:
        """The columns that cannot share a batch, one after the other.

        Raises:
            RuntimeError: as `advance`.
        """
        if self.cancelled or self.failed is not None:
            return
        try:
            for _ in itertools.takewhile(lambda _: not self.cancelled, self._alone()):
                pass
        except Exception as error:
            self._fail(error)

    def _alone(self) -> Iterator[None]:
        yield from self.together.advance_alone()

    def _fail(self, error: Exception) -> None:
        self.failed = error.with_traceback(None)  # the traceback holds tensors
        if memory.is_fatal(error):
            raise error

    def end(self) -> None:
        """Say the answers, whole or cut off, and that this is all; or what went wrong."""
        self.together.forget()  # now, and not when Python finds out that nobody refers to it
        if self.failed is not None:
            self.ticket.end(refusal(self.request.id, self.failed))
            memory.release(self.owner.loaded.device)
            return
        owner, stored = self.owner, self.owner.shelf.stored
        digests = {NAME: "", **{n: s.sha256 for n, s in stored.items()}}
        for place, found in self.together.results(digests).items():
            model, answer = self.request.columns[place].model, found.answer
            trained = model is not None and model == owner.run
            self.ticket.reply(
                protocol.Answered(
                    self.request.id, place, model, answer.text, len(answer.ids), found.digest,
                    found.largest_logit_difference, found.kl, found.changed, answer.stopped, answer.full,
                    self.step if trained else None, time.monotonic() - self.begun,
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
    """What a client is told of an error."""
    if isinstance(error, EngineError):
        return protocol.Refused(id, error.problem, error.where, error.remedy)
    if memory.is_fatal(error):
        return protocol.Refused(id, memory.FATAL, remedy=memory.FATAL_REMEDY)
    if memory.is_out_of_memory(error):
        remedy = "unload an adapter, or ask for less"
        return protocol.Refused(id, "there is not enough memory for this", remedy=remedy)
    return protocol.Refused(id, f"{type(error).__name__}: {error}")
