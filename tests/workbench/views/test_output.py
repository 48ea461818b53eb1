"""The output list: what runs and jobs say, as they say it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from engine import events
from engine.store import process_start
from tests.workbench.conftest import Start, at_sizes, started, steps, text_of, until, write_run
from tests.workbench.evaluations import HOSTILE, write_job
from workbench.editors.eval_view import EvalView
from workbench.views.output import MOST_LINES, OutputView


async def opened(pilot: Pilot) -> OutputView:
    app: Any = pilot.app
    app.do("view.output")
    await until(pilot, lambda: len(app.workbench.query(OutputView)) == 1)
    return app.workbench.query_one(OutputView)


def more(root: Path, label: str, *said: events.Event) -> None:
    project, _, number = label.partition("/")
    log = events.EventLog(root / "projects" / project / number / "events.jsonl")
    for event in said:
        log(event)
    log.close()


@at_sizes
async def test_what_jobs_say(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    label = write_job(workspace, "demo", "eval", [events.Stage(name="load tiny", done=1, total=1)])
    async with start(size) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: f"{label}  load tiny" in text_of(pilot))
        stage = events.Stage(name="perplexity of base", done=3, total=12, unit="rows")
        more(workspace, label, events.Note(text=f"careful {HOSTILE}", level="warning"), stage)
        await until(pilot, lambda: "3 of 12 rows" in text_of(pilot) and "warning: careful [red]x[/]" in text_of(pilot))
        assert "\x1b" not in text_of(pilot) and view.newest == label
        more(workspace, label, events.Finished(reason="done", seconds=2.0))
        await until(pilot, lambda: "done after 2.0 s" in text_of(pilot) and "3 of 12 rows" not in text_of(pilot))
        await until(pilot, lambda: view._ended == {label})
        assert pilot.app.tails.model(label) is None, "what has ended is no longer followed"  # type: ignore[attr-defined]
        await pilot.press("enter")
        app: Any = pilot.app
        await until(pilot, lambda: isinstance(app.workbench.editors.front, EvalView))


async def test_nothing_yet_then_a_run(start: Start, workspace: Path) -> None:
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "What runs, evaluations and merges say" in text_of(pilot))
        await pilot.press("enter")
        write_run(workspace, "demo/0001", [started(os.getpid(), process_start(os.getpid())), *steps(5, of=50)])
        await until(pilot, lambda: "step 5 of 50" in text_of(pilot) and "merges say" not in text_of(pilot))
        assert view.newest == "demo/0001"


async def test_a_talkative_job_is_cut(start: Start, workspace: Path) -> None:
    label = write_job(workspace, "demo", "eval", [events.Note(text=f"note {at}") for at in range(3000)])
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: "note 2999" in text_of(pilot))
        assert view._log.line_count <= MOST_LINES
        more(workspace, label, events.Note(text="the last"))
        await until(pilot, lambda: "the last" in text_of(pilot))
        await pilot.press("ctrl+f", *"note 2990")
        await until(pilot, lambda: view.find_bar.total == 1)
