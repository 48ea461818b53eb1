"""The run's view: live and over, at all sizes, with anything in its texts; its commands ask and act on the right run."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine import events
from engine.store import process_start
from tests.workbench.conftest import Start, at_sizes, started, steps, text_of, until, write_run
from workbench.editors.run_view import RunView
from workbench.jobs import launch
from workbench.modals.confirm import Choose, Confirm
from workbench.settings import Settings
from workbench.widgets.line_chart import LineChart
from workbench.widgets.run_charts import RunCharts

HOSTILE = "[red]x[/] \x1b[31mred\x07 \u202eright to left 😀 " + "long " * 200


def living() -> events.Started:
    """The start of a run whose process lives: this one."""
    return started(os.getpid(), process_start(os.getpid()))


def scored(step: int) -> events.Scored:
    return events.Scored(
        model="adapter", split="test", scope="completion", nll=150.0, tokens=100, perplexity=4.48, step=step
    )


async def opened(pilot: Pilot, label: str = "demo/0001") -> RunView:
    app: Any = pilot.app
    app.open(f"run:{label}")
    await until(pilot, lambda: isinstance(app.workbench.editors.front, RunView))
    view = app.workbench.editors.front
    await until(pilot, lambda: view._model is not None and view._model.reading >= 1.0 and not view._stale)
    await until(pilot, lambda: view.has_focus_within)
    return view


def inside_of(pilot: Pilot, view: RunView) -> str:
    """What the view's part of the screen shows."""
    region, lines = view.region, text_of(pilot).split("\n")
    return "\n".join(line[region.x : region.right] for line in lines[region.y : region.bottom])


async def settled(pilot: Pilot, view: RunView) -> str:
    """The same, once it stays for a second: charts may follow the header."""
    shown, since = "", time.monotonic()
    while time.monotonic() < since + 1:
        await asyncio.sleep(0.1)
        if (now := inside_of(pilot, view)) != shown:
            shown, since = now, time.monotonic()
    return shown


@at_sizes
async def test_a_run_at_all_sizes(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    write_run(workspace, "demo/0001", [living(), *steps(30, of=120), scored(20), *steps(10, of=120, first=31)])
    async with start(size) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "step 40 of 120" in text_of(pilot) and "b unseen" in text_of(pilot))
        await until(pilot, lambda: "loss 1.111" in text_of(pilot) and "unseen 1.5 at 20" in text_of(pilot))
        text = text_of(pilot)
        assert "▶ running" in text and "33%" in text
        assert "c Charts" in text and "n What happened" in text
        assert any(0x2800 < ord(c) < 0x2900 for c in text)
        shown = [c for c in view.query(LineChart) if c.display]
        assert len(shown) == (1 if size == (80, 24) else 5)
        assert all(len(line) <= size[0] for line in text.split("\n"))
        assert view.told.startswith("33%")


async def test_the_log_of_a_running_run_is_followed(start: Start, workspace: Path) -> None:
    folder = write_run(workspace, "demo/0001", [living(), *steps(5, of=50)])
    async with start((120, 40)) as pilot:
        await opened(pilot)
        log = events.EventLog(folder / "events.jsonl")
        for event in steps(7, of=50, first=6):
            log(event)
        log(events.Note(text="the learning rate [b]is[/b] high", level="warning"))
        await until(pilot, lambda: "step 12 of 50" in text_of(pilot))
        log(events.Finished(reason="stopped"))
        await until(pilot, lambda: "■ stopped" in text_of(pilot))
        assert "stopped after step 12 of 50" in text_of(pilot)
        assert "Resume begins at step 1" in text_of(pilot)
        await pilot.press("n")
        await until(pilot, lambda: "! " in text_of(pilot) and "the learning rate [b]is[/b] high" in text_of(pilot))
        assert "What happened 1 !" in text_of(pilot)


async def test_a_run_that_is_over_looks_the_same_when_opened_later(start: Start, workspace: Path) -> None:
    said = [living(), *steps(9), scored(9), events.Finished(reason="done", seconds=75)]
    folder = write_run(workspace, "demo/0001", said[:-1])
    async with start((100, 40)) as pilot:
        view = await opened(pilot)
        events.EventLog(folder / "events.jsonl")(said[-1])
        await until(pilot, lambda: "done in 1 min 15 s" in text_of(pilot))
        live = await settled(pilot, view)
        await pilot.app.workbench.editors.close(view)  # type: ignore[attr-defined]
        await until(pilot, lambda: "demo/0001" not in pilot.app.runs)  # type: ignore[attr-defined]
        again = await opened(pilot)
        await until(pilot, lambda: inside_of(pilot, again) == live)


@pytest.mark.parametrize(
    ("last", "said"),
    [(events.Failed(problem="the disk is full", where="x.jsonl:3", remedy="free some space"),
      ["✗ failed", "x.jsonl:3: failed: the disk is full", "free some space"]),
     (None, ["✗ killed", "process 1 is gone without a word", "space r c"])],
)  # fmt: skip
async def test_how_it_ended_and_what_to_do(
    start: Start, workspace: Path, last: events.Event | None, said: list
) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(5), *([last] if last else [])])
    async with start((120, 30)) as pilot:
        await opened(pilot)
        await until(pilot, lambda: all(words in text_of(pilot) for words in said))


@at_sizes
async def test_hostile_text_is_only_text(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    folder = write_run(
        workspace, "demo/0001",
        [started(), events.Stage(name=HOSTILE, done=1, total=1), events.Note(text=HOSTILE, level="warning"), *steps(3),
         events.Sample(model="[b]m[/]", prompt=HOSTILE, text=HOSTILE * 50, step=2),
         events.Failed(problem=HOSTILE, where=HOSTILE, remedy=HOSTILE)],
    )  # fmt: skip
    (folder / "log.txt").write_bytes(HOSTILE.encode() + b"\n" + b"x" * 1_000_000 + b"\n\xff\xfe\n")
    async with start(size) as pilot:
        await opened(pilot)
        for key in ("s", "n", "o", "c"):
            await pilot.press(key)
            await pilot.pause(0.35)
            text = text_of(pilot)
            assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
            assert "[red]x[/]" in text
            assert len(text.split("\n")) == size[1]


async def test_samples_are_stepped_through(start: Start, workspace: Path) -> None:
    asked = [events.Sample(model="adapter", prompt="2 + 2?", text=f"answer at {s}", step=s) for s in (10, 20, 30)]
    write_run(workspace, "demo/0001", [started(), *steps(30), *asked])
    async with start((100, 30)) as pilot:
        await opened(pilot)
        await pilot.press("s")
        await until(pilot, lambda: "answer at 30" in text_of(pilot) and "3 of 3" in text_of(pilot))
        await pilot.press("h")
        await until(pilot, lambda: "answer at 20" in text_of(pilot))
        await pilot.press("h", "h", "h")
        await until(pilot, lambda: "answer at 10" in text_of(pilot) and "step 10, 1 of 3" in text_of(pilot))
        await pilot.press("right")
        await until(pilot, lambda: "answer at 20" in text_of(pilot))


async def test_the_log_is_searched(start: Start, workspace: Path) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(3)])
    (folder / "log.txt").write_text("".join(f"line {i} {'needle' if i % 100 == 0 else 'hay'}\n" for i in range(1000)))
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await pilot.press("ctrl+f")
        await until(pilot, lambda: view.find_bar.shown)
        await pilot.press(*"NEEDLE")
        await until(pilot, lambda: "of 10" in text_of(pilot))
        await pilot.press("enter", "enter")
        assert "line 100 needle" in text_of(pilot) or "line 200 needle" in text_of(pilot)
        await pilot.press("escape")
        assert not view.find_bar.shown
        assert view.query_one("#log").has_focus
        await pilot.press("c")
        assert view.query_one(RunCharts).focused_chart == "loss"


async def test_charts_are_chosen_and_share_their_cursor(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(200)])
    async with start((80, 24)) as pilot:
        view = await opened(pilot)
        await pilot.press("g", "l")
        x = view.query_one("#chart-loss", LineChart).cursor
        assert x is not None and x > 1
        await pilot.press("m")
        await until(pilot, lambda: "learning rate" in text_of(pilot))
        assert view.query_one("#chart-rate", LineChart).cursor == x
        assert f"step {x:.0f}" in text_of(pilot)
        await pilot.press("M", "M")
        await until(pilot, lambda: "memory" in text_of(pilot))
        await pilot.press("v")
        await until(pilot, lambda: sum(c.display for c in view.query(LineChart)) == 5)
        await pilot.press("v")
        await until(pilot, lambda: sum(c.display for c in view.query(LineChart)) == 1)


async def test_ascii_only(start: Start, workspace: Path) -> None:
    said = [started(), *steps(50), scored(20), events.Sample(model="m", prompt="é", text="ü", step=3)]
    write_run(workspace, "demo/0001", said)
    async with start((100, 30), Settings(ascii=True)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "! killed" in text_of(pilot))
        await pilot.press("g", "l")
        inside = inside_of(pilot, view)
        assert inside.isascii(), [c for c in inside if not c.isascii()]


async def test_starting_with_mistakes_shows_the_problems(start: Start, workspace: Path) -> None:
    (workspace / "projects" / "demo" / "project.toml").write_text("[lora]\nrnk = 4\n")
    async with start((120, 40)) as pilot:
        await pilot.press("f5")
        await until(pilot, lambda: len(pilot.app.problems) == 1)  # type: ignore[attr-defined]
        await until(pilot, lambda: "unknown key `lora.rnk`" in text_of(pilot))
        assert not (workspace / "projects" / "demo" / "runs").exists()


async def test_starting_opens_the_run_at_once_and_tells_what_fails(
    start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.errors import WorkFailed

    def fail(root: Path, label: str) -> None:
        raise WorkFailed("run demo/0001 did not start:\nno module named [torch]", where="log.txt")

    async def fits(*_: object) -> bool:
        return True

    monkeypatch.setattr(launch, "launch", fail)
    monkeypatch.setattr("workbench.commands.preflight.preflight", fits)
    async with start((120, 40)) as pilot:
        await pilot.press("f5")
        await until(pilot, lambda: "not started yet" in text_of(pilot))
        await until(pilot, lambda: "no module named [torch]" in text_of(pilot))
        assert (workspace / "projects" / "demo" / "runs" / "0001" / "project.toml").is_file()


async def test_stopping_twice_asks(start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(workspace, "demo/0001", [living(), *steps(5, of=50)])
    asked: list[int | None] = []
    monkeypatch.setattr(launch, "stop", lambda root, label, pid=None: asked.append(pid) or os.getpid())
    async with start((120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("shift+f5")
        await until(pilot, lambda: "finishes its step" in text_of(pilot))
        await pilot.press("shift+f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        assert "Interrupt it at once?" in text_of(pilot)
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Confirm))
        assert asked == [None]
        await pilot.press("shift+f5")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: asked == [None, os.getpid()])


async def test_deleting_asks_and_closes_the_tab(start: Start, workspace: Path) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(5)])
    write_run(workspace, "demo/0002", [started(), *steps(5)])
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        await opened(pilot)
        app.do("run.delete")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "Move run demo/0001" in text_of(pilot)
        await pilot.press("n")
        await until(pilot, lambda: not isinstance(app.screen, Confirm))
        assert folder.exists()
        app.do("run.delete")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        await pilot.press("y")
        await until(pilot, lambda: not folder.exists())
        await until(pilot, lambda: app.workbench.editors.find("run:demo/0001") is None)
        assert (workspace / ".trash").is_dir()


async def test_unsaved_changes_are_asked_about_before_a_start(
    start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(launch, "new_run", lambda root, project: begun.append(project) or "demo/0001")
    monkeypatch.setattr(launch, "launch", lambda root, label: None)
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.open("project:demo")
        await until(pilot, lambda: app.workbench.editors.find("project:demo") is not None)
        app.workbench.editors.find("project:demo").dirty = True
        await pilot.press("f5")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        assert "unsaved changes" in text_of(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Choose))
        await pilot.pause(0.2)
        assert begun == []
        app.workbench.editors.find("project:demo").dirty = False


async def test_a_run_whose_folder_goes_is_said(start: Start, workspace: Path) -> None:
    import shutil

    folder = write_run(workspace, "demo/0001", [started(), *steps(5)])
    async with start((120, 40)) as pilot:
        await opened(pilot)
        shutil.rmtree(folder)
        await until(pilot, lambda: "its folder was deleted" in text_of(pilot))
