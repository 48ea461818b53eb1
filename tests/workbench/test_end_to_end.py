"""The real program on a pseudo-terminal with the real engine: a project from the wizard, a mistake and its mending, a run
that outlives its terminal, is shown again, stopped, resumed and done; measured, and merged. By keys alone.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.store import Workspace
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


def rest(terminal: Terminal, seconds: float = 2.0) -> None:
    """Let the program do what it has been told; keys that come at once go to what has the focus then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        terminal.read(0.2)


def escape(terminal: Terminal) -> None:
    """The key alone: a key right behind it would be one with Alt."""
    type_in(terminal, "\x1b")
    time.sleep(0.5)


def test_a_project_from_the_wizard_to_the_merged_model(workspace: Path, tmp_path: Path) -> None:
    terminal = opened(workspace, tmp_path / "state")
    terminal.wait_for("space menu", 60)
    terminal.wait_for("starter", 60)

    type_in(terminal, " pn")
    terminal.wait_for("Create", 60)
    for field in ("sums", "", "data/word_problems/train.jsonl"):  # its base is the one that is offered
        terminal.send(field)
        rest(terminal)
        terminal.send("\r")
        rest(terminal)
    until(terminal, lambda: "question: " in terminal.text())  # the first rows
    until(terminal, lambda: "data/word_problems/test.jsonl" in terminal.text())  # found beside them
    type_in(terminal, "\t\r")
    until(terminal, (workspace / "projects" / "sums" / "project.toml").exists)
    project = Workspace(workspace).project("sums")
    terminal.wait_for("quantization", 60)

    short = {"# steps = 0": "steps = 30", "# evaluate_every = 0": "evaluate_every = 10", "# match_rows = 200": "match_rows = 4",
             "# test_rows = 0": "test_rows = 20", "# train_rows = 100": "train_rows = 20"}  # fmt: skip
    text = project.file.read_text(encoding="utf-8")
    for old, new in short.items():
        assert old in text
        text = text.replace(old, new)
    project.file.write_text(text, encoding="utf-8")
    terminal.wait_for("was changed on", 60)

    type_in(terminal, "x")  # at the beginning of the first line, a comment: no longer one
    terminal.wait_for("1 problem", 60)
    escape(terminal)
    type_in(terminal, " vp")
    rest(terminal)
    type_in(terminal, "\r\x1a")  # the place of the first; ctrl+z
    rest(terminal)

    terminal.send("\x1b[15~")  # F5
    until(terminal, lambda: project.runs())
    run = project.runs()[0]
    until(terminal, lambda: (run.state().step or 0) >= 2)
    terminal.wait_for("loss", 60)
    terminal.hang_up()

    time.sleep(1)
    assert run.state().state == "running"
    terminal = opened(workspace, tmp_path / "state")
    try:
        terminal.wait_for("running", 60)  # its tab has come back, and shows it
        step = run.state().step or 0
        until(terminal, lambda: f"step {step + 2} of 30" in terminal.text())
        type_in(terminal, " rs")
        until(terminal, lambda: run.state().state == "stopped")
        terminal.wait_for("Resume goes on after step", 60)
        type_in(terminal, " rc")
        until(terminal, lambda: run.state().state == "done")
        terminal.wait_for("done", 60)
        assert (run.adapter / "adapter_model.safetensors").is_file() and len(project.runs()) == 1

        type_in(terminal, " er")
        terminal.wait_for("on the same rows", 60)
        type_in(terminal, "\r")
        terminal.wait_for("unseen", 60)
        until(terminal, lambda: project.jobs() and project.jobs()[-1].state().state == "done")
        terminal.wait_for("sums-0001", 60)

        type_in(terminal, " am")
        terminal.wait_for("Merge", 60)
        type_in(terminal, "\r")
        until(terminal, lambda: list(project.path.glob("merged/*/model.safetensors")))
        terminal.wait_for("holds", 60)
    finally:
        terminal.close()
