"""The processes of a training that is more than one: which of them this is, and starting those of one machine.

    loraworkbench train --> starts rank 0 .. n-1, hands signals on, waits --> says how it ended where no rank could

Comes from: the verb `train` and the [launch] table. Goes to: processes that run the same verb with RANK and WORLD_SIZE
in their environment, as those have that `torchrun` or `accelerate launch` starts. No torch here.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from engine import events
from engine.console import Console
from engine.control import SIGNALS
from engine.errors import InputError, WorkFailed
from engine.store import Run, Workspace
from engine.tables import LaunchTable
from engine.training.pulse import LAUNCHER

PATIENCE_SECONDS = 55.0
"""How long the others may live on when a rank has failed: they find it out by themselves, unless they hang."""
LED_SECONDS = 10.0
"""The same where rank 0 has ended, without which nothing more can come of them."""
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Place:
    """Which of the processes this is: `number` of `count`, the `local`th of its machine."""

    number: int
    count: int
    local: int


def place() -> Place | None:
    """What the environment says; None: this process trains alone.

    Raises:
        InputError: it says something that cannot be.
    """
    given = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if not given["RANK"] or given["WORLD_SIZE"] in ("", "1"):
        return None
    try:
        number, count = int(given["RANK"]), int(given["WORLD_SIZE"])
        found = Place(number, count, int(given["LOCAL_RANK"] or 0))
    except ValueError:
        found = Place(-1, 0, 0)
    if not 0 <= found.number < found.count:
        said = ", ".join(f"{name}={value!r}" for name, value in given.items())
        raise InputError(f"the environment names no rank: {said}", remedy="unset them, to train in one process")
    return found


def start(workspace: Workspace, run: Run, launch: LaunchTable, overrides: list[str], console: Console) -> None:
    """Train `run` in `launch.processes` processes, and wait for them.

    Raises:
        InputError: it asks for several machines. WorkFailed: a rank was killed, and no rank could say so.
        SystemExit: it failed or was stopped; rank 0 has said how.
    """
    if launch.machines > 1:
        raise InputError(
            f"launch.machines = {launch.machines}: this starts processes on this machine only",
            remedy=f"`loraworkbench launch-script {run.project_path.name} --slurm`, or torchrun on each machine",
        )
    command = [sys.executable, "-m", "engine", "--workspace", str(workspace.root), "train", str(run.project_path)]
    command += ["--resume", run.path.name, *(part for each in overrides for part in ("--set", each))]
    command += ["--json"] if console.json_lines else []
    ranks: list[subprocess.Popen[bytes]] = []
    with run.log.open("ab") as log, _handing_on(ranks):
        try:
            for number, environment in enumerate(environments(launch)):
                out = log if number else None
                # In groups of their own a terminal's Ctrl+C reaches us alone, and them once, through us.
                process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0
                )
                ranks.append(process)
            failed = _wait(ranks)
        finally:
            for rank in ranks:
                if rank.poll() is None:
                    rank.kill()
                    rank.wait()
    if failed is not None:
        words = f"rank {failed} (process {ranks[failed].pid}) {_ending(ranks[failed].returncode)}"
        if run.state().state not in ("done", "stopped", "failed"):
            raise _tell(run, words, console)
        if ranks[failed].returncode < 0:
            console.say(words)
    if any(rank.returncode for rank in ranks):
        raise SystemExit(ranks[0].returncode if ranks[0].returncode > 0 else 1)


def environments(launch: LaunchTable) -> list[dict[str, str]]:
    """What each process of this machine is told, the CPU's cores shared among them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), LAUNCHER: str(os.getpid())}
    common["WORLD_SIZE"] = common["LOCAL_WORLD_SIZE"] = str(launch.processes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    common.setdefault("OMP_NUM_THREADS", str(max(1, cores // launch.processes)))
    return [{**common, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(launch.processes)]


@contextlib.contextmanager
def _handing_on(ranks: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """While in the block a signal that asks to stop goes to every rank."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int | None:
    """Until all have ended, or have not long after one has failed; returns the first that was killed or failed."""
    failed, deadline = None, math.inf
    while None in [rank.poll() for rank in ranks] and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        if failed is None and (failed := _worst(ranks)) is not None:
            deadline = time.monotonic() + PATIENCE_SECONDS
        if ranks[0].returncode is not None:
            deadline = min(deadline, time.monotonic() + LED_SECONDS)
    return _worst(ranks) if failed is None else failed


def _worst(ranks: list[subprocess.Popen[bytes]]) -> int | None:
    """The first rank that a signal has killed, else the first that has failed; to be stopped is no failure."""
    ended = [(number, rank.returncode) for number, rank in enumerate(ranks) if rank.returncode not in (None, 0, 130)]
    return next((n for n, code in sorted(ended, key=lambda each: (each[1] > 0, each[0]))), None)


def _ending(code: int) -> str:
    if code >= 0:
        return f"failed with exit code {code}"
    return f"was killed by signal {-code} ({signal.Signals(-code).name})"


def _tell(run: Run, words: str, console: Console) -> WorkFailed:
    """The last event of a run whose rank 0 could not write it."""
    remedy = f"see {run.log}; go on with `loraworkbench train {run.project_path.name} --resume {int(run.path.name)}`"
    with run.lock():
        log = events.EventLog(run.events)
        failed = events.Failed(problem=words, where=str(run.path), remedy=remedy)
        log(failed)
        log.close()
    console.emit(failed)
    return WorkFailed(words, where=str(run.path), remedy=remedy)
