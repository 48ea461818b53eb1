"""The Output list of the panel: what runs and jobs of this workspace say, the newest at the end; Enter opens the newest.

Comes from: the snapshot (which of them run) and `app.tails` (what their event logs say). Steps are not told here, they
are the run view's; the line at the foot says how far the newest one is.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from engine.text import cut, duration, one_line
from workbench.models.outline import ASCII_MARKS, MARKS
from workbench.models.run import Line, RunModel
from workbench.models.workspace import JobInfo, RunInfo, Snapshot
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.find_log import FindLog

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

MOST_LINES = 5000
FIRST_LINES = 200
"""Lines of what was said before it was followed."""
EMPTY = "What runs, evaluations and merges say comes here. F5 starts a training, space e r an evaluation."


class OutputView(Finding, Vertical):
    """Attributes: newest: the label of what spoke last."""

    HELP = (
        "What runs, evaluations and merges say, the newest at the end: stages, checkpoints, measurements, warnings, how "
        "they ended. Enter opens the one that spoke last; ctrl+f finds; G goes to the end and follows it again."
    )
    BINDINGS: ClassVar = [Binding("enter", "open", "Open", show=False)]
    DEFAULT_CSS = """
    OutputView { height: 1fr; width: 1fr; background: $surface; }
    OutputView FindLog { background: $surface; padding: 0 1; scrollbar-size: 1 1; }
    OutputView > #now { height: 1; padding: 0 1; display: none; color: $text-accent; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self) -> None:
        super().__init__()
        self.newest = ""
        self._written: dict[str, int] = {}
        self._ended: set[str] = set()
        self._empty = True

    def compose(self) -> ComposeResult:
        yield FindLog(MOST_LINES)
        yield Static(id="now", markup=False)
        yield FindBar()

    def on_mount(self) -> None:
        self.find_bar.target = self._log
        self._log.add([EMPTY])
        self.app.workspace_changed.subscribe(self, self._snapshot)
        self.app.run_changed.subscribe(self, self._changed)
        self.set_interval(1.0, self._now)
        self._snapshot(self.app.snapshot)

    def on_unmount(self) -> None:
        for label in self._written.keys() - self._ended:
            self.app.tails.unwatch(label)

    @property
    def _log(self) -> FindLog:
        return self.query_one(FindLog)

    @property
    def _visible(self) -> bool:
        return all(widget.display for widget in self.ancestors_with_self)

    # --- whom to listen to

    def _snapshot(self, snapshot: Snapshot) -> None:
        """Listen to what runs; where nothing does, to the newest of all."""
        everything: list[RunInfo | JobInfo] = [*snapshot.runs, *snapshot.jobs]
        wanted = [x.label for x in everything if x.state == "running"]
        if not wanted and not self._written and everything:
            wanted = [max(everything, key=lambda x: x.started or 0.0).label]
        for label in wanted:
            if label not in self._written:
                self._written[label] = 0
                self.app.tails.watch(label)
            elif label in self._ended:  # resumed
                self._ended.discard(label)
                self.app.tails.watch(label)

    def _changed(self, label: str) -> None:
        if label not in self._written or label in self._ended:
            return
        model = self.app.tails.model(label)
        if model is None or model.preview or not self._visible:
            return
        self._take(label, model)
        if model.gone or (model.state not in ("running", "empty") and model.reading >= 1.0):
            self._ended.add(label)
            self.app.tails.unwatch(label)

    def on_show(self) -> None:
        for label in list(self._written):
            self._changed(label)
        self._now()

    # --- what is shown

    def _take(self, label: str, model: RunModel) -> None:
        """Write what is new."""
        with model.lock:
            total = model.dropped + len(model.lines)
            before = self._written[label]
            if total < before:  # another log
                before = 0
            count = min(total - before, len(model.lines), MOST_LINES if before else FIRST_LINES)
            new = list(islice(model.lines, len(model.lines) - count, None))
        self._written[label] = total
        if not new:
            return
        self.newest = label
        if self._empty:
            self._empty = False
            self._log.clear()
        self._log.add([said(label, line) for line in new])
        self.find_bar.again()
        self._now()

    def _now(self) -> None:
        """How far the newest running one is."""
        if not self._visible:
            return
        running = [label for label in self._written if label not in self._ended]
        label = self.newest if self.newest in running else next(iter(running), "")
        model = self.app.tails.model(label) if label else None
        now = self.query_one("#now", Static)
        now.display = model is not None and model.state == "running"
        if model is not None and now.display:
            mark = (ASCII_MARKS if self.app.ascii else MARKS)["running"]
            text = f"{mark} {label}  {progress(model)}"
            now.update(Content(cut(one_line(text), max(20, self.size.width - 2))))

    def action_open(self) -> None:
        if not self.newest:
            return
        project = self.newest.split("/")[0]
        if "/jobs/" not in self.newest:
            self.app.open(f"run:{self.newest}")
            return
        job = next((j for j in self.app.snapshot.jobs if j.label == self.newest), None)
        if job is not None and job.verb == "merge":
            self.app.open(f"adapters:{project}", place="merged")
        else:
            self.app.open(f"eval:{project}")


def said(label: str, line: Line) -> str:
    """ "18:32:05  starter/0007  checkpoint written"; warnings and failures say in words that they are."""
    return f"{time.strftime('%H:%M:%S', time.localtime(line.t))}  {one_line(label)}  {line.text}"


def progress(model: RunModel) -> str:
    """How far it is, in words."""
    now = time.time()
    if model.stage is not None:
        return model.stage.progress(now)
    if model.step is not None:
        eta = model.eta(now)
        left = f", {duration(eta)} left" if eta is not None else ""
        return f"step {model.step.step:,} of {model.step.steps:,}, loss {model.step.loss:.3f}{left}"
    return f"for {duration(model.elapsed(now) or 0.0)}"
