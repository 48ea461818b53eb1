"""What the benchmarks share: sides that take turns, each run a process of its own; medians with their spread; the machine.

A run is a command that prints one JSON object of numbers on its last line. A machine is seldom quiet for long: sides
that alternate meet the same disturbances, and CPU seconds are disturbed less than the clock. All sides' threads sleep
soon when they wait for each other (GOMP_SPINCOUNT, as our command line sets it): spinning costs a busy machine dearly.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Facts = dict[str, Any]


class RunFailed(SystemExit):
    """A run failed; ends the program, with what the run said, where nobody catches it."""


def in_turn(
    commands: Mapping[str, Sequence[str | Path]], repeats: int, failed: dict[str, str] | None = None
) -> dict[str, list[Facts]]:
    """Run every side's command `repeats` times, one side after the other; what each run printed, by side.

    To each run are added `whole process, s` and `CPU of the process, s`. A line for each goes to stderr.

    Args:
        failed: where given, a side that fails is left out, and the last line of what it said is put here.
    """
    found: dict[str, list[Facts]] = {side: [] for side in commands}
    for repeat in range(repeats):
        for side, command in commands.items():
            if side not in found:
                continue
            try:
                facts = run(command)
            except RunFailed as error:
                if failed is None:
                    raise
                failed[side] = _last_words(str(error))
                del found[side]
                print(f"{repeat + 1}/{repeats} {side}: failed: {failed[side]}", file=sys.stderr, flush=True)
                continue
            found[side].append(facts)
            shown = ", ".join(f"{k} {v:,.4g}" for k, v in facts.items() if isinstance(v, int | float))
            print(f"{repeat + 1}/{repeats} {side}: {shown}", file=sys.stderr, flush=True)
    return found


def run(command: Sequence[str | Path]) -> Facts:
    """One run.

    Raises:
        RunFailed: its exit code is not 0.
    """
    os.sync()  # so that no run waits for what the one before left to be written
    before, started = _cpu_of_children(), time.perf_counter()
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, env=environment)
    seconds, cpu = time.perf_counter() - started, _cpu_of_children() - before
    if done.returncode:
        raise RunFailed(f"{done.stdout}\n{done.stderr}\nfailed: {' '.join(map(str, command))}")
    return {**json.loads(done.stdout.splitlines()[-1]), "whole process, s": seconds, "CPU of the process, s": cpu}


def _last_words(said: str) -> str:
    """The line before the command's own: a Python program's error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-2] if len(lines) > 1 else said


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak_rss_bytes() -> int:
    """The largest resident memory of this process so far. Linux's getrusage would count the parent's before exec too."""
    return _status_bytes("VmHWM")


class PrivateMemory(threading.Thread):
    """Watches this process while in the block: `peak_bytes` leaves out mapped files, which are libraries and weights."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_bytes, self._done = 0, threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.01):
            self.peak_bytes = max(self.peak_bytes, _status_bytes("RssAnon"))

    def __enter__(self) -> PrivateMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """The median, and the least and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of ours / theirs, each run with the one that took its turn beside it."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def machine(*packages: str) -> str:
    """Date, processor, load and versions, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), model)
    found = [f"{name} {_version(name)}" for name in packages]
    load = f"load {os.getloadavg()[0]:.1f}"
    return ", ".join([time.strftime("%Y-%m-%d"), f"{os.cpu_count()} cores of {model}", load, *found])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed here"
