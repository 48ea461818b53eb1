"""A thread that measures the machine once a second and posts what is visibly different.

GPUs by NVML (`jobs.nvml`), memory and load by psutil; both are imported in the thread, after the first paint.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.jobs.messages import MachineChanged
from workbench.jobs.nvml import Nvml
from workbench.models.machine import Gpu, Machine

SECONDS = 1.0
AGAIN_SECONDS = 30.0
"""After this time a connection to NVML that failed is tried again."""
KEPT = 180
"""Measurements that a history holds."""


class Gauges:
    """Measures until stopped.

    Args:
        post: `App.post_message`, which may be called from any thread.

    Attributes:
        machine: the newest measurement.
    """

    def __init__(self, post: Callable[[Any], Any], seconds: float = SECONDS) -> None:
        self.post, self.seconds = post, seconds
        self.machine = Machine()
        self._chosen: int | None = None
        self._nvml = Nvml()
        self._tried = -AGAIN_SECONDS
        self._histories: dict[str, deque[float]] = {}
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._wake.set()

    def choose(self, place: int) -> None:
        """Show the GPU at this place of `Machine.gpus` in the status bar; posted at once."""
        self._chosen = place
        self._wake.set()

    def _run(self) -> None:
        last = None
        while not self._over.is_set():
            try:
                self.machine = self.measure()
                visible = self.machine.visible()
                if visible != last:
                    last = visible
                    self.post(MachineChanged(self.machine))
            except Exception:  # gauges are never worth more than the work: the next second may be better
                pass
            self._wake.wait(self.seconds)
            self._wake.clear()
        self._nvml.close()

    def measure(self) -> Machine:
        """One look. Takes a few milliseconds; the first one imports psutil and NVML."""
        if not self._nvml.is_open and time.monotonic() - self._tried >= AGAIN_SECONDS:
            self._tried = time.monotonic()
            self._nvml.open()
        gpus = tuple(replace(g, history=self._history(g.label, g.share)) for g in self._nvml.read())
        used, total, cpu = _host()
        share = used / total if used is not None and total else None
        chosen = self._chosen if self._chosen is not None else _first_visible(gpus)
        return Machine(
            gpus, used, total, cpu, os.cpu_count() or 0, self._nvml.problem,
            max(0, min(chosen, len(gpus) - 1)), self._history("ram", share),
        )  # fmt: skip

    def _history(self, name: str, share: float | None) -> tuple[float, ...]:
        kept = self._histories.setdefault(name, deque(maxlen=KEPT))
        if share is not None:
            kept.append(share)
        return tuple(kept)


def _host() -> tuple[int | None, int | None, float | None]:
    """(used RAM, total RAM, CPU load in percent since the last call); a container's own where it has less."""
    import psutil

    try:
        memory = psutil.virtual_memory()
        used, total = memory.total - memory.available, memory.total
        limit = _container()
        if limit is not None and limit[1] < total:
            used, total = limit
        return used, total, psutil.cpu_percent(None)
    except (OSError, psutil.Error):
        return None, None, None


def _container(folder: Path = Path("/sys/fs/cgroup")) -> tuple[int, int] | None:
    """(used, allowed) bytes of this container (cgroup 2), None where nothing is limited."""
    try:
        allowed = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, used - int(stat.get("inactive_file", 0))), allowed  # cached files are given back when needed
    except (OSError, ValueError):
        return None


def _first_visible(gpus: tuple[Gpu, ...]) -> int:
    """The place of the card that torch would call cuda:0, as far as CUDA_VISIBLE_DEVICES says it by number."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    index = int(first) if first.isdecimal() else 0
    return next((place for place, g in enumerate(gpus) if g.index == index), 0)
