"""The real program on a pseudo-terminal with the real engine: a mistake and its mending, a run that outlives its terminal,
is shown again, stopped, resumed and done.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.store import Run, Workspace
from tests.benchmarks.terminal import Terminal

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The starter project with a short training."""
    root = tmp_path / "workspace"
    project = root / "projects" / "starter"
    project.mkdir(parents=True)
    text = (ROOT / "projects" / "starter" / "project.toml").read_text(encoding="utf-8")
    text = text.replace("steps = 150", "steps = 30").replace("evaluate_every = 50", "evaluate_every = 10")
    (project / "project.toml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "data" / "word_problems", root / "data" / "word_problems")
    return root


def opened(workspace: Path, state: Path) -> Terminal:
    command = [sys.executable, "-m", "workbench", str(workspace)]
    return Terminal(command, (120, 40), {"XDG_STATE_HOME": str(state), "SSH_CONNECTION": ""}, ROOT)


def until(terminal: Terminal, holds: Callable[[], object], seconds: float = 240.0) -> None:
    """Take the program's output until `holds()`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, terminal.text()[-3000:]
        terminal.read(0.2)


def type_in(terminal: Terminal, keys: str) -> None:
    """One key after the other, each taken before the next."""
    for key in keys:
        terminal.send(key)
        terminal.read(0.3)


def test_a_run_outlives_its_terminal(workspace: Path, tmp_path: Path) -> None:
    terminal = opened(workspace, tmp_path / "state")
    terminal.wait_for("space menu", 60)
    terminal.wait_for("starter", 60)
    type_in(terminal, " pe")
    terminal.wait_for("quantization", 60)
    terminal.send("x")  # at the beginning of the first line, a comment: no longer one
    terminal.wait_for("1 problem", 60)
    terminal.send("\x1a")  # ctrl+z
    for _ in range(10):
        terminal.read(0.3)

    run: list[Run] = []
    project = Workspace(workspace).project("starter")
    terminal.send("\x1b[15~")  # F5
    until(terminal, lambda: project.runs())
    run += project.runs()
    until(terminal, lambda: (run[0].state().step or 0) >= 2)
    assert "loss" in terminal.text()
    terminal.hang_up()

    time.sleep(1)
    assert run[0].state().state == "running"
    terminal = opened(workspace, tmp_path / "state")
    try:
        terminal.wait_for("running", 60)  # its tab has come back, and shows it
        type_in(terminal, " rs")
        until(terminal, lambda: run[0].state().state == "stopped")
        terminal.wait_for("Resume goes on after step", 60)
        type_in(terminal, " rc")
        until(terminal, lambda: run[0].state().state == "done")
        terminal.wait_for("done", 60)
        assert (run[0].adapter / "adapter_model.safetensors").is_file() and len(project.runs()) == 1
    finally:
        terminal.close()
