"""The machine in the inspector: memory of each GPU with its history, who else is on the card, heat and power; what the
running runs have taken. Comes from `machine_changed` and `run_changed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from engine.text import one_line, size
from workbench.models.machine import Gpu, Machine, amount, bar, fit, of_process, pair, spark, spread

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

PROCESSES = 5
"""Processes that are listed of each card."""


class MachineSection(Widget):
    """Lines about the machine, as wide as there is room; a click on a GPU shows that one in the status bar.

    Attributes:
        machine: the newest measurement.
    """

    DEFAULT_CSS = "MachineSection { height: auto; margin-bottom: 1; }"
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    machine: reactive[Machine] = reactive(Machine(), layout=True)
    own: reactive[tuple[tuple[str, int], ...]] = reactive((), layout=True)
    """Running runs of this workspace: label, bytes of the newest step."""

    def on_mount(self) -> None:
        self._places: list[int | None] = []
        self._followed: set[str] = set()
        self.app.machine_changed.subscribe(self, self.show)
        self.app.run_changed.subscribe(self, lambda label: self.count_runs())
        self.app.workspace_changed.subscribe(self, lambda snapshot: self.count_runs())
        self.machine = self.app.gauges.machine

    def show(self, machine: Machine) -> None:
        self.machine = machine
        self.count_runs()

    def count_runs(self) -> None:
        """Follow the running runs while the inspector is shown, and take over what their newest steps say."""
        shown = self.app.workbench.shown("inspector")
        wanted = {r.label for r in self.app.snapshot.runs if r.state == "running"} if shown else set()
        for label in wanted - self._followed:
            self.app.tails.watch(label)
        for label in self._followed - wanted:
            self.app.tails.unwatch(label)
        self._followed = wanted
        self.own = tuple(own_runs(self.app))

    def on_unmount(self) -> None:
        for label in self._followed:
            self.app.tails.unwatch(label)

    def render(self) -> Content:
        rows = lines(self.machine, self.own, self.size.width or 30, getattr(self.app, "ascii", False))
        self._places = [place for _, _, place in rows]
        return Content("\n").join(Content.styled(text, style) if style else Content(text) for text, style, _ in rows)

    def on_click(self, event: events.Click) -> None:
        place = self._places[event.y] if 0 <= event.y < len(self._places) else None
        if place is not None:
            self.app.gauges.choose(place)


Line = tuple[str, str, int | None]
"""Text, style, and the place of the GPU that it is about."""


def lines(machine: Machine, own: tuple[tuple[str, int], ...], width: int, ascii_only: bool = False) -> list[Line]:
    """What the section shows: each line at most `width` cells."""
    found: list[Line] = [("MACHINE", "bold $text-muted", None)]
    for place, gpu in enumerate(machine.gpus):
        mark = (">" if ascii_only else "▸") if place == machine.chosen and len(machine.gpus) > 1 else ""
        found += [(t, s, place) for t, s in _of_gpu(gpu, mark, width, ascii_only)]
    if machine == Machine():
        return [*found, ("measuring", "$text-muted", None)]
    if not machine.gpus:
        found.append((fit(f"No GPU: {machine.problem}" if machine.problem else "No GPU", width, ascii_only), "", None))
    found.append(_memory_line("RAM", machine.ram_used, machine.ram_total, width, ascii_only))
    if not machine.gpus and machine.ram_history:
        found.append((_history(machine.ram_history, width, ascii_only), "$text-accent", None))
    load = "n/a" if machine.cpu is None else f"{machine.cpu:.0f} %"
    found.append((fit(f"CPU  {load} of {machine.cores} cores", width, ascii_only), "", None))
    if own:
        what = "allocated at the peak, by torch" if machine.gpus else "resident"
        found.append(("", "", None))
        found.append((fit(f"Runs here ({what})", width, ascii_only), "$text-muted", None))
        for label, count in own:
            found.append((spread(one_line(label), size(count), width, ascii_only), "", None))
    return found


def _of_gpu(gpu: Gpu, mark: str, width: int, ascii_only: bool) -> list[tuple[str, str]]:
    head = f"{mark} {gpu.label}" if mark else gpu.label
    found = [
        (fit(f"{head}  {one_line(gpu.name)}", width, ascii_only), "bold"),
        _memory_line("VRAM", gpu.used, gpu.total, width, ascii_only)[:2],
    ]
    if gpu.history:
        found.append((_history(gpu.history, width, ascii_only), "$text-accent"))
    watts = (
        amount(gpu.power, "W")
        if gpu.power_limit is None
        else f"{amount(gpu.power, '').strip()}/{gpu.power_limit:.0f} W"
    )
    degrees = "C" if ascii_only else "°C"
    facts = [f"{amount(gpu.utilisation, '%')} busy", amount(gpu.temperature, degrees), watts]
    found.append((fit("  ".join(facts), width, ascii_only), ""))
    for process in gpu.processes[:PROCESSES]:
        found.append((of_process(process, width, ascii_only), "$text-muted"))
    more = len(gpu.processes) - PROCESSES
    if more > 0:
        found.append((f"and {more} more processes", "$text-muted"))
    return [*found, ("", "")]


def _memory_line(name: str, used: int | None, total: int | None, width: int, ascii_only: bool) -> Line:
    """ "RAM  ████░░░░  3.1/23.4 GB"; without the bar where there is no room."""
    words = pair(used, total)
    room = width - 5 - 2 - len(words)
    share = None if used is None or not total else used / total
    middle = f"{bar(share, room, ascii_only)}  " if room >= 4 else ""
    return fit(f"{name:<5}{middle}{words}", width, ascii_only), "", None


def _history(values: tuple[float, ...], width: int, ascii_only: bool) -> str:
    shown = min(len(values), max(1, width - 5))
    return "     " + spark(values, shown, ascii_only)


def own_runs(app: WorkbenchApp) -> list[tuple[str, int]]:
    """(label, bytes of the newest step) of the running runs that have made one."""
    found = []
    for run in app.snapshot.runs:
        model = app.runs.get(run.label) if run.state == "running" else None
        if model is not None and model.step is not None and model.step.memory_bytes:
            found.append((run.label, model.step.memory_bytes))
    return found
