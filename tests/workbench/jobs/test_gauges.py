"""Gauges with a made-up NVML: what is read, what degrades, what is posted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.jobs import gauges as module
from workbench.jobs.gauges import Gauges
from workbench.jobs.messages import MachineChanged
from workbench.models.machine import GpuProcess

GB = 10**9


class NVMLError(Exception):
    """As pynvml raises; its subclasses are told apart by name."""


def error(name: str) -> NVMLError:
    return type(f"NVMLError_{name}", (NVMLError,), {})(name)


class FakeNvml:
    """The functions of pynvml that are asked; each can be made to fail by name.

    Attributes:
        cards: of each: used and total bytes, processes, MIG slices (used, total).
        failing: function's name -> what it raises.
    """

    def __init__(self, cards: list[dict[str, Any]]) -> None:
        self.cards, self.failing = cards, dict[str, Exception]()
        self.opened = self.closed = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any) -> Any:
            if name in self.failing:
                raise self.failing[name]
            return getattr(self, f"do_{name}")(*arguments)

        return ask

    def do_nvmlInit(self) -> None:  # noqa: N802
        self.opened += 1

    def do_nvmlShutdown(self) -> None:  # noqa: N802
        self.closed += 1

    def do_nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.cards)

    def do_nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return self.cards[index]

    def do_nvmlDeviceGetName(self, card: Any) -> Any:  # noqa: N802
        return card.get("name", b"NVIDIA H100")

    def do_nvmlDeviceGetMemoryInfo(self, card: Any) -> Any:  # noqa: N802
        return SimpleNamespace(used=card["used"], total=card["total"])

    def do_nvmlDeviceGetUtilizationRates(self, card: Any) -> Any:  # noqa: N802
        if "slice" in card:
            raise error("NotSupported")
        return SimpleNamespace(gpu=37, memory=12)

    def do_nvmlDeviceGetTemperature(self, card: Any, sensor: int) -> int:  # noqa: N802
        assert "slice" not in card, "asked of the card, not of its slice"
        return 61

    def do_nvmlDeviceGetPowerUsage(self, card: Any) -> int:  # noqa: N802
        assert "slice" not in card
        return 412_345

    def do_nvmlDeviceGetEnforcedPowerLimit(self, card: Any) -> int:  # noqa: N802
        return 700_000

    def do_nvmlDeviceGetMigMode(self, card: Any) -> list[int]:  # noqa: N802
        return [1, 1] if "slices" in card else [0, 0]

    def do_nvmlDeviceGetMaxMigDeviceCount(self, card: Any) -> int:  # noqa: N802
        return 7

    def do_nvmlDeviceGetMigDeviceHandleByIndex(self, card: Any, index: int) -> Any:  # noqa: N802
        if index not in card["slices"]:
            raise error("NotFound")
        return {"slice": index, **card["slices"][index]}

    def do_nvmlDeviceGetComputeRunningProcesses(self, card: Any) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in card.get("processes", {}).items()]

    def do_nvmlDeviceGetGraphicsRunningProcesses(self, card: Any) -> list[Any]:  # noqa: N802
        return []


Install = Callable[[list[dict[str, Any]]], FakeNvml]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def make(cards: list[dict[str, Any]]) -> FakeNvml:
        fake = FakeNvml(cards)
        monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return fake

    return make


def measured(posted: list[Any] | None = None) -> Gauges:
    return Gauges((posted if posted is not None else []).append)


# --- what is read


def test_a_card_is_read_whole(install: Install) -> None:
    import os

    install([{"used": 71_200_000_000, "total": 85 * GB, "processes": {os.getpid(): 2 * GB, 2**22 + 1: 30 * GB}}])
    machine = measured().measure()
    (gpu,) = machine.gpus
    assert (gpu.name, gpu.utilisation, gpu.temperature, gpu.power, gpu.power_limit) == (
        "NVIDIA H100",
        37,
        61,
        412.345,
        700,
    )
    assert [p.bytes for p in gpu.processes] == [30 * GB, 2 * GB]
    assert gpu.processes[0].name == ""  # not to be seen from here
    assert "python" in gpu.processes[1].name.lower() or gpu.processes[1].name
    assert gpu.free == 85 * GB - 71_200_000_000
    assert machine.short == "VRAM 71.2/85.0 GB"
    assert machine.problem == ""


@pytest.mark.parametrize(
    ("function", "gone"),
    [
        ("nvmlDeviceGetMemoryInfo", {"used": None, "total": None}),
        ("nvmlDeviceGetUtilizationRates", {"utilisation": None}),
        ("nvmlDeviceGetTemperature", {"temperature": None}),
        ("nvmlDeviceGetPowerUsage", {"power": None}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit": None}),
        ("nvmlDeviceGetComputeRunningProcesses", {"processes": ()}),
        ("nvmlDeviceGetName", {"name": "GPU"}),
        ("nvmlDeviceGetMigMode", {}),
    ],
)
@pytest.mark.parametrize("kind", ["NoPermission", "NotSupported", "Unknown"])
def test_what_cannot_be_read_is_left_out_alone(
    install: Install, function: str, gone: dict[str, Any], kind: str
) -> None:
    fake = install([{"used": GB, "total": 2 * GB, "processes": {2**22 + 1: GB}}])
    whole = measured().measure().gpus[0]
    fake.failing[function] = error(kind)
    (gpu,) = measured().measure().gpus
    for name in ("name", "used", "total", "utilisation", "temperature", "power", "power_limit", "processes"):
        assert getattr(gpu, name) == gone.get(name, getattr(whole, name)), name


def test_not_available_is_not_a_number(install: Install) -> None:
    install([{"used": 2**64 - 1, "total": None, "processes": {2**22 + 1: None}}])
    (gpu,) = measured().measure().gpus
    assert (gpu.used, gpu.total, gpu.share, gpu.free) == (None, None, None, None)
    assert gpu.processes == (GpuProcess(2**22 + 1, "", None),)
    assert measured().measure().short == "VRAM n/a"


def test_a_split_card_is_its_slices(install: Install) -> None:
    slices = {1: {"used": GB, "total": 10 * GB}, 4: {"used": 2 * GB, "total": 20 * GB}}
    install([{"used": 3 * GB, "total": 80 * GB, "slices": slices}])
    machine = measured().measure()
    assert [g.label for g in machine.gpus] == ["GPU 0 MIG 1", "GPU 0 MIG 4"]
    assert [(g.used, g.utilisation, g.temperature) for g in machine.gpus] == [(GB, None, 61), (2 * GB, None, 61)]
    assert machine.short == "VRAM 0 MIG 1: 1.0/10.0 GB"


def test_a_card_that_cannot_be_had_is_still_listed(install: Install) -> None:
    fake = install([{"used": GB, "total": 2 * GB}])
    fake.failing["nvmlDeviceGetHandleByIndex"] = error("GpuIsLost")
    machine = measured().measure()
    assert [g.name for g in machine.gpus] == ["cannot be read"]
    assert machine.short == "VRAM n/a"


# --- where there is no GPU


@pytest.mark.parametrize(
    ("kind", "words"),
    [("LibraryNotFound", "no NVIDIA driver"), ("NoPermission", "no permission"), ("Strange", "NVML: Strange")],
)
def test_without_a_driver_it_is_a_cpu(install: Install, kind: str, words: str) -> None:
    install([]).failing["nvmlInit"] = error(kind)
    machine = measured().measure()
    assert machine.gpus == ()
    assert words in machine.problem
    assert machine.short.startswith("CPU  RAM ")
    assert machine.short.endswith(" GB")
    assert machine.cores > 0


def test_without_the_library_it_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert measured().measure().short.startswith("CPU  RAM ")


def test_a_driver_with_no_card(install: Install) -> None:
    install([])
    assert measured().measure().problem == "no NVIDIA GPU"


def test_a_connection_that_is_lost_is_made_again_later(install: Install) -> None:
    fake = install([{"used": GB, "total": 2 * GB}])
    gauges = measured()
    assert gauges.measure().gpus
    fake.failing["nvmlDeviceGetCount"] = error("GpuIsLost")
    assert gauges.measure().gpus == ()
    assert (fake.opened, fake.closed) == (1, 1)
    del fake.failing["nvmlDeviceGetCount"]
    assert gauges.measure().gpus == ()  # not at once
    gauges._tried -= module.AGAIN_SECONDS
    assert gauges.measure().gpus
    assert fake.opened == 2


# --- the chosen one, histories, what is posted


def test_the_status_bar_shows_the_first_visible_or_the_chosen_card(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install([{"used": n * GB, "total": 80 * GB} for n in (1, 2, 3)])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    gauges = measured()
    assert gauges.measure().short == "VRAM 2: 3.0/80.0 GB"
    gauges.choose(1)
    assert gauges.measure().short == "VRAM 1: 2.0/80.0 GB"
    gauges.choose(99)
    assert gauges.measure().short == "VRAM 2: 3.0/80.0 GB"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f5c")
    assert measured().measure().short == "VRAM 0: 1.0/80.0 GB"


def test_a_history_holds_the_last_measurements(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install([{"used": 0, "total": 10 * GB}])
    monkeypatch.setattr(module, "KEPT", 3)
    gauges = measured()
    for used in (1, 2, 3, 4):
        fake.cards[0]["used"] = used * GB
        machine = gauges.measure()
    assert machine.gpus[0].history == (0.2, 0.3, 0.4)


def test_only_what_is_visibly_different_is_posted(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_host", lambda: (GB, 2 * GB, 0.0))
    fake = install([{"used": GB, "total": 80 * GB}])
    posted: list[Any] = []
    gauges = Gauges(posted.append, seconds=0.01)
    gauges.start()
    wait(lambda: posted)
    fake.cards[0]["used"] += 10**6  # less than is shown
    time.sleep(0.1)
    assert len(posted) == 1
    fake.cards[0]["used"] += 10**9
    wait(lambda: len(posted) == 2)
    gauges.stop()
    gauges._thread.join(2)
    assert not gauges._thread.is_alive()
    assert all(isinstance(m, MachineChanged) for m in posted)
    assert fake.closed == 1


def test_a_failure_ends_nothing(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install([])
    calls = []

    def host() -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("strange")
        return GB, 2 * GB, 5.0

    monkeypatch.setattr(module, "_host", host)
    posted: list[Any] = []
    gauges = Gauges(posted.append, seconds=0.01)
    gauges.start()
    wait(lambda: posted)
    gauges.stop()
    assert posted[0].machine.ram_used == GB


def test_a_container_has_its_own_memory(tmp_path: Path) -> None:
    assert module._container(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1500\n")
    assert module._container(tmp_path) is None
    (tmp_path / "memory.max").write_text("8000\n")
    assert module._container(tmp_path) == (3500, 8000)


def wait(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)
