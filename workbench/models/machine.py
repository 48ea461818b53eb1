"""The machine at one moment: GPUs, memory, load. Comes from `jobs.gauges`; goes to the status bar and the inspector.

What could not be read is None, and is shown as "n/a". Bytes are decimal in words (1 GB = 10^9), as everywhere here;
nvidia-smi's MiB are 2^20 bytes, so that its 81559MiB are 85.5 GB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from engine.text import cut, one_line, pad, size

NOT_KNOWN = "n/a"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that has memory on a GPU; `bytes` None where the driver does not tell."""

    pid: int
    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG slice of it.

    Attributes:
        index: of NVML, which counts all cards; slice: of the MIG slice, None for a whole card.
        used, total: bytes of its memory, by all processes together.
        utilisation: share of the last second in which a kernel ran, percent.
        temperature: degrees Celsius. power, power_limit: watts.
        history: used memory as a share of all (0 to 1), oldest first, one a second.
    """

    index: int
    name: str
    used: int | None = None
    total: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    power: float | None = None
    power_limit: float | None = None
    processes: tuple[GpuProcess, ...] = ()
    slice: int | None = None
    history: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """ "GPU 0", or "GPU 0 MIG 2"."""
        return f"GPU {self.index}" + ("" if self.slice is None else f" MIG {self.slice}")

    @property
    def share(self) -> float | None:
        """Used memory, 0 to 1."""
        return None if self.used is None or not self.total else min(1.0, self.used / self.total)

    @property
    def free(self) -> int | None:
        """Bytes that nobody uses."""
        return None if self.used is None or self.total is None else max(0, self.total - self.used)


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that is measured.

    Attributes:
        gpus: the cards that NVML sees, MIG slices in place of a card that is split; problem: why there are none.
        ram_used, ram_total: bytes; used is what no other process could have (total - available).
        cpu: load of all cores together, percent. ram_history: as `Gpu.history`.
        chosen: place in `gpus` of the one that the status bar shows.
    """

    gpus: tuple[Gpu, ...] = ()
    ram_used: int | None = None
    ram_total: int | None = None
    cpu: float | None = None
    cores: int = 0
    problem: str = ""
    chosen: int = 0
    ram_history: tuple[float, ...] = ()

    @property
    def gpu(self) -> Gpu | None:
        """The chosen GPU."""
        return self.gpus[min(self.chosen, len(self.gpus) - 1)] if self.gpus else None

    @property
    def short(self) -> str:
        """For the status bar: "VRAM 71.2/84.9 GB" of the chosen GPU, "CPU  RAM 3.1/23.4 GB" where there is none."""
        gpu = self.gpu
        if gpu is None:
            return f"CPU  RAM {pair(self.ram_used, self.ram_total)}"
        which = f"{gpu.label.removeprefix('GPU ')}: " if len(self.gpus) > 1 else ""
        return f"VRAM {which}{pair(gpu.used, gpu.total)}"

    @property
    def ram_free(self) -> int | None:
        return None if self.ram_used is None or self.ram_total is None else max(0, self.ram_total - self.ram_used)

    def visible(self) -> Machine:
        """As it is shown, rounded, without histories: two that are equal look the same."""
        gpus = tuple(
            replace(
                g,
                used=_coarse(g.used),
                power=None if g.power is None else round(g.power),
                processes=tuple(replace(p, bytes=_coarse(p.bytes)) for p in g.processes),
                history=(),
            )
            for g in self.gpus
        )
        cpu = None if self.cpu is None else round(self.cpu)
        return replace(self, gpus=gpus, ram_used=_coarse(self.ram_used), cpu=cpu, ram_history=())


def _coarse(count: int | None) -> int | None:
    """Bytes rounded to 0.1 GB."""
    return None if count is None else round(count / 1e8) * 10**8


def pair(used: int | None, total: int | None) -> str:
    """ "3.1/23.4 GB"; "n/a" for what is not known."""
    if used is None and total is None:
        return NOT_KNOWN
    whole = NOT_KNOWN if total is None else f"{total / 1e9:.1f} GB"
    return f"{NOT_KNOWN if used is None else f'{used / 1e9:.1f}'}/{whole}"


def amount(value: float | None, unit: str) -> str:
    """ "61 °C"; "n/a" for what is not known."""
    return NOT_KNOWN if value is None else f"{value:.0f} {unit}"


def fit(text: str, width: int, ascii_only: bool = False) -> str:
    """`text` in at most `width` cells, with a mark at the end where something is missing."""
    return cut(text, width, "~" if ascii_only else "…")


def spread(left: str, right: str, width: int, ascii_only: bool = False) -> str:
    """A line of at most `width` cells: one text at the left, cut where it must be, another at the right."""
    room = max(4, width - len(right) - 1)
    return f"{pad(fit(left, room, ascii_only), room)} {right}"


def of_process(process: GpuProcess, width: int, ascii_only: bool = False) -> str:
    """One line about a process on a GPU: its name, its number, its memory at the right."""
    name = f"{one_line(process.name) or '?'} ({process.pid})"
    return spread(name, NOT_KNOWN if process.bytes is None else size(process.bytes), width, ascii_only)


def spark(values: tuple[float, ...], width: int, ascii_only: bool = False) -> str:
    """Shares (0 to 1) as one line of at most `width` marks, the newest at the right."""
    marks = "_.-=+*%#" if ascii_only else "▁▂▃▄▅▆▇█"
    return "".join(marks[min(7, max(0, int(v * 8)))] for v in values[-width:]) if width > 0 else ""


def bar(share: float | None, width: int, ascii_only: bool = False) -> str:
    """A share (0 to 1) as a bar of `width` cells; empty where it is not known."""
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    filled = 0 if share is None else round(max(0.0, min(1.0, share)) * width)
    return full * filled + empty * (width - filled)
