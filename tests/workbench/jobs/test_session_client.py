"""Finding a session, the threads of a connection, how it ended, and training on the base that a session holds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from engine import events, protocol
from engine.errors import WorkFailed
from engine.protocol import Begun, Done, Loaded, Refused, StatusOf, Text
from engine.store import process_start
from tests.workbench.conftest import Start, started, steps, until, write_run
from tests.workbench.editors.test_compare_view import script, scripted, session_job, sockets  # noqa: F401  (fixtures)
from workbench.jobs import detach, launch, session_client
from workbench.jobs.session_client import Link, SessionGone, SessionSaid


def lives(verb: str = "train") -> events.Started:
    return started(os.getpid(), process_start(os.getpid()), verb)


def waited(holds: Any, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_session_that_trains_comes_first_and_dead_ones_are_passed_over(workspace: Path, scripted: Any) -> None:  # noqa: F811
    assert session_client.find(workspace, "demo") is None
    assert session_client.find(workspace, "nope") is None
    write_run(workspace, "demo/0001", [started(), *steps(2)])  # killed
    folder = write_run(workspace, "demo/0002", [lives(), *steps(2)])
    assert session_client.find(workspace, "demo") is None  # nobody listens yet
    scripted()
    found = session_client.find(workspace, "demo")
    assert found is not None and found.label == "demo/jobs/0001"
    live = [Loaded("demo-0002", "", training=True)]
    scripted(lambda r: script(r, run="demo-0002", step=1, adapters=list(live)), folder)
    found = session_client.find(workspace, "demo")
    assert found is not None and found.label == "demo/0002" and found.status.run == "demo-0002"
    found = session_client.find(workspace, "demo", "demo/jobs/0001")
    assert found is not None and found.label == "demo/jobs/0001"


def test_what_comes_fast_is_posted_in_order_and_at_most_twenty_times_a_second(workspace: Path, scripted: Any) -> None:  # noqa: F811
    def flood(request: Any) -> list[Any]:
        if isinstance(request, protocol.Generate):
            return [*(Text(request.id, 0, f"{n} ") for n in range(3000)), Done(request.id)]
        return script(request)

    scripted(flood)
    found = session_client.find(workspace, "demo")
    assert found is not None
    posted: list[Any] = []
    link = Link(found, posted.append)
    begun = time.monotonic()
    link.send(protocol.Generate(5, [protocol.Asked(text="x")]))
    replies = lambda: [r for m in list(posted) if isinstance(m, SessionSaid) for r in m.replies]  # noqa: E731
    waited(lambda: replies() and isinstance(replies()[-1], Done))
    assert [r.text for r in replies()[:-1]] == [f"{n} " for n in range(3000)]
    assert len(posted) <= 2 + 21 * (time.monotonic() - begun)
    link.close()


@pytest.mark.parametrize(
    ("last", "words", "orderly"),
    [
        (events.Finished(reason="idle"), "it was idle for long and has freed its memory", True),
        (events.Finished(reason="stopped"), "it was stopped", True),
        (events.Failed(problem="CUDA error", remedy="start it again"), "CUDA error (start it again)", False),
        (None, "its process is gone without a word: it was killed, or memory ran out", False),
    ],
)
def test_how_it_ended_is_told_once_by_the_connection(
    workspace: Path, scripted: Any, last: events.Event | None, words: str, orderly: bool, monkeypatch: Any  # noqa: F811
) -> None:  # fmt: skip
    session = scripted()
    found = session_client.find(workspace, "demo")
    assert found is not None
    posted: list[Any] = []
    Link(found, posted.append)
    if last is None:
        events.EventLog(found.folder / "events.jsonl")(started())  # a process that is no more
    session.close()
    if last is not None:
        time.sleep(0.3)  # the socket closes first
        events.EventLog(found.folder / "events.jsonl")(last)
    waited(lambda: posted)
    (gone,) = posted
    assert isinstance(gone, SessionGone) and (gone.words, gone.orderly) == (words, orderly)


def test_starting_waits_for_the_socket_and_says_how_far_it_is(workspace: Path, scripted: Any, monkeypatch: Any) -> None:  # noqa: F811
    made: list[Any] = []

    def start(root: Path, project: str, verb: str, arguments: Any) -> str:
        folder = session_job(root)
        log = events.EventLog(folder / "events.jsonl")
        log(events.Stage(name="load starter (nf4)", done=0, total=1))
        return f"{project}/jobs/0001"

    def tell(words: str) -> None:
        made.append(words)
        if words.startswith("load starter (nf4)") and sum(w.startswith("load") for w in made) == 2:
            scripted()

    monkeypatch.setattr(detach, "start", start)
    found = session_client.start(workspace, "demo", tell, lambda: False)
    assert found.label == "demo/jobs/0001" and made[0].startswith("starting a session")


def test_a_run_that_nobody_can_listen_to_is_not_waited_for(workspace: Path, monkeypatch: Any) -> None:
    loading = events.Stage(name="load tiny (nf4)", done=0, total=1)
    folder = write_run(workspace, "demo/0001", [lives(), loading])
    told: list[str] = []

    def tell(words: str) -> None:
        told.append(words)
        if len(told) == 1:
            events.EventLog(folder / "events.jsonl")(events.Note(text="no prompts while this trains", level="warning"))

    def start(*_: Any) -> str:
        raise WorkFailed("a session of its own")

    monkeypatch.setattr(detach, "start", start)
    with pytest.raises(WorkFailed, match="a session of its own"):
        session_client.start(workspace, "demo", tell, lambda: False)
    assert told[0].startswith("waiting for demo/0001: load tiny") and told[-1].startswith("starting a session")


def test_a_session_that_does_not_come_up_says_why(workspace: Path, monkeypatch: Any) -> None:
    def start(root: Path, *_: Any) -> str:
        folder = session_job(root)
        events.EventLog(folder / "events.jsonl")(events.Failed(problem="no such base"))
        return "demo/jobs/0001"

    monkeypatch.setattr(detach, "start", start)
    with pytest.raises(WorkFailed, match="no such base"):
        session_client.start(workspace, "demo", lambda words: None, lambda: False)


async def test_a_run_is_trained_by_the_session_that_holds_the_base(
    start: Start, workspace: Path, scripted: Any, monkeypatch: Any  # noqa: F811
) -> None:  # fmt: skip
    def trains(request: Any) -> list[Any]:
        if isinstance(request, protocol.Status):
            return [StatusOf(request.id, 1, 1, "demo", "tiny", "nf4", [], trains=True)]
        folder = write_run(workspace, "demo/0001", [lives(), *steps(1, of=9)])
        return [Begun(request.id, "demo-0001", "demo/0001", str(folder))]

    monkeypatch.setattr(launch, "new_run", lambda *a: pytest.fail("a process of its own was started"))
    session = scripted(trains)
    async with start((120, 40)) as pilot:
        await pilot.press("f5")
        app: Any = pilot.app
        await until(pilot, lambda: app.workbench.editors.find("run:demo/0001") is not None)
    assert sum(isinstance(r, protocol.Train) for r in session.requests) == 1


@pytest.mark.parametrize("says", ["busy", "other base"])
def test_a_session_that_cannot_train_it_leaves_it_to_a_process_of_its_own(
    workspace: Path, scripted: Any, says: str  # noqa: F811
) -> None:  # fmt: skip
    def answer(request: Any) -> list[Any]:
        if isinstance(request, protocol.Status):
            run = "demo-0009" if says == "busy" else None
            return [StatusOf(request.id, 1, 1, "demo", "tiny", "nf4", [], trains=True, run=run)]
        return [Refused(request.id, "[model] or [launch] is not as it was when this session loaded its base")]

    scripted(answer)
    assert session_client.train(workspace, "demo") is None
