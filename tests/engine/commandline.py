"""Running the command line in a test: a workspace of its own, projects, rows and run folders to put into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import events
from engine.store import process_start

ROOT = Path(__file__).resolve().parents[2]
VERBS = ["quickstart", "new", "check", "rows", "train", "eval"]
VERBS += ["generate", "merge", "adapters", "runs", "watch", "doctor", "launch-script"]

Outcome = tuple[int, str, str]
Call = Callable[..., Outcome]


def document(outcome: Outcome, code: int = 0) -> Any:
    """The one JSON document of a call that ended with `code`."""
    assert outcome[0] == code, outcome
    return json.loads(outcome[1])


def subprocess_of(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "engine", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **{**pipes, **options})


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}. #### {2 * n}"} for n in range(count)]


def write_project(name: str, text: str) -> Path:
    """projects/NAME/project.toml in the current folder."""
    file = Path("projects") / name / "project.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def finished(reason: str) -> events.Finished:
    return events.Finished(reason=reason, seconds=3.0)


def log_of(run: Path, *said: events.Event, pid: int | None = None) -> Path:
    """A run's folder with a log: `started` by this process (or by `pid`), two steps, and what was `said`."""
    log = events.EventLog(run / "events.jsonl")
    own = os.getpid() if pid is None else pid
    log(events.Started(verb="train", pid=own, pid_started=process_start(own), project="p", device="CPU"))
    numbers: dict[str, Any] = {"learning_rate": 1e-4, "gradient_norm": 1.0, "seconds": 0.1, "tokens_per_second": 1e3}
    for step in (1, 2):
        log(
            events.Step(
                step=step, steps=9, loss=1.5, tokens=9, supervised_tokens=5, memory_bytes=1, epoch=0.1, **numbers
            )
        )
    for event in said:
        log(event)
    log.close()
    return run
