"""The compare view on a real session with a tiny model: columns stream, digits switch, sessions come and are lost; and on
a scripted one, where what is said matters and no model is needed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine import events, protocol
from engine.addresses import socket_of
from engine.protocol import Answered, Done, Loaded, StatusOf, Text
from engine.store import process_start
from tests.engine.test_session import running
from tests.engine.test_together import adapter
from tests.engine.tiny import save_tiny, tiny_loaded
from tests.workbench.conftest import Start, at_sizes, started, steps, text_of, until, write_run
from workbench.editors.compare_view import CompareView
from workbench.modals.confirm import AskLine
from workbench.modals.transcripts import Transcripts
from workbench.widgets.answer_pane import AnswerPane

HOSTILE = "[red]x[/] \x1b[31mred\x07 \u202eright to left \U0001f600 " + "long " * 200


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sockets in a folder of the test's own, whose path is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "llama")


def session_job(workspace: Path) -> Path:
    """The folder of a session whose process lives: this one."""
    folder = workspace / "projects" / "demo" / "jobs" / "0001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps({"verb": "session", "arguments": []}))
    log = events.EventLog(folder / "events.jsonl")
    log(started(os.getpid(), process_start(os.getpid()), "session"))
    log.close()
    return folder


def two_runs(workspace: Path) -> None:
    for number in (1, 2):
        folder = write_run(workspace, f"demo/000{number}", [started(), *steps(3), events.Finished(reason="done")])
        adapter(folder / "adapter", "llama", number)


async def opened(pilot: Pilot, place: Any = None) -> CompareView:
    app: Any = pilot.app
    app.open("compare:demo", place=place)
    await until(pilot, lambda: isinstance(app.workbench.editors.front, CompareView))
    view = app.workbench.editors.front
    await until(pilot, lambda: view.box.has_focus)
    return view


async def answered(pilot: Pilot, view: CompareView) -> None:
    await until(pilot, lambda: view.comparison.turns and not view.talk.busy, 30)
    await pilot.pause()


def said_by(view: CompareView) -> list[str]:
    found = [view.comparison.answer(n) for n in range(len(view.comparison.columns))]
    return [a.text if a is not None else "" for a in found]


# --- with a real model


async def test_one_prompt_to_all_switched_by_digits_with_proof_and_kept(
    start: Start, workspace: Path, base: Path
) -> None:
    two_runs(workspace)
    with running(session_job(workspace), tiny_loaded(base)):
        async with start((120, 40)) as pilot:
            view = await opened(pilot)
            await until(pilot, lambda: view.link is not None)
            assert [c.name for c in view.comparison.columns] == ["base", "demo-0002"]
            view.comparison.sampling.max_new_tokens = 12
            await pilot.press(*"2 + 3?", "enter")
            await answered(pilot, view)
            first, second = said_by(view)
            assert first and second and first != second
            screen = text_of(pilot)
            digest = view.talk.held(view.comparison.columns[1]).sha256[:8]  # type: ignore[union-attr]
            assert f"demo-0002 {digest}" in screen.replace("\n", "") and "KL" in screen and "tokens in" in screen
            await pilot.press("escape")
            await until(pilot, lambda: view.query(AnswerPane)[0].area.has_focus)
            await pilot.press("l", "2")
            assert view.comparison.columns[1].name == "demo-0001"
            assert "2 demo/0001" in text_of(pilot) and "not asked yet" in text_of(pilot)
            await pilot.press("r")
            await answered(pilot, view)
            third = said_by(view)[1]
            assert third and third != second
            await pilot.press("1")
            assert said_by(view)[1] == second and second.split()[0] in text_of(pilot)
            await pilot.press("x")
            assert [c.name for c in view.comparison.columns] == ["demo-0002", "base"]
            await pilot.press("0")
            assert [c.name for c in view.comparison.columns] == ["demo-0002", "base"] and said_by(view)[1] == first
            await pilot.press("t")
            await until(pilot, lambda: "base" in view.comparison.turn.answers["demo-0002"].scores)
            await pilot.press("t")
            await until(pilot, lambda: "nats" in text_of(pilot) and "%" in text_of(pilot))
            from engine import transcripts

            path = transcripts.path_of(workspace / "projects" / "demo")
            await until(pilot, lambda: len(list(transcripts.entries(path))) == 2)
            newest = next(transcripts.entries(path))
            assert newest.prompt == "2 + 3?" and [a.model for a in newest.answers] == ["base", "demo-0001"]
            assert newest.settings == {"max_new_tokens": 12} and newest.answers[0].text == first


async def test_the_same_seed_gives_the_same_text_and_the_next_one_another(
    start: Start, workspace: Path, base: Path
) -> None:
    with running(session_job(workspace), tiny_loaded(base)):
        async with start((120, 40)) as pilot:
            view = await opened(pilot)
            await until(pilot, lambda: view.link is not None)
            view.comparison.sampling.max_new_tokens, view.comparison.sampling.temperature = 12, 1.0
            await pilot.press(*"2 + 3?", "enter")
            await answered(pilot, view)
            first = said_by(view)[0]
            await pilot.press("escape", "r")
            await answered(pilot, view)
            assert said_by(view)[0] == first
            await pilot.press("R")
            await answered(pilot, view)
            assert said_by(view)[0] != first and "seed 1" in text_of(pilot)


async def test_a_conversation_is_continued_stopped_edited_and_begun_anew(
    start: Start, workspace: Path, base: Path
) -> None:
    with running(session_job(workspace), tiny_loaded(base)):
        async with start((120, 40)) as pilot:
            view = await opened(pilot)
            await until(pilot, lambda: view.link is not None)
            view.comparison.sampling.max_new_tokens = 6
            await pilot.press(*"2 + 3?", "enter")
            await answered(pilot, view)
            short = said_by(view)[0]
            await pilot.press("escape", "c")
            await answered(pilot, view)
            longer = said_by(view)[0]
            assert longer.startswith(short) and len(longer) > len(short)
            await pilot.press("e")
            assert view.box.text == "2 + 3?" and view.box.has_focus
            await pilot.press(*"?", "enter")
            await answered(pilot, view)
            assert [t.prompt for t in view.comparison.turns] == ["2 + 3??"]
            view.comparison.sampling.max_new_tokens, view.comparison.sampling.history = 200, "none"
            await pilot.press(*"2 + 3?", "enter")
            await until(pilot, lambda: said_by(view)[0], 30)
            await pilot.press("escape", "s")
            await answered(pilot, view)
            assert view.comparison.answer(0).state in ("cut", "done") and len(view.comparison.turns) == 2  # type: ignore[union-attr]
            await pilot.press("X")
            assert not view.comparison.turns
            await pilot.press("i", "ctrl+up")
            assert view.box.text == "2 + 3?"


async def test_a_lost_session_is_said_and_the_prompt_stays(start: Start, workspace: Path, base: Path) -> None:
    folder = session_job(workspace)
    async with start((120, 40)) as pilot:
        with running(folder, tiny_loaded(base)):
            view = await opened(pilot)
            await until(pilot, lambda: view.link is not None)
            await pilot.press(*"half a prompt")
            events.EventLog(folder / "events.jsonl")(events.Failed(problem="CUDA error: an illegal [b]access[/b]"))
        await until(pilot, lambda: view.lost)
        assert "CUDA error: an illegal [b]access[/b]" in text_of(pilot).replace("\n", " ")
        assert "half a prompt" in text_of(pilot) and view.box.text == "half a prompt"


# --- with a scripted session


class Scripted:
    """A session that says what it is told to: `answer(request)` gives the replies to a request."""

    def __init__(self, folder: Path, answer: Callable[[Any], list[Any]]) -> None:
        self.requests: list[Any] = []
        self._answer, self._path = answer, socket_of(folder)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(self._path))
        self._listening.listen()
        self._open: list[socket.socket] = []
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._open.append(connection)
                threading.Thread(target=self._speak, args=(connection,), daemon=True).start()

    def _speak(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                request = protocol.decode_request(line)
                self.requests.append(request)
                for reply in self._answer(request):
                    connection.sendall(protocol.encode(reply))

    def close(self) -> None:
        self._end(self._listening)
        self._serving.join(10)  # it may be about to add a connection
        for each in self._open:
            self._end(each)
        self._path.unlink(missing_ok=True)

    @staticmethod
    def _end(each: socket.socket) -> None:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


def script(request: Any, text: str = "an answer", **status: Any) -> list[Any]:
    """What a session with the adapter demo-0001 says."""
    match request:
        case protocol.Status():
            loaded = [Loaded("demo-0001", "ab" * 8), *status.pop("adapters", [])]
            return [StatusOf(request.id, 1, 1, "demo", "tiny", "nf4", loaded, **status)]
        case protocol.Generate():
            said: list[Any] = [Text(request.id, n, text, [(text, -0.5)]) for n in range(len(request.columns))]
            said += [
                Answered(request.id, n, c.model, text, 4, "" if c.model in (None, status.get("run")) else "ab" * 8, 2.0, 0.5,
                         c.model is not None, True, step=41 if c.model and c.model == status.get("run") else None)
                for n, c in enumerate(request.columns)
            ]  # fmt: skip
            return [*said, Done(request.id)]
        case protocol.Score():
            return [protocol.Scores(request.id, ["an", " answer"], [[-1.0, -2.0]] * len(request.models))]
    return [Done(request.id)]


@pytest.fixture
def scripted(workspace: Path) -> Iterator[Callable[..., Scripted]]:
    open_ones: list[Scripted] = []

    def make(answer: Callable[[Any], list[Any]] = script, folder: Path | None = None) -> Scripted:
        open_ones.append(Scripted(folder or session_job(workspace), answer))
        return open_ones[-1]

    yield make
    for each in open_ones:
        each.close()


def with_adapter(workspace: Path, number: int = 1) -> None:
    """A run whose adapter nobody reads."""
    folder = write_run(workspace, f"demo/000{number}", [started(), *steps(3), events.Finished(reason="done")])
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50), (40, 12)])
async def test_columns_at_all_sizes(start: Start, workspace: Path, scripted, size: tuple[int, int]) -> None:
    with_adapter(workspace)
    scripted()
    async with start(size) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        await pilot.press(*"hello", "enter")
        await answered(pilot, view)
        await pilot.press("escape", "plus", "plus")
        await until(pilot, lambda: len(view.comparison.columns) == 4)
        await pilot.pause()
        shown = [p for p in view.query(AnswerPane) if p.display]
        assert len(shown) == {40: 1, 80: 2, 120: 2, 200: 4}[size[0]]
        assert all(p.size.width >= 28 for p in shown) and view.at == 3 and shown[-1].number == 3
        text = text_of(pilot)
        assert all(len(line) <= size[0] for line in text.split("\n")) and "hello" in text
        await pilot.press("h", "h", "h")
        await pilot.pause()
        assert next(p.number for p in view.query(AnswerPane) if p.display) == 0 and "0 base" in text_of(pilot)
        assert view.told.startswith("column 1 of 4")


@at_sizes
async def test_hostile_text_is_only_text(start: Start, workspace: Path, scripted, size: tuple[int, int]) -> None:
    with_adapter(workspace)
    scripted(lambda request: script(request, HOSTILE * 2))
    async with start(size) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        view.box.put(HOSTILE)
        await pilot.press("enter")
        await answered(pilot, view)
        for keys in (("escape",), ("d",), ("t",), ("t",), ("e",)):
            await pilot.press(*keys)
            await pilot.pause(0.1)
            text = text_of(pilot)
            assert not any(c in text for c in "\x1b\u202e\x07") and len(text.split("\n")) == size[1]
        assert view.box.text == HOSTILE


async def test_an_adapter_in_training_is_a_column_and_answers_carry_the_step(
    start: Start, workspace: Path, scripted
) -> None:
    folder = write_run(workspace, "demo/0003", [started(os.getpid(), process_start(os.getpid())), *steps(5, of=50)])
    trained: dict[str, Any] = {"run": "demo-0003", "step": 41, "steps": 50}
    live = [Loaded("demo-0003", "", training=True)]
    session = scripted(lambda request: script(request, adapters=list(live), **trained), folder)
    async with start((120, 40)) as pilot:
        pilot.app.open("run:demo/0003")
        await until(pilot, lambda: pilot.app.workbench.editors.front.uri == "run:demo/0003")
        await pilot.press("5")
        await until(pilot, lambda: isinstance(pilot.app.workbench.editors.front, CompareView))
        view = pilot.app.workbench.editors.front
        await until(pilot, lambda: view.link is not None)
        await until(pilot, lambda: [c.name for c in view.comparison.columns] == ["base", "demo-0003"])
        assert "trains, step 41 of 50" in text_of(pilot).replace("\n", " ")
        await pilot.press(*"hi", "enter")
        await answered(pilot, view)
        assert "demo-0003 at step 41" in text_of(pilot)
        await until(pilot, lambda: sum(isinstance(r, protocol.Status) for r in session.requests) > 2)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        log = events.EventLog(folder / "events.jsonl")
        log(events.Finished(reason="done"))
        await until(pilot, lambda: next(r for r in pilot.app.snapshot.runs if r.label == "demo/0003").adapter)
        assert view.comparison.columns[1].path is None
        trained.clear()  # done: the column is the stored adapter, also where nothing else is written meanwhile
        live[0] = Loaded("demo-0003", "abc")
        await until(pilot, lambda: view.comparison.columns[1].path is not None)


async def test_a_prompt_wakes_a_session_and_says_why_none_came(
    start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import WorkFailed
    from workbench.jobs import detach

    def fail(*_: Any) -> str:
        raise WorkFailed("there is no such base", remedy="name another one")

    monkeypatch.setattr(detach, "start", fail)
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "no session yet" in text_of(pilot))
        await pilot.press(*"hello", "enter")
        await until(pilot, lambda: view.lost)
        await pilot.pause()
        assert "there is no such base (name another one)" in text_of(pilot).replace("\n", " ")
        assert view.comparison.turns[0].prompt == "hello" and view.comparison.answer(0).state == "failed"  # type: ignore[union-attr]


async def test_a_prompt_before_the_run_listens_waits_for_it_and_asks_the_adapter_too(
    start: Start, workspace: Path, scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.jobs import detach

    monkeypatch.setattr(detach, "start", lambda *_: pytest.fail("a second copy of the base would be loaded"))
    loading = [started(os.getpid(), process_start(os.getpid())), events.Stage(name="load tiny (nf4)", done=0, total=1)]
    folder = write_run(workspace, "demo/0003", loading)
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await pilot.press(*"hi", "enter")
        await until(pilot, lambda: "waiting for demo/0003: load tiny (nf4)" in text_of(pilot).replace("\n", " "))
        live = [Loaded("demo-0003", "", training=True)]
        session = scripted(
            lambda request: script(request, adapters=list(live), run="demo-0003", step=1, steps=9), folder
        )
        await until(pilot, lambda: view.link is not None)
        await answered(pilot, view)
        assert [c.name for c in view.comparison.columns] == ["base", "demo-0003"]
        assert said_by(view) == ["an answer", "an answer"]
        (asked,) = [r for r in session.requests if isinstance(r, protocol.Generate)]
        assert [c.model for c in asked.columns] == [None, "demo-0003"]


async def test_a_row_of_the_data_is_asked_with_its_reference_beside(
    start: Start, workspace: Path, scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.editors import compare_rows

    class Rows:
        """What the engine's process would say of the data."""

        def __init__(self, root: Path, project: str, post: Callable[[Any], Any]) -> None:
            self.post, self.stop = post, lambda: None

        def ask(self, do: str, **asked: Any) -> int:
            row = {"where": f"data/rows.jsonl:{asked.get('number')}", "refused": None,
                   "segments": [{"text": "<s>What is 1 + 1?\n", "weight": 0.0}, {"text": "an answer</s>", "weight": 1.0}],
                   "pieces": [["an", 1.0, 1], [" answer", 1.0, 2], ["</s>", 1.0, 3]]}  # fmt: skip
            refused = {**row, "refused": "it is empty"}
            ok: dict[str, Any] = {"splits": {"test": {}}} if do == "open" else refused if asked["number"] == 2 else row
            self.post(compare_rows.RowsAnswer(self, 1, do, asked, {"ok": ok}))  # type: ignore[arg-type]
            return 1

    monkeypatch.setattr(compare_rows, "RowsClient", Rows)
    with_adapter(workspace)
    session = scripted()
    async with start((200, 50)) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        await pilot.press("escape", "u")
        await answered(pilot, view)
        turn = view.comparison.turn
        assert turn is not None and turn.raw and turn.prompt == "<s>What is 1 + 1?\n" and turn.reference == "an answer"
        await until(pilot, lambda: "nats/token" in text_of(pilot))
        assert "reference, data/rows.jsonl:1" in text_of(pilot)
        asked = [r for r in session.requests if isinstance(r, protocol.Score)]
        assert asked[0].models == [None, "demo-0001"] and asked[0].answer == "an answer"
        await pilot.press("u")
        await until(pilot, lambda: view.comparison.turn.where == "data/rows.jsonl:3")


async def test_transcripts_are_found_asked_again_and_written_out(start: Start, workspace: Path, scripted) -> None:
    with_adapter(workspace)
    scripted()
    async with start((120, 40)) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        for prompt in ("apples", "pears"):
            await pilot.press(*prompt, "enter")
            await answered(pilot, view)
        await until(pilot, lambda: (workspace / "projects/demo/transcripts.jsonl").read_text().count("\n") == 2)
        await pilot.press("escape", "v")
        await until(pilot, lambda: isinstance(pilot.app.screen, Transcripts) and "pears" in text_of(pilot))
        await pilot.press(*"PEAR")
        await until(pilot, lambda: len(pilot.app.screen.entries) == 1)
        await pilot.click("#export")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskLine))
        await pilot.press("enter")
        written = workspace / "projects/demo/comparisons.md"
        await until(pilot, written.exists)
        assert written.read_text().count("## 20") == 1 and "an answer" in written.read_text()
        pilot.app.screen.query_one("Input").focus()
        await pilot.press("enter")
        await until(pilot, lambda: view.box.text == "pears")


async def test_a_good_answer_becomes_the_last_row_of_the_data(start: Start, workspace: Path, scripted) -> None:
    with_adapter(workspace)
    scripted()
    async with start((120, 40)) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        await pilot.press(*"apples", "enter")
        await answered(pilot, view)
        await pilot.press("escape", "l", "D")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskLine) and "data/rows.jsonl" in text_of(pilot))
        await pilot.press("enter")
        file = workspace / "data" / "rows.jsonl"
        await until(pilot, lambda: len(file.read_text().splitlines()) == 9)
        assert json.loads(file.read_text().splitlines()[-1]) == {"prompt": "apples", "completion": "an answer"}


async def test_a_tab_that_is_moved_keeps_the_comparison_and_the_typed_prompt(
    start: Start, workspace: Path, scripted
) -> None:
    with_adapter(workspace)
    scripted()
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: view.link is not None)
        await pilot.press(*"apples", "enter")
        await answered(pilot, view)
        await pilot.press(*"half")
        await pilot.press("ctrl+backslash")
        await until(pilot, lambda: len(app.workbench.editors.groups) == 2)
        moved = app.workbench.editors.find("compare:demo")
        await until(pilot, lambda: moved is not view and moved.is_mounted and moved.link is not None)
        assert said_by(moved) == ["an answer", "an answer"] and moved.box.text == "half"
        moved.box.focus()
        await pilot.press("escape", "x")  # in this pane it swaps columns
        assert [c.name for c in moved.comparison.columns] == ["demo-0001", "base"]
        app.do("tab.close")
        await until(pilot, lambda: "was not sent" in text_of(pilot))
        await pilot.press("n")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        assert moved.is_mounted and moved.box.text == "half"


async def test_what_a_run_answered_while_it_was_trained_is_stepped_through(
    start: Start, workspace: Path, scripted
) -> None:
    asked = [events.Sample(model="adapter", prompt="2 + 2?", text=f"answer at {s}", step=s) for s in (10, 20)]
    folder = write_run(workspace, "demo/0001", [started(), *steps(20), *asked, events.Finished(reason="done")])
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    scripted()
    async with start((120, 40)) as pilot:
        view = await opened(pilot, "demo/0001")
        await until(pilot, lambda: [c.name for c in view.comparison.columns] == ["base", "demo-0001"])
        await pilot.press("escape", "w")
        await until(pilot, lambda: "base was not trained" in text_of(pilot))
        await pilot.press("l", "w")
        await until(pilot, lambda: "answer at 20" in text_of(pilot))
        await pilot.press("left")
        await until(pilot, lambda: "answer at 10" in text_of(pilot))


async def test_settings_are_checked_and_asked_with(start: Start, workspace: Path, scripted) -> None:
    session = scripted()
    async with start((80, 24)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: view.link is not None)
        await pilot.press("escape", "g")
        await until(pilot, lambda: "prompts are" in text_of(pilot))
        await pilot.press("l", "tab", "l", "tab", "tab", *"hot", "enter")
        await until(pilot, lambda: "temperature is a number, not hot" in text_of(pilot))
        await pilot.press("backspace", "backspace", "backspace", *"0.7", "tab", *"1.5", "enter")
        await until(pilot, lambda: "top p is above 0 and at most 1" in text_of(pilot))
        await pilot.press("backspace", "backspace", "backspace", "enter")
        await until(pilot, lambda: view.comparison.sampling.raw)
        assert "raw, t 0.7" in text_of(pilot) and view.comparison.sampling.history == "shared"
        await pilot.press("i", *"The train", "enter")
        await answered(pilot, view)
        request = next(r for r in session.requests if isinstance(r, protocol.Generate))
        assert (request.columns[0].text, request.temperature, request.top_p) == ("The train", 0.7, None)


async def test_any_checkpoint_of_any_run_is_picked_by_typing(start: Start, workspace: Path, scripted) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(20), events.Finished(reason="done")])
    for step in (10, 20):
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    session = scripted()
    async with start((80, 24)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: view.link is not None)
        await pilot.press("escape", "m", *"step 10")
        await until(pilot, lambda: "demo/0001 step 10" in text_of(pilot) and "step 20" not in text_of(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: view.comparison.columns[0].name == "demo-0001-step-10")
        await until(pilot, lambda: any(isinstance(r, protocol.Load) for r in session.requests))
        load = next(r for r in session.requests if isinstance(r, protocol.Load))
        assert load.path == str(folder / "checkpoints" / "step-000010") and load.name == "demo-0001-step-10"
