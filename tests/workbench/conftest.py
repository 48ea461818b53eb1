"""A small workspace, the application in it, and what its screen shows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine import events
from workbench.app import WorkbenchApp
from workbench.settings import Settings

Start = Callable[..., AbstractAsyncContextManager[Pilot]]

at_sizes = pytest.mark.parametrize(
    "size", [(80, 24), *(pytest.param(size, marks=pytest.mark.slow) for size in ((120, 40), (200, 50)))]
)
"""The terminals that everything is tried in; the smallest, where things go wrong first, in the fast suite."""

PROJECT = """\
# A project for tests.
[data]
train = "data/rows.jsonl"
test_fraction = 0.25

[lora]
r = 8  # small

[train]
steps = 10
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with the project `demo` (8 rows of data, no run)."""
    root = tmp_path / "workspace"
    (root / "projects" / "demo").mkdir(parents=True)
    (root / "projects" / "demo" / "project.toml").write_text(PROJECT)
    (root / "data").mkdir()
    rows = [{"prompt": f"What is {i} + 1?", "completion": f"{i + 1}"} for i in range(8)]
    (root / "data" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def write_run(root: Path, label: str, said: list[events.Event]) -> Path:
    """A run's folder with these events in its log."""
    project, number = label.split("/")
    folder = root / "projects" / project / "runs" / number
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "project.toml").write_text(PROJECT)
    log = events.EventLog(folder / "events.jsonl")
    for event in said:
        log(event)
    log.close()
    return folder


def steps(count: int, of: int | None = None, first: int = 1) -> list[events.Event]:
    """Step events whose loss falls from 2."""
    return [
        events.Step(
            step=i, steps=of or count, loss=2.0 / (1 + i / 50), learning_rate=1e-3 * (1 - i / (of or count)),
            gradient_norm=1.0, tokens=500, supervised_tokens=200, seconds=0.1, tokens_per_second=5000.0,
            memory_bytes=10**9, epoch=i / 100,
        )
        for i in range(first, first + count)
    ]  # fmt: skip


def started(pid: int = 1, pid_started: float = 0.0, verb: str = "train") -> events.Started:
    return events.Started(verb=verb, pid=pid, pid_started=pid_started, project="demo", device="CPU", versions={})


@pytest.fixture
def start(workspace: Path, tmp_path: Path) -> Start:
    """`async with start(size=(120, 40)) as pilot`: the application on `workspace`, its first snapshot arrived."""

    @asynccontextmanager
    async def run(size: tuple[int, int] = (120, 40), settings: Settings | None = None) -> AsyncIterator[Pilot]:
        app = WorkbenchApp(workspace, settings, state_folder=tmp_path / "state")
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: bool(app.snapshot.projects) and bool(app.workbench.editors.all))
            press_whole(pilot)
            yield pilot

    return run


def press_whole(pilot: Pilot) -> None:
    """Let `pilot.press` return when its keys have gone all their way (see `workbench.keys`), not when Textual has them."""
    press, app = pilot.press, pilot.app

    async def pressed(*keys: str) -> None:
        await press(*keys)
        end = time.monotonic() + 2.0
        while app._keys.on_their_way and time.monotonic() < end:
            await asyncio.sleep(0.005)
        await pilot.pause()

    pilot.press = pressed


async def until(pilot: Pilot, holds: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `holds()`; fails with the screen's text when it does not in time."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"did not come to pass; the screen:\n{text_of(pilot)}"
        await pilot.pause()
        await asyncio.sleep(0.02)


def text_of(pilot: Pilot) -> str:
    """What the screen shows, line by line (Textual has no public way to it)."""
    strips = pilot.app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)
