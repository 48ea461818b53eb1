"""Unsaved text goes with its tab to the other group, and is kept when the terminal hangs up."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.terminal import Terminal
from tests.workbench.conftest import PROJECT, Start, text_of, until
from tests.workbench.editors.test_project_editor import file_of, opened, swaps
from workbench.editors.project_editor import ProjectEditor

ROOT = Path(__file__).parents[3]


async def test_a_split_tab_carries_its_text_cursor_and_undo(start: Start, workspace: Path) -> None:
    async with start((240, 40)) as pilot:
        editor = await opened(pilot)
        await pilot.press("x", "down", "y")
        pilot.app.do("tab.split")
        await until(pilot, lambda: len(pilot.app.workbench.editors.groups) == 2)
        moved = pilot.app.workbench.editors.front
        assert isinstance(moved, ProjectEditor) and moved is not editor
        await until(pilot, lambda: moved.loaded and moved.area.has_focus)
        changed = f"x{PROJECT}".replace("[data]", "[ydata]", 1)
        assert moved.area.text == changed and moved.dirty and moved.area.cursor_location == (1, 2)
        await until(pilot, lambda: len(pilot.app.problems) == 1)
        await until(pilot, lambda: [json.loads(p.read_text())["text"] for p in swaps(pilot)] == [changed])
        file_of(workspace).write_text("# theirs\n")
        await until(pilot, lambda: "toml was changed on disk by" in text_of(pilot))
        assert moved.area.text == changed
        for _ in range(4):
            pilot.app.do("edit.undo")
        assert moved.area.text == PROJECT


async def test_a_tab_that_is_still_being_read_can_be_split(start: Start) -> None:
    async with start() as pilot:
        area = pilot.app.workbench.editors
        await area.open("project:demo")
        await area.split()
        moved = area.front
        assert isinstance(moved, ProjectEditor)
        await until(pilot, lambda: moved.loaded and moved.area.text == PROJECT and not moved.dirty)


def shown(terminal: Terminal, text: str) -> None:
    """Wait until `text` has been written at any time."""
    end = time.monotonic() + 60
    while text not in terminal.text():
        assert time.monotonic() < end, (text, terminal.text()[-2500:])
        terminal.read(0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["the terminal hangs up", "it is told to end"])
def test_what_was_just_typed_is_kept(workspace: Path, tmp_path: Path, how: str) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "workbench", str(workspace)]
    terminal = Terminal(command, (120, 40), {"XDG_STATE_HOME": str(state), "SSH_CONNECTION": ""}, ROOT)
    shown(terminal, "New project")
    for _ in range(3):  # on a crowded machine a key may come while the screen is being made
        terminal.send(" ")
        shown(terminal, "Toggle inspector")  # the menu
        for key in "pe":
            time.sleep(0.5)
            terminal.send(key)
        end = time.monotonic() + 15
        while "test_fraction" not in terminal.text() and time.monotonic() < end:
            terminal.read(0.1)
        if "test_fraction" in terminal.text():
            break
        terminal.send("\x1b")
        time.sleep(0.5)
    shown(terminal, "Ln 1, Col 1")
    terminal.send("x")
    shown(terminal, "●")  # it is in the text, and not yet in the swap file
    if how == "it is told to end":
        os.kill(terminal.pid, signal.SIGTERM)
        end = time.monotonic() + 60
        while os.waitpid(terminal.pid, os.WNOHANG)[0] == 0:
            assert time.monotonic() < end
            terminal.read(0.1)
        os.close(terminal.fd)
    else:
        terminal.hang_up()
    (kept,) = state.glob("**/swap/*.json")
    assert json.loads(kept.read_text())["text"] == f"x{PROJECT}"
