"""A training or an evaluation inside a session, on the base that it holds: the same work as that of the verbs.

    session  --train-->  run folder, lock  --begun-->  stored adapters off, work.train, prompts between its micro-batches
             <--  the trained adapter under the run's name, the stored ones on again

Comes from: clients of `loraworkbench session`, by way of its `Owner`. Goes to: run folders and evaluations as of the
verbs; losses and weights are those of `loraworkbench train`, bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from engine import events, protocol, spec
from engine.control import StopRequest, stop_requests
from engine.errors import EngineError, InputError, Stopped, WorkFailed
from engine.events import Emit
from engine.jobs import evaluating, work
from engine.jobs.job import job, tell
from engine.models import memory
from engine.session.hosting import listening
from engine.session.owner import Owner, Work
from engine.session.server import Ticket
from engine.session.writing import refusal
from engine.store import ProjectFolder, Run, Workspace
from engine.tables import Project
from engine.training import checkpoint, lora


class Workroom:
    """What a session of the project in `folder` can do besides answering.

    Args:
        overrides: of the session, for all that it does. emit: tells the session's own log. stop: ends it.
    """

    def __init__(self, folder: ProjectFolder, overrides: list[str], emit: Emit, stop: StopRequest) -> None:
        self.folder, self.overrides, self.emit, self.stop = folder, overrides, emit, stop

    # --- training

    def train(self, owner: Owner, request: protocol.Train) -> tuple[protocol.Begun, Work]:
        """Make or find the run, and lock it.

        Raises:
            InputError, WorkFailed: the project file is wrong or asks for another base, the run cannot go on, or another
                process works in it.
        """
        run, project = self._run_of(owner, request)
        held, stop = contextlib.ExitStack(), StopRequest()
        held.enter_context(run.lock())
        owner.run, owner.stopping = work.name_of(run), stop
        begun = protocol.Begun(request.id, owner.run, run.label, str(run.path))
        resumed = checkpoint.steps_in(run.checkpoints) if request.resume is not None else None
        last = None if resumed is None else (resumed[-1] if resumed else 0)
        return begun, partial(self._train, owner, run, project, stop, held, last)

    def _run_of(self, owner: Owner, request: protocol.Train) -> tuple[Run, Project]:
        if request.resume is None:
            project = self.folder.load([*self.overrides, *request.overrides])
            self._check_training(owner, project)
            run = work.new_run(self.folder, project)
            return run, spec.load(run.project_file)
        run = self.folder.run(request.resume)
        if request.overrides:
            raise InputError("a run goes on as it began: no overrides", where=run.label)
        if run.state().state == "done":
            raise InputError("this run is done; there is nothing to resume", where=run.label)
        project = spec.load(run.project_file)
        self._check_training(owner, project)
        return run, project

    def _check_training(self, owner: Owner, project: Project) -> None:
        if project.launch.processes > 1 or project.launch.machines > 1:
            raise InputError(
                f"[launch] asks for {project.launch.processes * project.launch.machines} processes, and a session is one",
                remedy="train it with `loraworkbench train`",
            )
        self._check(owner, project)
        if project.lora.init in lora.MUTATING:
            raise InputError(
                f"lora.init = {project.lora.init!r} changes the base's weights, and a session keeps its base",
                remedy="train it with `loraworkbench train`",
            )

    def _check(self, owner: Owner, project: Project) -> None:
        """Raises InputError: the base that is loaded is not the one that the project asks for."""
        if (project.model, project.launch) != (owner.project.model, owner.project.launch):
            raise InputError(
                "[model] or [launch] is not as it was when this session loaded its base",
                where=str(self.folder.file),
                remedy="end the session and start it again, or use the command line for this",
            )

    def _train(
        self, owner: Owner, run: Run, project: Project, stop: StopRequest, held: contextlib.ExitStack, last: int | None
    ) -> None:
        """The training, from its first event to its last; afterwards the session is as before, with one adapter more."""
        log = events.EventLog(run.events)
        beside = _InSession(owner, project)
        try:
            with (
                held,
                stop_requests(stop),
                self._own_socket(run, owner),
                job("train", self.folder.name, log, run, last) as end,
            ):
                end.reason = work.train(self.folder, run, project, tell(log, beside.look_up), stop, beside).reason
        except Stopped:
            pass
        except Exception as error:  # its own log has said it
            if memory.is_fatal(error):
                raise
            problem = error.problem if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
            self.emit(events.Note(text=f"the training of {run.label} failed: {problem}", level="warning"))
        finally:
            log.close()
        self._settle(owner, run)

    @contextlib.contextmanager
    def _own_socket(self, run: Run, owner: Owner) -> Iterator[None]:
        """Clients find a training by its run's folder, in whatever process it is."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(listening(run.path, owner))
            except WorkFailed as error:
                problem = f"no prompts by way of {run.label}: {error.problem} ({error.where})"
                self.emit(events.Note(text=problem, level="warning"))
            yield

    def _settle(self, owner: Owner, run: Run) -> None:
        loaded, name = owner.loaded, owner.run
        loaded.causal.zero_grad(set_to_none=True)
        owner.shelf.bare()
        loaded.keep_activations()
        loaded.causal.eval()
        loaded.blocked.keep()
        memory.release(loaded.device)
        lost = owner.shelf.put_back()
        owner.run, owner.stopping = "", None
        steps = checkpoint.steps_in(run.checkpoints)
        made = (
            run.adapter
            if run.state().state == "done"
            else checkpoint.path_of(run.checkpoints, steps[-1])
            if steps
            else None
        )
        try:
            lost += owner.shelf.load(name, made) if made is not None else []
        except EngineError as error:
            self.emit(events.Note(text=f"{name} is not loaded: {error.problem}", level="warning"))
        if lost:
            self.emit(events.Note(text=f"taken off, for lack of memory or of their files: {', '.join(lost)}"))

    # --- evaluation

    def evaluate(self, owner: Owner, ticket: Ticket, request: protocol.Evaluate) -> Work:
        """Check what is asked.

        Raises:
            InputError: nothing is to be measured, a model is not here or asked for twice, or the project file is wrong
                or asks for another base.
        """
        if not request.models:
            raise InputError("no model: nothing is to be measured")
        for name in request.models:
            owner.model(name)
        project = self.folder.load(self.overrides)
        self._check(owner, project)
        owner.evaluating = list(request.models)
        return partial(self._evaluate, owner, ticket, request, project)

    def _evaluate(self, owner: Owner, ticket: Ticket, request: protocol.Evaluate, project: Project) -> None:
        emit = _Told(owner, ticket, self.stop)
        paths = {n: owner.shelf.stored[n].path for n in request.models if n is not None}
        try:
            data = work.dataset_of(project, Workspace(self.folder.workspace), emit)
            evaluating.check_splits(data, request.splits)
            _, document, target = evaluating.evaluate(
                owner.loaded, data, self.folder, project, request.models, paths, request.splits, None, emit
            )
            ticket.end(protocol.Evaluated(request.id, str(target), document["rows"]))
        except Stopped:
            ticket.end(protocol.Done(request.id, cancelled=True))
        except Exception as error:
            ticket.end(refusal(request.id, error))
            if memory.is_fatal(error):
                raise
        finally:
            owner.evaluating = None


class _InSession:
    """A session as the process around a training."""

    def __init__(self, owner: Owner, project: Project) -> None:
        self.owner, self.project = owner, project
        self._preparing = True

    def look_up(self, event: events.Event) -> None:
        """Answer what waits, while the data is prepared; afterwards that is done between micro-batches."""
        if self._preparing:
            self.owner.serve()

    def base(self) -> Any:
        self._preparing = False
        self.owner.shelf.bare()
        self.owner.loaded.blocked.keep(False)
        return self.owner.loaded

    @contextlib.contextmanager
    def prompts(self, training: Any, template: Any) -> Iterator[Callable[[], None]]:
        self.owner.shelf.put_back()
        self.owner.project, self.owner.template, self.owner.training = self.project, template, training
        try:
            yield self.owner.serve
        finally:
            self.owner.training = None


class _Told:
    """An evaluation's `emit`: events become replies, prompts are answered in between.

    Raises:
        Stopped: the request was cancelled, its client is gone, or the session is to end.
    """

    def __init__(self, owner: Owner, ticket: Ticket, stop: StopRequest) -> None:
        self.owner, self.ticket, self.stop, self.id = owner, ticket, stop, ticket.request.id

    def __call__(self, event: events.Event) -> None:
        if self.stop or self.ticket.cancelled.is_set():
            raise Stopped("cancelled; nothing was written")
        if isinstance(event, events.Stage):
            self.ticket.reply(protocol.Progress(self.id, event.name, event.done, event.total, event.unit))
        elif isinstance(event, events.Scored):
            self.ticket.reply(
                protocol.Measured(
                    self.id, event.model, event.split, event.scope, event.nll, event.tokens, event.perplexity,
                    event.exact_match,
                )
            )  # fmt: skip
        self.owner.serve()
