"""A job's life: its first event and its last, where its failures and its libraries' chatter go.

Comes from: the verbs. Goes to: the event log of a run, a console, or both.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from engine import events
from engine.control import StopRequest, stop_requests
from engine.errors import EngineError, Stopped
from engine.events import Emit
from engine.store import JobFolder, process_start


def tell(*listeners: Emit) -> Emit:
    """One `emit` for several listeners."""

    def emit(event: events.Event) -> None:
        for listener in listeners:
            listener(event)

    return emit


@dataclass
class Ending:
    """How a job that did not fail ends: "done", or what the job says itself."""

    reason: str = "done"


@contextlib.contextmanager
def job(
    verb: str, project: str, emit: Emit, run: JobFolder | None = None, resumed: int | None = None
) -> Iterator[Ending]:
    """Wrap a job's work in its first and last event; failures are told before they are raised on.

    The traceback of a failure goes to the run's log, never to the user's screen; so does what libraries print.
    """
    with _quick_imports():
        from engine.models import memory
        from engine.models.loading import device_name, versions

    begun = time.monotonic()
    pid = os.getpid()
    emit(
        events.Started(
            verb=verb,
            pid=pid,
            pid_started=process_start(pid),
            project=project,
            device=device_name(),
            versions={"python": platform.python_version(), **versions()},
            resumed_from_step=resumed,
        )
    )
    ending = Ending()
    try:
        with library_output(run):
            yield ending
    except Stopped:
        emit(events.Finished(reason="stopped", seconds=time.monotonic() - begun))
        raise
    except BaseException as error:
        trace = _store_trace(run) if run else None
        if memory.is_fatal(error):
            remedy = memory.FATAL_REMEDY
            emit(events.Failed(problem=f"{memory.FATAL} ({_first_line(error)})", remedy=remedy, trace=trace))
        elif isinstance(error, EngineError):
            emit(events.Failed(problem=error.problem, where=error.where, remedy=error.remedy, trace=trace))
        else:
            problem = (
                "interrupted at once" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
            )
            emit(events.Failed(problem=problem, trace=trace))
        raise
    emit(events.Finished(reason=ending.reason, seconds=time.monotonic() - begun))


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """While in the block torch and transformers are imported without a search for garbage, which goes through all of the
    half a million objects that they leave, again and again: a fifth of the time. Later searches leave these out."""
    if "transformers" in sys.modules or not gc.isenabled():
        yield
        return
    from engine.models import hf

    gc.disable()
    try:
        hf.prepare()
        yield
    finally:
        gc.freeze()
        gc.enable()


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


@contextlib.contextmanager
def told_job(verb: str, project: str, listener: Emit, folder: JobFolder | None, words: str) -> Iterator[Emit]:
    """`job` for work that keeps nothing of what it has not finished; gives the `emit` to do it with.

    With a `folder` it also speaks to the event log there, and a first SIGTERM or SIGINT ends it with its next progress
    (a second one at once), told as `finished("stopped")`.

    Raises:
        Stopped: it was; `words` say so. WorkFailed: another process works in the folder.
    """
    if folder is None:
        with job(verb, project, listener):
            yield listener
        return
    with folder.lock(), stop_requests() as stop:
        log = events.EventLog(folder.events)
        emit = tell(log, listener)
        try:
            with job(verb, project, emit, folder):
                yield until_stopped(emit, stop, words)
        finally:
            log.close()


def until_stopped(emit: Emit, stop: StopRequest, words: str) -> Emit:
    """`emit`, raising `Stopped` instead of telling a progress after a stop; what is complete (`Saved`) is still told."""

    def speak(event: events.Event) -> None:
        if stop and isinstance(event, events.Stage | events.Note | events.Scored):
            raise Stopped(words)
        emit(event)

    return speak


@contextlib.contextmanager
def library_output(run: JobFolder | None) -> Iterator[None]:
    """What libraries print while a run works goes to its log.txt; the console keeps the stream it was made with."""
    if run is None:
        yield
        return
    with (
        run.log.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


def _store_trace(run: JobFolder) -> str | None:
    with contextlib.suppress(OSError):  # the disk may be what failed
        with run.log.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
        return str(run.log)
    return None
