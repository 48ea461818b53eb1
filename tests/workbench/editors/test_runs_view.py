"""Runs compared: the table, marks, overlaid curves, settings that differ; and the list in the side bar."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine import events
from engine.store import process_start
from tests.workbench.conftest import Start, at_sizes, started, steps, text_of, until, write_run
from workbench.editors.runs_view import RunsTable, RunsView
from workbench.modals.confirm import Confirm
from workbench.views.runs import Runs
from workbench.widgets.line_chart import LineChart


@pytest.fixture
def three(workspace: Path) -> Path:
    """A done, a stopped and a killed run; the second with another rank."""
    write_run(workspace, "demo/0001", [started(), *steps(50), events.Finished(reason="done", seconds=99)])
    folder = write_run(workspace, "demo/0002", [started(), *steps(30, of=50), events.Finished(reason="stopped")])
    file = folder / "project.toml"
    file.write_text(file.read_text().replace("r = 8", "r = 32"))
    write_run(workspace, "demo/0003", [started(), *steps(10, of=50)])
    return workspace


async def opened(pilot: Pilot) -> RunsView:
    app: Any = pilot.app
    app.open("runs:demo")
    await until(pilot, lambda: isinstance(app.workbench.editors.front, RunsView))
    view = app.workbench.editors.front
    await until(pilot, lambda: len(view._results) == 3 and view.query_one(RunsTable).row_count == 3)
    await until(pilot, lambda: view.has_focus_within)
    return view


@at_sizes
async def test_runs_side_by_side(start: Start, three: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "a 0003" in text_of(pilot) and "c 0001" in text_of(pilot))
        text = text_of(pilot)
        assert "✓ done" in text and "■ stopped" in text and "✗ killed" in text
        assert "50/50" in text and "1:39" in text
        if size[0] < 200:
            assert "lora.r " not in text
            await pilot.press("v")
        await until(pilot, lambda: "lora.r" in text_of(pilot))
        assert "train.steps" not in text_of(pilot)
        assert view.query_one(LineChart).display == (size[0] >= 200)


async def test_sorting_keeps_the_cursor_on_its_run(start: Start, three: Path) -> None:
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        assert view.chosen == "demo/0003"
        await pilot.press("j", "m")
        assert view.chosen == "demo/0002"
        await pilot.press("O")
        assert [r.info.number for r in view.rows] == ["0001", "0002", "0003"]
        assert view.chosen == "demo/0002"
        for _ in range(3):
            await pilot.press("o")
        assert view._sort == "loss"
        assert [r.info.number for r in view.rows] == ["0001", "0002", "0003"]
        assert view.chosen == "demo/0002"
        assert "loss ↑" in text_of(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.workbench.editors.front.uri == "run:demo/0002")  # type: ignore[attr-defined]


async def test_marks_choose_the_curves(start: Start, three: Path) -> None:
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        chart = view.query_one(LineChart)
        await until(pilot, lambda: [c.label for c in chart.curves] == ["0003", "0002", "0001"])
        await pilot.press("m")
        await until(pilot, lambda: [c.label for c in chart.curves] == ["0002", "0001"])
        assert "demo/0003" not in view._marked
        await pilot.press("n")
        assert chart.heading == "unseen loss"
        await pilot.press("N", "N")
        assert chart.heading == "memory"
        app: Any = pilot.app
        await until(pilot, lambda: "demo/0003" not in app.runs)
        await app.workbench.editors.close(view)
        await until(pilot, lambda: app.runs == {})


async def test_a_run_that_goes_leaves_the_table(start: Start, three: Path) -> None:
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        view = await opened(pilot)
        app.do("run.delete")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "demo/0003" in text_of(pilot)
        await pilot.press("y")
        await until(pilot, lambda: view.query_one(RunsTable).row_count == 2)
        assert list(view._marked) == ["demo/0002", "demo/0001"]


@at_sizes
async def test_the_side_bar_lists_all_runs(start: Start, three: Path, size: tuple[int, int]) -> None:
    write_run(three, "demo/0004", [started(os.getpid(), process_start(os.getpid())), *steps(10, of=40)])
    async with start(size) as pilot:
        app: Any = pilot.app
        app.do("view.runs")
        await until(pilot, lambda: "■ demo/0002" in text_of(pilot))
        await until(pilot, lambda: isinstance(app.focused, Runs))
        text = text_of(pilot)
        assert "▶ demo/0004" in text and "25%  loss" in text
        assert "■ demo/0002" in text and "30/50" in text
        assert app.query_one(Runs).chosen.label == "demo/0004"
        await pilot.press("j", "enter")
        await until(pilot, lambda: app.workbench.editors.front.uri == "run:demo/0003")
        assert app.workbench.shown("sidebar") == (size[0] >= 100)  # it lay over the run


async def test_the_side_bars_commands_are_about_the_chosen_run(
    start: Start, three: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.jobs import launch

    resumed: list[str] = []
    monkeypatch.setattr(launch, "launch", lambda root, label: resumed.append(label))
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.do("view.runs")
        await until(pilot, lambda: isinstance(app.focused, Runs))
        await pilot.press("j", "c")
        await until(pilot, lambda: resumed == ["demo/0002"])
        app.query_one(Runs).focus()
        await pilot.press("d")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Move run demo/0002" in text_of(pilot)
        await pilot.press("y")
        await until(pilot, lambda: app.query_one(Runs).option_count == 2)


async def test_no_runs_yet(start: Start, workspace: Path) -> None:
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.do("view.runs")
        await until(pilot, lambda: "No runs yet: F5 starts one." in text_of(pilot))
        assert isinstance(app.query_one(Runs), OptionList)
        app.open("runs:demo")
        await until(pilot, lambda: "mark runs with m" in text_of(pilot))
        await pilot.press("m")
        await until(pilot, lambda: "has no runs yet" in text_of(pilot))
