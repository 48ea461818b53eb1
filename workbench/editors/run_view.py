"""A run: how far it is, its curves, its samples, its log, what happened. Live or over, it is read from its event log.

Comes from: `app.tails`, which follows the log in a thread, by `run_changed`. Commands go to `commands.runs`.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.content import Content
from textual.timer import Timer
from textual.widgets import ContentSwitcher, Static

from engine.text import duration
from workbench import actions
from workbench.commands.runs import runs
from workbench.editors.base import Editor
from workbench.models import log_text, run
from workbench.models.run import RunModel
from workbench.regions.tab_strip import Tab, TabStrip
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.find_log import FindLog
from workbench.widgets.run_charts import RunCharts
from workbench.widgets.run_header import facts, header
from workbench.widgets.samples_view import SamplesView

REDRAW_SECONDS = 0.3
PAGES = {"charts": "Charts", "samples": "Samples", "log": "Log", "happened": "What happened"}
KEYS = {"charts": "c", "samples": "s", "log": "o", "happened": "n"}


class RunView(Finding, Editor):
    """One of four pages below a header."""

    HELP = (
        "The run's state, numbers and what to do stand at the top. c shows the charts (m the next one, v all or one), "
        "s the samples, o the log, n what happened. ctrl+f finds in the log. shift+F5 stops the run after its step, "
        "space r c resumes it, space r x moves it to the trash. Closing this or the terminal leaves the run alone."
    )
    SCOPES: ClassVar = ("run", "chart", "samples")
    BINDINGS: ClassVar = actions.bindings("run")
    DEFAULT_CSS = """
    RunView { layout: vertical; }
    RunView > #header { height: auto; max-height: 8; padding: 0 1; }
    RunView > ContentSwitcher { height: 1fr; width: 1fr; padding: 0 1; }
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._model: RunModel | None = None
        self._stale = True
        self._whole = False
        self._drawn = 0.0
        self._timer: Timer | None = None
        self._written = {"log": 0, "happened": 0}
        self._sources: dict[str, Any] = {}
        self._titles: dict[str, str] = {}

    @property
    def label(self) -> str:
        return self.target

    def compose(self) -> ComposeResult:
        yield Static(id="header", markup=False)
        yield TabStrip(id="pages")
        with ContentSwitcher(initial="charts"):
            yield RunCharts(ascii=self.app.ascii, id="charts")

    def on_mount(self) -> None:
        self.heading = self.label
        self.app.tails.watch(self.label)
        self.app.run_changed.subscribe(self, self._changed)
        self.set_interval(1.0, self._tick)
        self._pages()
        self._update()
        self.call_after_refresh(self._rest)

    async def _rest(self) -> None:
        """The other pages, once the first one is on the screen."""
        pages = (
            SamplesView(id="samples"),
            FindLog(log_text.KEPT_LINES, id="log"),
            FindLog(run.KEPT_LINES, id="happened"),
        )
        for page in pages:
            page.display = False
        await self.query_one(ContentSwitcher).mount(*pages)
        await self.mount(FindBar())
        self._whole = True
        self._update()

    def on_unmount(self) -> None:
        self.app.tails.unwatch(self.label)

    # --- what is shown

    def _changed(self, label: str) -> None:
        if label == self.label:
            self._soon()

    def _soon(self) -> None:
        """Update now, or a moment after the last update."""
        self._stale = True
        if self._timer is None and self._visible:
            wait = REDRAW_SECONDS - (time.monotonic() - self._drawn)
            if wait <= 0:
                self._update()
            else:
                self._timer = self.set_timer(wait, self._update)

    @property
    def _visible(self) -> bool:
        return all(widget.display for widget in self.ancestors_with_self)

    def on_show(self) -> None:
        if self._stale:
            self._update()

    def on_resize(self) -> None:
        self._header()

    def _tick(self) -> None:
        """Time passes also where nothing is said."""
        model = self._model
        if self._visible and model is not None and model.state == "running":
            self._header()

    def _update(self) -> None:
        self._timer = None
        model = self.app.tails.model(self.label)
        if model is None or not self.is_mounted:
            return
        self._model, self._stale = model, False
        if model.count:  # the first word is shown at once
            self._drawn = time.monotonic()
        self._header()
        page = self.query_one(ContentSwitcher).current
        if page == "charts":
            self.query_one(RunCharts).show(model)
        if not self._whole:
            self._pages()
            return
        with model.lock:
            samples, lines = list(model.samples), list(model.lines)
        self.query_one(SamplesView).show(samples)
        new = self._new("happened", model, model.dropped + len(lines))
        self._add("happened", [self._happened(line) for line in lines[-new:]] if new else [])
        text = self.app.tails.text(self.label)
        if text is not None:
            new = self._new("log", text, text.total)
            self._add("log", text.since(text.total - new) if new else [])
        self._pages()

    def _header(self) -> None:
        model = self._model
        if model is None:
            return
        now = time.time()
        with model.lock:
            lines = header(model, max(20, self.size.width - 2), self.app.ascii, now)
            self.query_one("#header", Static).update(Content("\n").join(lines))
            self.inspected = facts(model)
            self.told = _told(model, now)

    def _new(self, page: str, source: object, total: int) -> int:
        """How many lines of `total` are not in a log yet; another `source` than before begins it anew."""
        if self._sources.get(page) is not source:
            self._sources[page], self._written[page] = source, 0
            log = self.query_one(f"#{page}", FindLog)
            log.clear()
            if isinstance(source, log_text.LogText) and source.skipped:
                log.add([f"(the first {source.skipped:,} bytes of log.txt are not shown)"])
        new, self._written[page] = total - self._written[page], total
        return max(0, new)

    def _add(self, page: str, lines: list[str]) -> None:
        if lines:
            self.query_one(f"#{page}", FindLog).add(lines)
            if self.query_one(ContentSwitcher).current == page:
                self.find_bar.again()

    def _happened(self, line: run.Line) -> str:
        mark = {"warning": "!", "error": "x" if self.app.ascii else "✗"}.get(line.level, " ")
        at = f"step {line.step:>6,}" if line.step is not None else " " * 11
        text = line.text.replace(f"{self.app.root}/", "")
        return f"{mark} {time.strftime('%H:%M:%S', time.localtime(line.t))}  {at}  {text}"

    def _pages(self) -> None:
        strip, model = self.query_one(TabStrip), self._model
        titles = dict(PAGES)
        if model is not None:
            titles["samples"] += f" {len(model.samples):,}" if model.samples else ""
            warnings = sum(line.level != "info" for line in model.lines)
            titles["happened"] += f" {warnings} !" if warnings else ""
        strip.tabs = tuple(Tab(key, f"{KEYS[key]} {title}") for key, title in titles.items())
        strip.front = self.query_one(ContentSwitcher).current or "charts"

    # --- pages

    def page(self, name: str) -> None:
        """Bring a page to the front, with the focus."""
        if not self._whole:
            self.call_after_refresh(self.page, name)
            return
        self.query_one(ContentSwitcher).current = name
        bar = self.find_bar
        bar.end()
        bar.target = self.query_one(f"#{name}", FindLog) if name in ("log", "happened") else None
        self._pages()
        self._update()
        if self.display:  # no other tab has come to the front meanwhile
            self.focus_first()

    def focus_first(self) -> None:
        page = self.query_one(ContentSwitcher).current or "charts"
        if page == "charts":
            self.query_one(RunCharts).focus_chosen()
        elif page == "samples":
            self.query_one("SamplesView VerticalScroll").focus()
        else:
            self.query_one(f"#{page}").focus()

    def reveal(self, place: Any) -> None:
        """A page's name, or a step: the cursor of the charts goes there."""
        if isinstance(place, str) and place in PAGES:
            self.page(place)
        elif isinstance(place, int | float):
            self.page("charts")
            self.query_one(RunCharts).put(place)

    def on_tab_strip_chosen(self, event: TabStrip.Chosen) -> None:
        event.stop()
        self.page(event.key)

    def on_find_bar_closed(self, event: FindBar.Closed) -> None:
        event.stop()
        self.focus_first()

    def act_edit_find(self) -> None:
        """Charts have no text: the log is searched from there."""
        if not self._whole:
            self.call_after_refresh(self.act_edit_find)
            return
        if self.find_bar.target is None:
            self.page("log")
        super().act_edit_find()

    def act_run_charts(self) -> None:
        self.page("charts")

    def act_run_samples(self) -> None:
        self.page("samples")

    def act_run_log(self) -> None:
        self.page("log")

    def act_run_happened(self) -> None:
        self.page("happened")

    def act_run_next_chart(self) -> None:
        self._chart(1)

    def act_run_previous_chart(self) -> None:
        self._chart(-1)

    def _chart(self, by: int) -> None:
        if self.query_one(ContentSwitcher).current != "charts":
            self.page("charts")
            return
        charts = self.query_one(RunCharts)
        charts.choose(by)
        self._update()

    def act_run_grid(self) -> None:
        if self.query_one(ContentSwitcher).current != "charts":
            self.page("charts")
        self.query_one(RunCharts).toggle_grid()
        self._update()

    # --- commands on this run

    @property
    def state(self) -> str:
        return self._model.state if self._model is not None else "empty"

    def act_compare_open(self) -> None:
        self.app.open(f"compare:{self.project}", place=self.label)

    async def act_run_stop(self) -> None:
        await runs(self.app).stop(self.label)

    async def act_run_resume(self) -> None:
        await runs(self.app).resume(self.label)

    async def act_run_delete(self) -> None:
        await runs(self.app).delete(self.label)


def _told(model: RunModel, now: float) -> str:
    """For the status bar."""
    if model.state != "running" or model.share is None:
        return model.state if model.state != "empty" else ""
    eta = model.eta(now)
    return f"{100 * model.share:.0f}%" + (f", {duration(eta)} left" if eta is not None else "")
