"""Several processes in tests: what a program of theirs finds, a project for them, waiting for what its run says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import events
from engine.store import Run
from tests.engine.commandline import ROOT, pairs, write_project, write_rows

Scenarios = dict[str, dict[str, Any]]

MINUTE = 60.0
STEPS = 400

PROJECT = """
[model]
base = "{base}"
quantization = "none"
dtype = "float32"
[data]
train = "data/demo.jsonl"
test_fraction = 0.2
[lora]
r = 8
[train]
steps = {steps}
examples_per_step = 5
save_every = 20
[launch]
device = "cpu"
processes = {processes}
machines = {machines}
threads = 1
offline = true
"""


def scenarios(module: str, base: Path, folder: Path, *names: str) -> Scenarios:
    """What the program `tests.engine.MODULE` finds, in a process of its own that forks its ranks."""
    command = [sys.executable, "-m", f"tests.engine.{module}", str(base), str(folder), *names]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_to_be(name: str, base: Path, processes: int = 2, machines: int = 1) -> Run:
    """A project in the workspace here; returns what will be its first run."""
    write_rows(Path("data/demo.jsonl"), pairs(60))
    write_project(name, PROJECT.format(base=base, steps=STEPS, processes=processes, machines=machines))
    return Run(Path(f"projects/{name}/runs/0001").absolute())


def said(run: Run, kind: type[Any]) -> list[Any]:
    return [e for e in events.read(run.events)[0] if isinstance(e, kind)]


def wait_for(what: Callable[[], Any], seconds: float = 2 * MINUTE) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def stand_in_tools(folder: Path, *machines: str) -> None:
    """What a batch file calls of Slurm, for one machine: `srun` that only runs, `scontrol` that names `machines`."""
    folder.mkdir()
    names = "\\n".join(machines)
    for name, does in (
        ("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"'),
        ("scontrol", f"printf '{names}\\n'"),
    ):
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
