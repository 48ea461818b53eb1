"""The real program on a pseudo-terminal with the real engine: base and adapter prompted while it is trained, columns
switched by digits, ten pairs judged blind, the comparisons written as Markdown.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from engine import blind, events, transcripts
from engine.log_ends import LogEnds
from engine.store import Workspace, process_lives
from tests.workbench.test_end_to_end import escape, opened, type_in, until, workspace  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROMPT = "Tina has 12 apples. Adam has 5 more. How many has Adam?"


def test_base_and_adapter_side_by_side(workspace: Path, tmp_path: Path) -> None:  # noqa: F811
    project = Workspace(workspace).project("starter")
    kept = transcripts.path_of(project.path)

    def answers() -> list[list[transcripts.Answer]]:
        entries = transcripts.entries(kept) if kept.exists() else ()
        return [entry.answers for entry in sorted(entries, key=lambda e: e.t)]

    def seen(text: str) -> None:
        until(terminal, lambda: text in terminal.text())

    terminal = opened(workspace, tmp_path / "state")
    try:
        terminal.wait_for("space menu", 60)
        terminal.wait_for("starter", 60)
        type_in(terminal, " pe")
        terminal.wait_for("quantization", 60)
        terminal.send("\x1b[15~")  # F5
        until(terminal, lambda: project.runs())
        run = project.runs()[0]
        until(terminal, lambda: (run.state().step or 0) >= 2)

        terminal.wait_for("loss", 60)
        type_in(terminal, "5")
        seen("(training, step")
        type_in(terminal, PROMPT)
        terminal.send("\r")
        until(terminal, lambda: answers())
        base, adapter = answers()[0]
        assert base.model == "base" and base.step is None
        assert adapter.model == "starter-0001" and adapter.step is not None and adapter.changed and adapter.kl > 0
        assert run.state().state == "running"
        seen("starter-0001 at step")

        escape(terminal)
        type_in(terminal, "1r")  # the base's column shows the adapter, too
        until(terminal, lambda: len(answers()) == 2)
        seen("column 1 of 2: starter/0001")
        until(terminal, lambda: run.state().state == "done")

        seen("✓ 0001")

        type_in(terminal, "0b")
        terminal.wait_for("on which prompts?", 60)
        terminal.send("\r")
        terminal.wait_for("How many unseen rows?", 60)
        terminal.send("\r")
        for judged in range(10):
            seen(f"pair {judged + 1} of 10: which is better?")
            type_in(terminal, "ab="[judged % 3])
            until(terminal, lambda: len(blind.BlindTest.open(blind.tests_of(run.path)[0]).judged) == judged + 1)  # noqa: B023
            time.sleep(1)  # until the names are on the screen
            type_in(terminal, "n")
        tally = blind.BlindTest.open(blind.tests_of(run.path)[0]).tally()
        assert tally.first + tally.second == 7 and tally.equal == 3
        seen("pairs are judged")

        type_in(terminal, " cc")
        terminal.wait_for("column", 60)
        escape(terminal)
        type_in(terminal, "v")
        terminal.wait_for("Comparisons with", 60)
        type_in(terminal, "\t\t\t\r")
        terminal.wait_for("relative to the workspace", 60)
        terminal.send("\r")
        written = project.path / "comparisons.md"
        until(terminal, written.exists, 60)
        assert PROMPT in written.read_text(encoding="utf-8")

        escape(terminal)  # the workbench is killed while an answer is written; the session serves the next one
        type_in(terminal, "i")
        type_in(terminal, PROMPT)
        sessions, before = project.jobs(), len(answers())
        terminal.send("\r")
        terminal.read(0.05)
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.close()
        terminal = opened(workspace, tmp_path / "state")
        seen("space menu")
        seen("compare starter")
        type_in(terminal, " cc")
        seen("nf4")
        type_in(terminal, PROMPT)
        terminal.send("\r")
        until(terminal, lambda: len(answers()) > before)
        assert [j.path for j in project.jobs()] == [j.path for j in sessions]
    finally:
        terminal.close()
        for job in project.jobs():
            with LogEnds(job.events) as log:
                begun = log.last(events.Started)
            if begun is not None and process_lives(begun.pid, begun.pid_started):
                os.kill(begun.pid, signal.SIGKILL)
