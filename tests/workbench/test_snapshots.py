"""What the main views look like at three sizes, as text compared line by line, and a few of them with their colours (SVG).

    SNAPSHOTS=renew pytest tests/workbench/test_snapshots.py      writes them anew; then read what `git diff` says

The time stands still, the machine is not measured; the data view and the wizard ask a real engine process.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from engine import events
from tests.workbench.conftest import Start, started, steps, text_of, until, write_run
from tests.workbench.evaluations import document, write_adapter, write_evaluation
from workbench.jobs.gauges import Gauges
from workbench.models.evaluation import BASE

FOLDER = Path(__file__).parent / "snapshots"
RENEW = os.environ.get("SNAPSHOTS") == "renew"
NOW = 1_780_000_000.0
SLOW = 40.0
"""Seconds for an engine process on a busy machine."""
PATIENCE = 10.0
"""Seconds that a picture which is not the one that is kept may still become it."""
IN_COLOUR = ("project", "data", "run", "evaluation", "menu")
"""Views of which there is an SVG, too, at 120x40."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def standing(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace with three runs, two adapters and an evaluation, three hours old."""
    monkeypatch.setattr(Gauges, "start", lambda gauges: None)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: NOW - 3 * 3600)
    measured = events.Scored(
        model="adapter", split="test", scope="completion", nll=150.0, tokens=100, perplexity=4.48, step=40
    )
    sample = events.Sample(model="adapter", prompt="What is 3 + 1?", text="It is 4.", step=40)
    done = events.Finished(reason="done", seconds=99)
    write_run(workspace, "demo/0001", [started(), *steps(50), measured, sample, done])
    second = write_run(workspace, "demo/0002", [started(), *steps(30, of=50), events.Finished(reason="stopped")])
    (second / "project.toml").write_text((second / "project.toml").read_text().replace("r = 8", "r = 32"))
    write_run(workspace, "demo/0003", [started(), *steps(10, of=50)])
    write_adapter(workspace, "demo/0001")
    write_adapter(workspace, "demo/0002", r=32)
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]))
    for path in sorted(workspace.rglob("*")):
        os.utime(path, (NOW - 3 * 3600,) * 2)
    monkeypatch.setattr(time, "time", lambda: NOW)
    return workspace


class Camera:
    """Takes what the screen shows when it has come to rest, and compares it with what is kept.

    Attributes:
        differing: file -> in what it differs.
    """

    def __init__(self, pilot: Pilot, size: tuple[int, int]) -> None:
        self.pilot, self.size, self.differing = pilot, size, dict[str, str]()

    async def rest(self) -> str:
        text, same = "", 0
        while same < 4:
            await self.pilot.pause()
            await asyncio.sleep(0.04)
            now = text_of(self.pilot)
            text, same = now, same + 1 if now == text else 0
        return text

    async def take(self, name: str, *there: str, holds: Callable[[], object] = lambda: True) -> None:
        """Wait for words of the view and that `holds`, then compare."""
        await until(self.pilot, lambda: holds() and all(t in text_of(self.pilot) for t in there), SLOW)
        end = time.monotonic() + PATIENCE
        while True:
            now = {f"{name}-{self.size[0]}x{self.size[1]}.txt": await self.rest() + "\n"}
            if name in IN_COLOUR and self.size == (120, 40):
                now[f"{name}.svg"] = stripped(self.pilot.app.export_screenshot(title="loraworkbench"))
            if RENEW or time.monotonic() > end or all(text == kept(file) for file, text in now.items()):
                break  # else at rest, but perhaps for want of a process that has not said its part, or of a cursor that blinks
        for file, text in now.items():
            self._compare(file, text)

    def _compare(self, file: str, now: str) -> None:
        path = FOLDER / file
        if RENEW:
            path.write_text(now, encoding="utf-8")
        else:
            before = kept(file)
            if before != now:
                lines = difflib.unified_diff(
                    before.splitlines(), now.splitlines(), f"{file}, kept", "now", "", "", 1, ""
                )
                self.differing[file] = "\n".join(lines)


def kept(file: str) -> str:
    """The picture that is kept under this name, "" where there is none."""
    path = FOLDER / file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def stripped(svg: str) -> str:
    """An SVG without the number that makes its ids unique."""
    return re.sub(r"terminal-\d+", "terminal", svg)


@pytest.mark.parametrize(
    "size", [(80, 24), (120, 40), pytest.param((200, 50), marks=pytest.mark.slow)], ids=lambda s: f"{s[0]}x{s[1]}"
)
async def test_the_main_views(start: Start, standing: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        app: Any = pilot.app
        camera = Camera(pilot, size)
        await until(pilot, lambda: len(app.snapshot.runs) == 3)
        app.do("data.open")  # its engine process starts meanwhile
        await until(pilot, lambda: app.workbench.editors.find("data:demo"))

        app.open("welcome:")
        app.do("focus.sidebar")
        await camera.take("welcome", "EXPLORER", "0003", "demo")
        if size[0] < 100:
            app.do("focus.leave")

        app.open("project:demo")
        await until(pilot, lambda: getattr(app.workbench.editors.front, "checked", -1) >= 0)
        editor = app.workbench.editors.front
        await until(pilot, lambda: editor.schema and editor.area.has_focus)
        editor.reveal((7, 1))
        await pilot.press("x")
        await camera.take("project", "unknown key `lora.xr`", "1 problem")
        await pilot.press("ctrl+z")
        await until(pilot, lambda: not editor.dirty and not app.problems)

        app.open("run:demo/0001")
        await front(pilot, "run:demo/0001")
        await camera.take("run", "done", "loss")
        app.open("runs:demo")
        await front(pilot, "runs:demo")
        await camera.take("runs", "a 0003", "c 0001")
        app.open("eval:demo")
        view = await front(pilot, "eval:demo")
        await until(pilot, lambda: view._read and view.query_one("#matrix").has_focus)
        await pilot.press("j")
        await camera.take("evaluation", "demo-0001", "65.0%")
        app.open("adapters:demo")
        view = await front(pilot, "adapters:demo")
        await camera.take(
            "adapters", "demo/0001", holds=lambda: all(e.info.sha256 for e in view._entries) and not view._scanning
        )
        app.open("learn:low-rank")
        await front(pilot, "learn:low-rank")
        await camera.take("learn", "learns", holds=lambda: "being read" not in text_of(pilot))
        await pilot.press("escape", "space")
        await camera.take("menu", "space")
        await pilot.press("escape", "f2")
        await camera.take("quick-open", "demo", holds=lambda: len(app.screen_stack) == 2)
        await pilot.press("escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)
        app.open("data:demo")
        view = await front(pilot, "data:demo")
        await camera.take("data", "What is 1 + 1?", holds=lambda: view._surveyed and not view._marking)
        app.do("project.new")
        await until(pilot, lambda: len(app.screen_stack) == 2 and app.focused is not None)
        await pilot.press(*"fresh", "enter", "enter", *"rows", "down", "enter")
        await camera.take("wizard", "completion: 1", "fresh")
        await pilot.press("escape")
        assert not camera.differing, "\n\n".join(camera.differing.values())


async def front(pilot: Pilot, uri: str) -> Any:
    """The tab of this URI, when it is in front and has the focus."""
    app: Any = pilot.app
    await until(pilot, lambda: getattr(app.workbench.editors.front, "uri", "") == uri)
    editor = app.workbench.editors.front
    await until(pilot, lambda: app.focused is not None and editor in app.focused.ancestors_with_self)
    return editor
