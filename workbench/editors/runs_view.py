"""A project's runs compared: a table sortable by any column, curves of the marked ones in one chart, what differs in
their settings.

Comes from: `app.snapshot`, `jobs.results` (a thread worker), and `app.tails` for the marked runs.
"""

from __future__ import annotations

import functools
import time
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.timer import Timer
from textual.widgets import DataTable, Static

from engine.text import cells, cut, one_line, pad
from workbench import actions
from workbench.commands.runs import runs
from workbench.editors.base import Editor
from workbench.jobs.results import ResultReader
from workbench.models.outline import ASCII_MARKS, MARKS
from workbench.models.run_table import COLUMNS, RunResult, RunRow, differences, ordered
from workbench.models.workspace import Snapshot
from workbench.regions.tab_strip import Tab, TabStrip
from workbench.widgets.line_chart import LETTERS, Curve, LineChart

METRICS = {
    "loss": ("train loss", "nats/token"),
    "unseen": ("unseen loss", "nats/token"),
    "learning_rate": ("learning rate", ""),
    "gradient_norm": ("gradient norm", ""),
    "tokens_per_second": ("tokens/s", ""),
    "memory_bytes": ("memory", "B"),
}
MOST_MARKED = 8
MARKED_AT_FIRST = 4
REDRAW_SECONDS = 0.5
BESIDE_WIDTH = 110
"""Cells from which on curves and settings stand side by side."""


class RunsTable(DataTable[Text]):
    """The table; its cursor is a row."""

    BINDINGS: ClassVar = [
        Binding("j", "cursor_down", show=False), Binding("k", "cursor_up", show=False),
        Binding("g", "scroll_top", show=False), Binding("G", "scroll_bottom", show=False),
        Binding("h", "scroll_left", show=False), Binding("l", "scroll_right", show=False),
    ]  # fmt: skip


class RunsView(Editor):
    """The table above, curves and settings below."""

    HELP = (
        "Enter opens the run under the cursor. m marks it: the curves of marked runs are overlaid, told apart by letters, "
        "and the keys of their project files that differ are listed. o sorts by the next column, O turns the order round, "
        "a click on a heading sorts, too. n shows another curve, v the settings (where there is no room for both). "
        "space r x moves the run to the trash, space r c resumes it."
    )
    SCOPES: ClassVar = ("runs", "chart")
    BINDINGS: ClassVar = actions.bindings("runs")
    DEFAULT_CSS = """
    RunsView { layout: vertical; }
    RunsView RunsTable { height: auto; max-height: 45%; min-height: 3; width: 1fr; background: $background; }
    RunsView > Horizontal { height: 1fr; width: 1fr; padding: 0 1; }
    RunsView #settings { width: 2fr; height: 1fr; overflow-x: auto; }
    RunsView #settings Static { width: auto; height: auto; }
    RunsView LineChart { width: 3fr; height: 1fr; }
    RunsView.-beside LineChart { margin-right: 1; }
    """

    class Results(Message):
        """What the thread read."""

        def __init__(self, results: dict[str, RunResult]) -> None:
            super().__init__()
            self.results = results

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._results: dict[str, RunResult] = {}
        self._reader = ResultReader()
        self._marked: dict[str, bool] = {}
        self._sort, self._reverse = "run", True
        self._metric, self._page = "loss", "curves"
        self._shown: tuple = ()
        self._first = True
        self._timer: Timer | None = None
        self._drawn = 0.0

    def compose(self) -> ComposeResult:
        yield RunsTable(cursor_type="row", zebra_stripes=False)
        yield TabStrip(id="pages")
        with Horizontal():
            yield LineChart("train loss", "nats/token", "mark runs with m", ascii=self.app.ascii)
            with VerticalScroll(id="settings"):
                yield Static(id="differences", markup=False)

    def on_mount(self) -> None:
        self.heading = f"runs of {self.target}"
        self.app.workspace_changed.subscribe(self, self._changed)
        self.app.run_changed.subscribe(self, self._run_changed)
        self._lay_out()
        self._changed(self.app.snapshot)

    def on_unmount(self) -> None:
        for label in self._marked:
            self.app.tails.unwatch(label)

    def on_resize(self) -> None:
        self._lay_out()

    def focus_first(self) -> None:
        self.query_one(RunsTable).focus()

    # --- data

    @property
    def rows(self) -> list[RunRow]:
        """All runs, sorted."""
        project = self.app.snapshot.projects.get(self.target)
        found = [RunRow(i, self._results.get(i.label, RunResult())) for i in (project.runs if project else ())]
        return ordered(found, self._sort, self._reverse)

    def _changed(self, snapshot: Snapshot) -> None:
        project = snapshot.projects.get(self.target)
        folders = {r.label: r.path for r in project.runs} if project else {}
        for label in [m for m in self._marked if m not in folders]:
            self._unmark(label)
        if self._first and folders:
            self._first = False
            for info in [r for r in reversed(project.runs if project else ()) if r.step is not None][:MARKED_AT_FIRST]:
                self._mark(info.label)
        self._fill()
        self.run_worker(
            functools.partial(self._read, folders), thread=True, exclusive=True, exit_on_error=False, group="results"
        )

    def _read(self, folders: dict[str, Any]) -> None:
        self.post_message(self.Results(self._reader.read(folders)))

    def on_runs_view_results(self, event: RunsView.Results) -> None:
        event.stop()
        if event.results != self._results:
            self._results = event.results
            self._fill()
            self._settings()

    def _run_changed(self, label: str) -> None:
        if label in self._marked and self._timer is None:
            wait = max(0.01, REDRAW_SECONDS - (time.monotonic() - self._drawn))
            self._timer = self.set_timer(wait, self._curves)

    # --- the table

    def _fill(self) -> None:
        """Bring the table to the rows; the cursor stays on its run."""
        table, rows = self.query_one(RunsTable), self.rows
        letters = {label: LETTERS[i % len(LETTERS)] for i, label in enumerate(self._marked)}
        shown = (tuple(rows), tuple(letters.items()), self._sort, self._reverse, self.app.ascii)
        if shown == self._shown:
            return
        self._shown = shown
        chosen = self.chosen
        table.clear(columns=True)
        table.add_column(Text(""), key="mark")
        for key, column in COLUMNS.items():
            arrow = "" if key != self._sort else (" v" if self.app.ascii else " ↓") if self._reverse else (
                " ^" if self.app.ascii else " ↑")  # fmt: skip
            table.add_column(Text(column.title + arrow, justify="right" if column.right else "left"), key=key)
        marks = ASCII_MARKS if self.app.ascii else MARKS
        for row in rows:
            line = [Text(letters.get(row.info.label, " "), style="bold")]
            for key, column in COLUMNS.items():
                text = column.text(row)
                text = f"{marks.get(row.info.state, '?')} {text}" if key == "state" else text
                line.append(Text(text, justify="right" if column.right else "left"))
            table.add_row(*line, key=row.info.label)
        labels = [r.info.label for r in rows]
        if chosen in labels:
            table.move_cursor(row=labels.index(chosen), animate=False)
        self.told = f"{len(rows)} runs" if len(rows) != 1 else "1 run"

    @property
    def chosen(self) -> str | None:
        """The label of the run under the cursor."""
        table = self.query_one(RunsTable)
        if not table.row_count or not table.is_valid_row_index(table.cursor_row):
            return None
        return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)

    def _chosen(self) -> str:
        label = self.chosen
        if label is None:
            raise LookupError(f"project {self.target} has no runs yet: F5 starts one")
        return label

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.app.open(f"run:{event.row_key.value}")

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        event.stop()
        key = str(event.column_key.value)
        if key in COLUMNS:
            self._reverse = not self._reverse if key == self._sort else False
            self._sort = key
            self._fill()

    def act_runs_sort(self) -> None:
        names = list(COLUMNS)
        self._sort = names[(names.index(self._sort) + 1) % len(names)]
        self._fill()

    def act_runs_reverse(self) -> None:
        self._reverse = not self._reverse
        self._fill()

    # --- marks, curves, settings

    def _mark(self, label: str) -> None:
        self._marked[label] = True
        self.app.tails.watch(label)

    def _unmark(self, label: str) -> None:
        del self._marked[label]
        self.app.tails.unwatch(label)

    def act_runs_mark(self) -> None:
        label = self._chosen()
        if label in self._marked:
            self._unmark(label)
        elif len(self._marked) >= MOST_MARKED:
            raise LookupError(f"{MOST_MARKED} runs are marked: unmark one first")
        else:
            self._mark(label)
        self._fill()
        self._curves()
        self._settings()

    def act_runs_metric(self) -> None:
        self._next_metric(1)

    def act_runs_previous_metric(self) -> None:
        self._next_metric(-1)

    def _next_metric(self, by: int) -> None:
        names = list(METRICS)
        self._metric = names[(names.index(self._metric) + by) % len(names)]
        self._curves()

    def _curves(self) -> None:
        self._timer, self._drawn = None, time.monotonic()
        chart = self.query_one(LineChart)
        chart.heading, chart.unit = METRICS[self._metric]
        chart.placeholder = "no points" if self._marked else "mark runs with m"
        models = [(label, self.app.tails.model(label)) for label in self._marked]
        chart.show([Curve(m.curves[self._metric], label.split("/")[1], m.lock) for label, m in models if m is not None])

    def _settings(self) -> None:
        """The keys that differ, a column a run."""
        chosen = {label: self._results[label].settings for label in self._marked if label in self._results}
        text = self.query_one("#differences", Static)
        if len(chosen) < 2:
            text.update(Content.styled("Mark two runs (m) to see what differs in their settings.", "$text-muted"))
            return
        found = differences(chosen)
        heads = [f"{LETTERS[i % len(LETTERS)]} {one_line(label.split('/')[1])}" for i, label in enumerate(chosen)]
        if not found:
            text.update(Content("The settings of the marked runs are the same."))
            return
        rows = [("", heads), *found]
        first = max(cells(key) for key, _ in rows)
        widths = [min(24, max(cells(values[i]) for _, values in rows)) for i in range(len(heads))]
        lines = []
        for number, (key, values) in enumerate(rows):
            line = "  ".join(
                [pad(one_line(key), first), *(pad(cut(v, w), w) for v, w in zip(values, widths, strict=True))]
            )
            lines.append(Content.styled(line, "bold") if not number else Content(line))
        text.update(Content("\n").join(lines))

    # --- pages

    def _lay_out(self) -> None:
        beside = self.size.width >= BESIDE_WIDTH
        self.set_class(beside, "-beside")
        strip = self.query_one(TabStrip)
        strip.display = not beside
        strip.tabs = (Tab("curves", "Curves"), Tab("settings", "Settings that differ"))
        strip.front = self._page
        self.query_one(LineChart).display = beside or self._page == "curves"
        self.query_one("#settings").display = beside or self._page == "settings"

    def on_tab_strip_chosen(self, event: TabStrip.Chosen) -> None:
        event.stop()
        self._page = event.key
        self._lay_out()

    def may_runs_page(self) -> bool:
        return not self.has_class("-beside")

    def act_runs_page(self) -> None:
        self._page = "settings" if self._page == "curves" else "curves"
        self._lay_out()

    # --- the run under the cursor

    async def act_run_stop(self) -> None:
        await runs(self.app).stop(self._chosen())

    async def act_run_resume(self) -> None:
        await runs(self.app).resume(self._chosen())

    async def act_run_delete(self) -> None:
        await runs(self.app).delete(self._chosen())
