"""The evaluation view: matrix, rows, one row, history; starting, following and stopping an evaluation."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine import events, store
from tests.workbench.conftest import Start, at_sizes, started, text_of, until, write_run
from tests.workbench.evaluations import HOSTILE, document, write_adapter, write_evaluation, write_job
from workbench.editors.eval_view import EvalView, RowText
from workbench.jobs import detach, launch
from workbench.modals.confirm import Confirm
from workbench.modals.evaluate import Evaluate
from workbench.models.evaluation import BASE
from workbench.widgets.checks import Checks
from workbench.widgets.job_line import JobLine
from workbench.widgets.sortable_table import SortableTable


@pytest.fixture
def measured(workspace: Path) -> Path:
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]), when=1000.0)
    return workspace


async def opened(pilot: Pilot, lines: int = 8) -> EvalView:
    app: Any = pilot.app
    app.open("eval:demo")
    await until(pilot, lambda: isinstance(app.workbench.editors.front, EvalView))
    view = app.workbench.editors.front
    await until(pilot, lambda: view._read and view.query_one("#matrix", SortableTable).count == lines)
    await until(pilot, lambda: view.query_one("#matrix").has_focus)
    return view


async def at_rows(pilot: Pilot, down: int = 1) -> EvalView:
    """The rows of the adapter on unseen rows."""
    view = await opened(pilot)
    await pilot.press(*["j"] * down, "enter")
    await until(pilot, lambda: view.level == "rows" and view.query_one("#rows").has_focus)
    return view


@at_sizes
async def test_matrix(start: Start, measured: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        view = await opened(pilot)
        await pilot.press("j")
        await until(pilot, lambda: "Better than base on 18 of 20 rows" in " ".join(text_of(pilot).split()))
        text = text_of(pilot)
        assert "▸ demo-0001" in text and "better, p = 0.0099" in text and "65.0%" in text
        assert "base, demo-0001 on 20 unseen and 20 training rows" in text
        assert "11 answers gained, 2 lost" in " ".join(line.strip() for line in text.replace("│", " ").split("\n"))
        assert all(len(line) <= size[0] for line in text.split("\n"))
        if size[0] >= 200:
            assert "18 of 20" in text and "McNemar" in text and "+11 -2" in text  # columns; the inspector
        await pilot.press("o", "o", "o", "o")  # by perplexity
        await until(pilot, lambda: "ppl ▲" in text_of(pilot))
        values = [x.row.perplexity or 0.0 for x in view._lines]
        assert values == sorted(values)
        await pilot.press("O")
        assert [x.row.perplexity for x in view._lines] == values[::-1]


@at_sizes
async def test_down_to_one_row_and_back(start: Start, measured: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        view = await at_rows(pilot)
        text = text_of(pilot)
        assert "demo-0001 on unseen rows, completion: 20 rows, worst first" in text
        assert [p.at for p in view._pairs[:2]] == [3, 13] and "expected 3, answered 4" in text
        await pilot.press("plus")
        assert view._pairs[0].change("completion") == min(p.change("completion") for p in view._pairs)
        await pilot.press("minus")
        assert view._pairs[0].at in (3, 13) and "largest loss first" in text_of(pilot)
        await pilot.press("f")
        assert len(view._pairs) == 7 and ": 7 wrong answers, largest loss first" in text_of(pilot)
        await pilot.press("f", "enter")
        await until(pilot, lambda: view.level == "row" and view.query_one(RowText).has_focus)
        text = text_of(pilot)
        assert ": 1 of 11 answers gained, largest loss first" in text
        assert "── Prompt ──" in text and f"What is {view._pairs[0].at}?" in text and "nats/tok" in text
        await pilot.press("n")
        await until(pilot, lambda: f"What is {view._pairs[1].at}?" in text_of(pilot))
        await pilot.press("G")
        await until(pilot, lambda: "right: answered" in text_of(pilot))
        await pilot.press("escape", "escape")
        assert view.level == "matrix" and view.query_one("#matrix", SortableTable).cursor == 1


async def test_an_adapter_that_changes_nothing_is_said_to(start: Start, workspace: Path) -> None:
    made = document([BASE, "demo-0001"], nll=lambda model, at: 10.0, answer=lambda model, at: f"{at}")
    write_evaluation(workspace, "demo/0001", made)
    async with start((120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("j")
        await until(pilot, lambda: "this adapter changed nothing" in " ".join(text_of(pilot).split()))
        assert "the same" in text_of(pilot) and "No answer gained or lost" in " ".join(text_of(pilot).split())


@at_sizes
async def test_hostile_text(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    name = HOSTILE + "x" * 300
    made = document([BASE, name], rows=4, long=HOSTILE + "y" * 30_000, answer=lambda m, at: f"{HOSTILE}{at}")
    write_evaluation(workspace, "demo/0001", made)
    async with start(size) as pilot:
        view = await at_rows(pilot)
        assert "\x1b" not in text_of(pilot) and "[red]x[/]" in text_of(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: view.level == "row")
        text = text_of(pilot)
        assert "\x1b" not in text and "‮" not in text and "[red]x[/] \\x1b[31m" in text
        assert all(len(line) <= size[0] for line in text.split("\n"))
        await pilot.press("G")
        await pilot.pause()
        assert "\x1b" not in text_of(pilot)


async def test_ascii(start: Start, measured: Path) -> None:
    from workbench.settings import Settings

    async with start((120, 40), Settings(ascii=True)) as pilot:
        view = await at_rows(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: view.level == "row")
        front = text_of(pilot).split("\n")[1:28]
        assert all(line[33:].isascii() for line in front), front


async def test_finding_in_the_rows(start: Start, measured: Path) -> None:
    async with start((120, 40)) as pilot:
        view = await at_rows(pilot)
        await pilot.press("ctrl+f", *"is 17")
        await until(pilot, lambda: view.find_bar.total == 1 and view.find_bar.whole)
        assert view._pairs[view.query_one("#rows", SortableTable).cursor].at == 17
        await pilot.press("escape")
        await until(pilot, lambda: view.query_one("#rows").has_focus)
        assert not view.query_one("#rows", SortableTable).found


async def test_several_evaluations_and_one_alone(start: Start, measured: Path) -> None:
    write_evaluation(measured, "demo/0002", document([BASE, "demo-0002"], rows=8), when=2000.0)
    async with start((120, 40)) as pilot:
        view = await opened(pilot, 12)
        assert "from 2 evaluations" in text_of(pilot) and "demo-0001 (other rows)" in text_of(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "2 evaluations, the newest first" in text_of(pilot))
        assert "demo/runs/0002/evaluation.json" in text_of(pilot)
        await pilot.press("j", "enter")
        await until(pilot, lambda: view.level == "matrix" and view.query_one("#matrix", SortableTable).count == 8)
        assert "Only " in text_of(pilot) and "demo-0002" not in text_of(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: view.query_one("#matrix", SortableTable).count == 12)


async def test_a_new_evaluation_comes_by_itself(start: Start, measured: Path) -> None:
    write_run(measured, "demo/0002", [started(), events.Finished(reason="done")])
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        write_evaluation(measured, "demo/0002", document([BASE, "demo-0002"]))
        await until(pilot, lambda: view.query_one("#matrix", SortableTable).count == 12)


async def test_nothing_yet_and_a_broken_file(start: Start, workspace: Path) -> None:
    async with start((80, 24)) as pilot:
        view = await opened(pilot, 0)
        assert "Nothing was measured yet" in text_of(pilot)
        await pilot.press("enter", "f", "w", "n", "escape", "v", "enter", "v")
        path = workspace / "projects" / "demo" / "runs" / "0001" / "evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        view.scan()
        await until(pilot, lambda: len(view._sources) == 1)
        await pilot.press("v")
        await until(pilot, lambda: "not an evaluation" in text_of(pilot))
        await pilot.press("enter")
        assert view.level == "history"


async def test_a_file_that_goes_while_it_is_open(start: Start, measured: Path) -> None:
    async with start((80, 24)) as pilot:
        view = await opened(pilot)
        (measured / "projects" / "demo" / "runs" / "0001" / "evaluation.json").unlink()
        await pilot.press("enter")
        await until(pilot, lambda: "cannot be read" in text_of(pilot))
        assert view.level == "matrix"


async def test_starting_asks_what_to_measure(start: Start, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(measured, "demo/0001")
    write_adapter(measured, "demo/0002", r=4)
    asked: list[Any] = []
    monkeypatch.setattr(detach, "start", lambda *given: asked.append(given) or "demo/jobs/0001")
    async with start((80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Evaluate))
        await until(pilot, lambda: "demo/0002  r 4  not measured" in text_of(pilot))
        assert "[x] demo/0002" in text_of(pilot) or "[x] demo/0001" in text_of(pilot)
        boxes = pilot.app.screen.query_one("#models", Checks)
        boxes.highlighted = 0
        for at, box in enumerate(boxes.boxes):
            if box.key not in boxes.checked:
                boxes.highlighted = at
                await pilot.press("space")
        assert text_of(pilot).count("[x]") == 5
        boxes.highlighted = 0
        await pilot.press("x")
        pilot.app.screen.query_one("#rows", Input).value = "30"
        await pilot.press("enter")
        await until(pilot, lambda: asked)
        root, project, verb, arguments = asked[0]
        assert (root, project, verb) == (measured, "demo", "eval")
        assert sorted(arguments[:2]) == ["--adapter=demo/0001", "--adapter=demo/0002"]
        assert arguments[2:] == [
            "--split=test", "--split=train", "--no-base", "--set=eval.test_rows=30", "--set=eval.train_rows=30"
        ]  # fmt: skip


async def test_the_base_alone_and_nothing_at_all(start: Start, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_adapter(measured, "demo/0001")
    asked: list[Any] = []
    monkeypatch.setattr(detach, "start", lambda *given: asked.append(given) or "demo/jobs/0001")
    async with start((80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Evaluate))
        await pilot.press("space", "j", "space", "enter")
        await until(pilot, lambda: "Check at least one model." in text_of(pilot))
        await pilot.press("k", "space", "enter")
        await until(pilot, lambda: asked)
        assert asked[0][3] == ["--split=test", "--split=train", "--base-only"]


async def test_a_job_is_followed_and_stopped(start: Start, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = events.Stage(name="perplexity of base on unseen rows", done=3, total=12, unit="rows")
    label = write_job(measured, "demo", "eval", [stage])
    stopped: list[str] = []
    monkeypatch.setattr(launch, "stop", lambda root, name, pid=None: stopped.append(name) or 1)
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: f"evaluation {label} running" in text_of(pilot) and "3 of 12 rows" in text_of(pilot))
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: stopped == [label])
        log = events.EventLog(measured / "projects" / "demo" / "jobs" / "0001" / "events.jsonl")
        log(events.Finished(reason="stopped", seconds=3.0))
        log.close()
        await until(pilot, lambda: f"evaluation {label} stopped" in text_of(pilot))
        assert "nothing was written" in text_of(pilot)
        await until(pilot, lambda: view.query_one("#matrix").has_focus)
        await pilot.press("escape")
        await until(pilot, lambda: f"{label} stopped" not in text_of(pilot))


async def test_a_failed_job_says_why(start: Start, measured: Path) -> None:
    failure = events.Failed(problem=f"no memory {HOSTILE}", where="cuda:0", remedy="take fewer rows")
    write_job(measured, "demo", "eval", [failure])
    async with start((120, 40)) as pilot:
        await opened(pilot)
        await until(
            pilot, lambda: "demo/jobs/0001 failed" in text_of(pilot) and "no memory [red]x[/]" in text_of(pilot)
        )
        assert "\x1b" not in text_of(pilot)


async def test_ten_thousand_rows_open_fast(start: Start, workspace: Path) -> None:
    made = document([BASE, "demo-0001"], rows=5000, splits=("test",), long="x" * 300)
    write_evaluation(workspace, "demo/0001", made)
    async with start((120, 40)) as pilot:
        begun = time.perf_counter()
        view = await opened(pilot, 4)
        await pilot.press("j", "enter")
        await until(pilot, lambda: view.level == "rows" and view.query_one("#rows", SortableTable).count == 5000)
        assert time.perf_counter() - begun < 10  # measured: 0.5 s on free cores
        begun = time.perf_counter()
        await pilot.press("G")
        await until(pilot, lambda: view.query_one("#rows", SortableTable).cursor == 4999)
        await pilot.press("minus", "g")
        assert view._pairs[0].at == 63
        assert time.perf_counter() - begun < 5


@pytest.mark.slow
async def test_a_real_evaluation_is_started_followed_and_stopped(
    start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real engine on the starter base: one evaluation to its end, one stopped in the middle."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = workspace / "projects" / "demo" / "project.toml"
    file.write_text(
        '[model]\nbase = "starter"\n[data]\ntrain = "data/rows.jsonl"\ntest_fraction = 0.5\n[generate]\n'
        'max_new_tokens = 8\n[launch]\ndevice = "cpu"\n'
    )
    label = await asyncio.to_thread(detach.start, workspace, "demo", "eval", ["--split=test"])
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.open("eval:demo")
        await until(pilot, lambda: isinstance(app.workbench.editors.front, EvalView))
        view = app.workbench.editors.front
        job = store.Workspace(workspace).followed(label)
        await until(pilot, lambda: job.state().state == "done", 300.0)
        await until(pilot, lambda: view.query_one("#matrix", SortableTable).count == 2, 30.0)
        assert "base" in text_of(pilot) and "unseen" in text_of(pilot)
        rows = workspace / "data" / "rows.jsonl"
        rows.write_text(rows.read_text() * 200)
        file.write_text(file.read_text().replace("max_new_tokens = 8", "max_new_tokens = 100"))
        second = await asyncio.to_thread(detach.start, workspace, "demo", "eval", ["--set=eval.match_rows=0"])
        await until(pilot, lambda: view.query_one(JobLine).state == "running", 60.0)
        line = view.query_one(JobLine)
        await until(pilot, lambda: line.model and line.model.stage and " of base on " in line.model.stage.name, 120.0)
        await asyncio.to_thread(launch.stop, workspace, second)
        other: Any = store.Workspace(workspace).followed(second)
        await until(pilot, lambda: other.state().state == "stopped", 120.0)
        await until(pilot, lambda: f"{second} stopped" in text_of(pilot), 30.0)
        assert not other.result.exists() and view.query_one("#matrix", SortableTable).count == 2
