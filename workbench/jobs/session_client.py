"""The workbench's end of a session: finding one, starting one, and the threads that speak with it.

    find, start             block; called in threads
    Link.send(request)      from the UI thread; returns at once
    SessionSaid(link, ...)  what came, at most `POSTS_A_SECOND` messages
    SessionGone(link, ...)  the connection has ended: the session was stopped, was killed, or failed

A session is a process of its own: it goes on when the workbench ends, and the workbench when it ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from engine.client import Client
    from engine.folders import JobFolder
    from engine.protocol import AnyReply, Request, StatusOf

POSTS_A_SECOND = 25
POLL_SECONDS = 0.2
END_SECONDS = 5.0
ANSWER_SECONDS = 30.0
"""How long a session may take to say how it is: it may be in the middle of a micro-batch."""


class SessionSaid(Message):
    """Replies, in their order."""

    def __init__(self, link: Link, replies: list[AnyReply]) -> None:
        super().__init__()
        self.link, self.replies = link, replies


class SessionGone(Message):
    """The session has ended, or can no longer be reached. `orderly`: it was told to end, or was done."""

    def __init__(self, link: Link, words: str, orderly: bool) -> None:
        super().__init__()
        self.link, self.words, self.orderly = link, words, orderly


@dataclass(frozen=True, slots=True)
class Found:
    """A session that answers: the folder's label ("starter/0003", "starter/jobs/0002") and what it says of itself."""

    label: str
    folder: Path
    client: Client
    status: StatusOf


class Link:
    """A connection: three threads (one writes, one reads, one posts). Args: post: a widget's `post_message`."""

    def __init__(self, found: Found, post: Callable[[Message], Any]) -> None:
        self.label, self.folder, self._client, self._post = found.label, found.folder, found.client, post
        self._out: SimpleQueue[Request | None] = SimpleQueue()
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._replies: list[AnyReply] = []
        self._closed = self._ended = False
        for work in (self._write, self._read, self._tell):
            threading.Thread(target=work, name=f"session-{work.__name__.strip('_')}", daemon=True).start()

    def send(self, request: Request) -> None:
        self._out.put(request)

    def close(self) -> None:
        """End the connection; what it still says is not told."""
        self._closed = True
        self._out.put(None)
        self._wake.set()
        self._client.close()

    def _write(self) -> None:
        from engine.errors import WorkFailed

        with contextlib.suppress(WorkFailed):  # the reader says that it has ended
            while (request := self._out.get()) is not None:
                self._client.send(request)

    def _read(self) -> None:
        for reply in self._client.replies():
            with self._lock:
                self._replies.append(reply)
            self._wake.set()
        self._ended = True
        self._out.put(None)
        self._wake.set()

    def _tell(self) -> None:
        while not self._closed:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                replies, self._replies = self._replies, []
            if replies and not self._closed:
                self._post(SessionSaid(self, replies))
            if self._ended and not self._replies:
                if not self._closed:
                    self._client.close()
                    self._post(SessionGone(self, *how_it_ended(self.folder)))
                return
            time.sleep(1 / POSTS_A_SECOND)


def find(root: Path, project: str, prefer: str = "") -> Found | None:
    """A session of a project that answers: the one that is `prefer` or trains it, else one that trains, else the newest.

    A training inside a session has a socket of its own that ends with it; the session's is taken.

    Args:
        prefer: label of a run or job.
    """
    found = [f for p in _living(root, project) if (f := connect(p.label, p.path)) is not None]
    wanted = {prefer, prefer.replace("/", "-")} - {""}
    found.sort(key=lambda f: (f.label not in wanted and f.status.run not in wanted, f.status.run is None))
    for other in found[1:]:
        other.client.close()
    return found[0] if found else None


def connect(label: str, folder: Path) -> Found | None:
    """The session of a run's or job's folder, None where nobody listens."""
    from engine import protocol
    from engine.client import Client
    from engine.errors import EngineError

    try:
        asking = Client(folder, timeout=ANSWER_SECONDS)
        with contextlib.closing(asking):
            status = asking.ask(protocol.Status(0))[-1]
        if isinstance(status, protocol.StatusOf):
            return Found(label, folder, Client(folder), status)
    except EngineError:
        pass
    return None


def _living(root: Path, project: str) -> list[JobFolder]:
    """The sessions and trainings of a project whose process lives, the newest first."""
    from engine.errors import EngineError
    from engine.store import Workspace

    try:
        folder = Workspace(root).project(project)
        jobs = [j for j in reversed(folder.jobs()) if j.ordered()[0] == "session"]
        return [p for p in (*jobs, *reversed(folder.runs())) if p.state().state == "running"]
    except EngineError:
        return []


def _still_loading(place: JobFolder) -> bool:
    """Whether a process has not come as far as to listen: its last word is of a stage, and it has made no step."""
    from engine import events
    from engine.log_ends import LogEnds

    with contextlib.suppress(OSError), LogEnds(place.events) as log:
        begun, step = log.last(events.Started), log.last(events.Step)
        stepped = step is not None and (begun is None or step.t > begun.t)
        return not stepped and isinstance(log.last(events.Event), events.Started | events.Stage)
    return False


def start(root: Path, project: str, tell: Callable[[str], Any], over: Callable[[], bool]) -> Found:
    """Start a session, and wait until it answers; a training or a session that is still loading is waited for instead.

    Args:
        tell: gets words about how far it is. over: whether nobody waits any more.

    Raises:
        WorkFailed: it did not start, or ended while it was loading; why, in the engine's words.
    """
    from engine.errors import WorkFailed
    from engine.store import Workspace
    from workbench.jobs import detach

    begun = time.monotonic()
    for place in filter(_still_loading, _living(root, project)):
        while not over() and place.state().state == "running":
            if (found := connect(place.label, place.path)) is not None:
                return found
            if not _still_loading(place):
                break
            tell(f"waiting for {place.label}: {_stage(place.events)}, {time.monotonic() - begun:.0f} s")
            time.sleep(POLL_SECONDS)
    tell("starting a session: it loads its libraries first")
    label = detach.start(root, project, "session", [])
    place = Workspace(root).followed(label)
    while not over():
        if (found := connect(label, place.path)) is not None:
            return found
        if place.state().state != "running":
            raise WorkFailed(f"the session did not come up: {how_it_ended(place.path)[0]}", where=str(place.log))
        tell(f"{_stage(place.events)}, {time.monotonic() - begun:.0f} s")
        time.sleep(POLL_SECONDS)
    raise WorkFailed("nobody waits for the session any more")


def train(root: Path, project: str, resume: int | None = None) -> str | None:
    """Have the session of a project train, on the base that it holds; returns the run's label.

    Args:
        resume: number of the run that is to go on; None: a new one.

    Returns:
        None where there is no session that could: it trains already, or holds another base than the project wants now.
    """
    from engine import protocol
    from engine.client import Client
    from engine.errors import EngineError
    from engine.store import Workspace

    try:
        jobs = Workspace(root).project(project).jobs()
        for place in reversed([j for j in jobs if j.ordered()[0] == "session" and j.state().state == "running"]):
            with contextlib.closing(Client(place.path, timeout=ANSWER_SECONDS)) as client:
                status = client.ask(protocol.Status(0))[-1]
                if not isinstance(status, protocol.StatusOf) or not status.trains or status.run is not None:
                    continue
                begun = client.ask(protocol.Train(1, resume=resume))[-1]
                if isinstance(begun, protocol.Begun):
                    return begun.label
    except EngineError:  # it has ended meanwhile
        pass
    return None


def _stage(path: Path) -> str:
    """What a job is doing, by its event log."""
    from engine import events
    from engine.log_ends import LogEnds

    with contextlib.suppress(OSError), LogEnds(path) as log:
        stage = log.last(events.Stage)
        if stage is not None:
            return stage.name
    return "starting a session"


def how_it_ended(folder: Path, patience: float = END_SECONDS) -> tuple[str, bool]:
    """Why the process of a run or a job no longer answers, in words, and whether that is in order.

    Its socket closes a moment before its last event: that is waited for.
    """
    from engine import events
    from engine.folders import JobFolder
    from engine.log_ends import LogEnds

    until = time.monotonic() + patience
    while JobFolder(folder).state().state == "running" and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(OSError), LogEnds(folder / "events.jsonl") as log:
        last = log.last(events.Event)
        if isinstance(last, events.Failed):
            said = ": ".join(p for p in (last.where, last.problem) if p)
            return said + (f" ({last.remedy})" if last.remedy else ""), False
        if isinstance(last, events.Finished):
            words = {"idle": "it was idle for long and has freed its memory", "done": "it is done"}
            return words.get(last.reason, f"it was {last.reason}"), True
    return "its process is gone without a word: it was killed, or memory ran out", False
