"""What may happen to the workbench: folders that go away under it, disks that are full, a terminal that never stays its size."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import events
from tests.workbench.conftest import Start, started, steps, text_of, until, write_run
from tests.workbench.evaluations import document, write_adapter, write_evaluation
from workbench.models.evaluation import BASE

SLOW = pytest.mark.slow
VIEWS = ["project:demo", "run:demo/0001", "runs:demo", "eval:demo", "adapters:demo", "learn:low-rank", "data:demo",
         "file:data/rows.jsonl"]  # fmt: skip


@pytest.fixture
def full(workspace: Path) -> Path:
    """A project with everything."""
    write_run(workspace, "demo/0001", [started(), *steps(30), events.Finished(reason="done")])
    write_run(workspace, "demo/0002", [started(), *steps(5, of=50)])
    write_adapter(workspace, "demo/0001")
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]))
    return workspace


async def everything(pilot: Any) -> Any:
    """All views open, each having been in front."""
    app = pilot.app
    await until(pilot, lambda: len(app.snapshot.runs) == 2)
    for uri in VIEWS:
        app.open(uri)
        await until(pilot, lambda uri=uri: getattr(app.workbench.editors.front, "uri", "") == uri)
        await pilot.pause()
    return app


@pytest.mark.parametrize("what", [".", *(pytest.param(p, marks=SLOW) for p in ("projects/demo", "projects", "data"))])
async def test_a_folder_that_is_deleted_under_all_views(
    start: Start, full: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "executable", "/bin/true"
    )  # no engine: its words of such a folder are tested in test_data_view
    async with start((120, 40)) as pilot:
        app = await everything(pilot)
        editor = app.workbench.editors.find("project:demo")
        await until(pilot, lambda: editor.loaded)
        shutil.rmtree(full / what)
        app.watch_workspace.now()
        if what != "data":
            await until(pilot, lambda: not app.snapshot.projects)
        for uri in VIEWS:
            app.open(uri)
            await until(pilot, lambda uri=uri: getattr(app.workbench.editors.front, "uri", "") == uri)
            for key in ("j", "enter", "escape", "r", "e", "escape", "s", "tab", "escape"):
                await pilot.press(key)
                if len(app.screen_stack) > 1:
                    await pilot.press("escape")
        app.do("run.start")
        app.do("project.duplicate")
        await pilot.pause()
        while len(app.screen_stack) > 1:
            await pilot.press("escape")
        if what != "data":
            app.open("project:demo")
            await until(pilot, lambda: "saving" in text_of(pilot) and "project.toml" in text_of(pilot))
            assert editor.dirty or editor.kept is None  # the text is still here
        assert app.is_running


async def test_a_full_disk(start: Start, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.open("project:demo")
        await until(pilot, lambda: getattr(app.workbench.editors.front, "loaded", False))
        editor = app.workbench.editors.front
        await until(pilot, lambda: editor.area.has_focus)
        with monkeypatch.context() as patched:
            patched.setattr("os.replace", refuse)
            await pilot.press("#")
            await until(pilot, lambda: "cannot be kept" in text_of(pilot))
            app.workbench.toggle("panel")
            app.remember()
            await until(pilot, lambda: "Layout not saved" in text_of(pilot))
            before = editor.path.read_text()
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "no space left" in text_of(pilot).lower())
            assert editor.dirty and editor.path.read_text() == before
            assert editor.area.text.startswith("#")
        await pilot.press("ctrl+s")  # there is room again
        await until(pilot, lambda: not editor.dirty and editor.path.read_text().startswith("##"))


@SLOW
async def test_a_storm_of_sizes(start: Start, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    dice = random.Random(1)
    async with start((120, 40)) as pilot:
        app = await everything(pilot)
        for number in range(60):
            size = dice.choice(
                [(80, 24), (120, 40), (200, 50), (1, 1), (20, 5), (300, 90), (40, 10), (99, 31), (100, 32)]
            )
            await pilot.resize_terminal(*size)
            if number % 5 == 0:
                app.open(dice.choice(VIEWS))
        for width, height in ((80, 24), (120, 40), (200, 50)):
            await pilot.resize_terminal(width, height)
            for uri in VIEWS:
                app.open(uri)
                await until(pilot, lambda uri=uri: getattr(app.workbench.editors.front, "uri", "") == uri)
                await pilot.pause()
                lines = text_of(pilot).split("\n")
                assert len(lines) == height and all(len(line) <= width for line in lines), uri
        assert app.is_running
