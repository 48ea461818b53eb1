"""GPUs by NVML (nvidia-ml-py): no CUDA context, no memory on the card. Every field that cannot be read is None.

NVML's errors are the normal case somewhere: no driver, no permission, a MIG card that has no utilisation, a container
that hides other processes, a card that fell off the bus. None of them is raised from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.models.machine import Gpu, GpuProcess

WORDS = {
    "NVMLError_LibraryNotFound": "no NVIDIA driver",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is not loaded",
    "NVMLError_NoPermission": "no permission to read the GPU",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was updated: restart the machine",
}
LOST = ("NVMLError_GpuIsLost", "NVMLError_Uninitialized", "NVMLError_Unknown")


class Nvml:
    """A connection to NVML.

    Attributes:
        problem: why there is none, "" while there is.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._library: Any = None

    def open(self) -> None:
        """Connect; sets `problem`."""
        try:
            import pynvml

            pynvml.nvmlInit()
            self._library, self.problem = pynvml, ""
        except Exception as error:  # NVML's, a missing module, a library that cannot be loaded
            self._library, self.problem = None, words(error)

    def close(self) -> None:
        if self._library is not None:
            self._ask(self._library.nvmlShutdown)
            self._library = None

    @property
    def is_open(self) -> bool:
        return self._library is not None

    def read(self) -> tuple[Gpu, ...]:
        """All cards, MIG slices in place of split ones; empty where there is no connection."""
        library = self._library
        if library is None:
            return ()
        try:
            count = library.nvmlDeviceGetCount()
        except Exception as error:
            self.problem = words(error)
            if type(error).__name__ in LOST:
                self.close()
            return ()
        found: list[Gpu] = []
        for index in range(count):
            handle = self._ask(library.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                found.append(Gpu(index, "cannot be read"))
            else:
                slices = self._slices(handle)
                found += [self._card(index, h, place, handle) for place, h in slices] or [self._card(index, handle)]
        self.problem = "" if found else "no NVIDIA GPU"
        return tuple(found)

    def _slices(self, card: Any) -> list[tuple[int, Any]]:
        """The MIG slices of a card, none where it is not split."""
        library = self._library
        mode = self._ask(library.nvmlDeviceGetMigMode, card)
        if not mode or mode[0] != 1:
            return []
        handles = [
            (i, self._ask(library.nvmlDeviceGetMigDeviceHandleByIndex, card, i))
            for i in range(self._ask(library.nvmlDeviceGetMaxMigDeviceCount, card) or 0)
        ]
        return [(i, h) for i, h in handles if h is not None]

    def _card(self, index: int, handle: Any, place: int | None = None, card: Any = None) -> Gpu:
        """A card, or the slice `handle` of `card`: temperature and power are the whole card's."""
        library, whole = self._library, handle if card is None else card
        memory = self._ask(library.nvmlDeviceGetMemoryInfo, handle)
        rates = self._ask(library.nvmlDeviceGetUtilizationRates, handle)
        power = self._ask(library.nvmlDeviceGetPowerUsage, whole)
        limit = self._ask(library.nvmlDeviceGetEnforcedPowerLimit, whole)
        return Gpu(
            index=index,
            name=_text(self._ask(library.nvmlDeviceGetName, handle)) or "GPU",
            used=_whole(getattr(memory, "used", None)),
            total=_whole(getattr(memory, "total", None)),
            utilisation=_whole(getattr(rates, "gpu", None)),
            temperature=_whole(self._ask(library.nvmlDeviceGetTemperature, whole, 0)),
            power=None if power is None else power / 1000,
            power_limit=None if limit is None else limit / 1000,
            processes=self._processes(handle),
            slice=place,
        )

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        """Who has memory here, the largest first. A process that computes and draws is listed twice by NVML."""
        library, found = self._library, {}
        for ask in (library.nvmlDeviceGetComputeRunningProcesses, library.nvmlDeviceGetGraphicsRunningProcesses):
            for process in self._ask(ask, handle) or ():
                found[process.pid] = GpuProcess(process.pid, _name(process.pid), _whole(process.usedGpuMemory))
        return tuple(sorted(found.values(), key=lambda p: (-(p.bytes or 0), p.pid)))

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None where there is none."""
        try:
            return question(*arguments)
        except Exception:
            return None


def words(error: Exception) -> str:
    """What an error of NVML means for the user."""
    return WORDS.get(type(error).__name__, f"NVML: {error}")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _whole(value: Any) -> int | None:
    """A number of NVML; "not available" is 2^64 - 1 there."""
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def _name(pid: int) -> str:
    """What a process is called; "" where it cannot be seen from here (another container's)."""
    import psutil

    try:
        return psutil.Process(pid).name()
    except (psutil.Error, ValueError):
        return ""
