"""Base and adapters measured: the matrix, the rows behind each of its figures, one row in full; starting an evaluation.

Comes from: the documents that the engine's `eval` wrote (`models.evaluation`), read in threads; the event logs of
evaluations that are going on. Goes to: `commands.evaluation`, which starts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message
from textual.widgets import ContentSwitcher, Static

from engine.text import cut, one_line
from workbench import actions
from workbench.commands.evaluation import evaluation as jobs
from workbench.editors.levels import LevelsView
from workbench.models import evaluated_rows
from workbench.models import evaluation as ev
from workbench.models.evaluated_rows import Document, Pair
from workbench.models.evaluation import Line, Source
from workbench.models.workspace import ProjectInfo
from workbench.widgets import eval_shown as shown
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.job_line import JobLine
from workbench.widgets.scrolled_text import ScrolledText
from workbench.widgets.sortable_table import SortableTable

EMPTY = "Nothing was measured yet: e measures base and adapters on the same rows."


class RowText(ScrolledText):
    """One row in full."""

    SCOPES: ClassVar = ("eval-row",)
    BINDINGS: ClassVar = actions.bindings("eval-row")


class EvalView(Finding, LevelsView):
    """Four levels: matrix, history, rows, row. Enter goes deeper, Escape back."""

    HELP = (
        "Perplexity and exact match of base and adapters on the same rows, with 95 % intervals and tests against base. "
        "Enter shows the rows behind a figure, Enter again one row in full; Escape goes back. w sorts the worst rows "
        "first, + the largest gains against base, - the largest losses; f keeps wrong, gained or lost answers; ctrl+f "
        "finds in the rows' texts. e starts an evaluation, which goes on without the workbench; v shows the earlier ones."
    )
    SCOPES: ClassVar = ("eval",)
    BINDINGS: ClassVar = actions.bindings("eval")
    DEFAULT_CSS = """
    EvalView { layout: vertical; }
    EvalView > #title { height: 1; padding: 0 1; color: $text-muted; }
    EvalView > ContentSwitcher { height: 1fr; width: 1fr; }
    EvalView > #words { height: auto; max-height: 4; padding: 0 1; border-top: solid $panel-lighten-2; }
    """

    FIRST = "matrix"

    class Loaded(Message):
        """A document has been read with all its rows, or cannot be."""

        def __init__(self, line: Line, document: Document | None, problem: str = "") -> None:
            super().__init__()
            self.line, self.document, self.problem = line, document, problem

    class Found(Message):
        """Where a text was found."""

        def __init__(self, text: str, places: list[int]) -> None:
            super().__init__()
            self.text, self.places = text, places

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._known: dict[Path, Any] = {}
        self._sources: list[Source] = []
        self._read = False
        self._only: Path | None = None
        self._lines: list[Line] = []
        self._document: Document | None = None
        self._line: Line | None = None
        self._order, self._kept = "worst", ""
        self._pairs: list[Pair] = []
        self._places: list[int] = []

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield JobLine("eval", self.target, "s stops it")
        with ContentSwitcher(initial="matrix"):
            yield SortableTable(id="matrix", empty="reading…")
            yield SortableTable(id="history")
            yield SortableTable(id="rows", empty="no such rows")
            yield RowText(id="row")
        yield Static(id="words", markup=False)
        yield FindBar()

    def on_mount(self) -> None:
        self.heading = f"eval {self.target}"
        self.find_bar.target = self
        self.follow_results()

    # --- reading

    def key_of(self, project: ProjectInfo) -> object:
        return [(r.label, r.measured) for r in project.runs], [(j.label, j.state) for j in project.jobs]

    def read_results(self) -> Iterator[list[Source]]:
        yield ev.scan(self.app.root / "projects" / self.target, self._known)

    def show_results(self, found: list[Source]) -> None:
        first, self._read = not self._read, True
        if found != self._sources or first:
            self._sources = found
            if self._only not in [s.path for s in self._sources]:
                self._only = None
            self.show_sorted()
            self._show_history()

    def on_resize(self) -> None:
        self._title()

    def on_job_line_ended(self, event: JobLine.Ended) -> None:
        event.stop()
        self.scan()
        if event.state == "done":
            self.query_one(JobLine).dismiss()
            self.app.notify(f"Measured: {event.label}", timeout=4, markup=False)

    # --- levels

    def _go(self, level: str, *, focus: bool = True) -> None:
        self.query_one(ContentSwitcher).current = level
        self.query_one(JobLine).set_class(level in ("rows", "row"), "-aside")
        if level != "rows" and self.find_bar.shown:
            self.find_bar.end()
        self._title()
        self._words()
        if focus:
            self.focus_first()

    def act_eval_back(self) -> None:
        line = self.query_one(JobLine)
        if self.level == "matrix" and line.label:
            line.dismiss()
        elif self.level == "row":
            self._go("rows")
        elif self.level != "matrix":
            self._go("matrix")
        elif self._only is not None:
            self._only = None
            self.show_sorted()

    def act_eval_history(self) -> None:
        self._go("matrix" if self.level == "history" else "history")

    # --- the matrix

    def show_sorted(self) -> None:
        table = self.query_one("#matrix", SortableTable)
        before = self.under_cursor("matrix", self._lines)
        lines = ev.matrix(self._sources, self._only)
        self._lines = shown.sorted_lines(lines, self._sort, self._descending)
        table.empty = EMPTY if self._read else "reading…"
        keys = [x.key for x in self._lines]
        cursor = keys.index(before.key) if before is not None and before.key in keys else 0
        lines = self._lines
        table.show(
            shown.MATRIX, len(lines), lambda at: shown.matrix_cells(lines[at]), cursor=cursor,
            sorted_by=self._sort, descending=self._descending,
        )  # fmt: skip
        self._title()
        self._words()

    def _source(self, line: Line) -> Source | None:
        return next((s for s in self._sources if s.path == line.source), None)

    def _show_history(self) -> None:
        sources, root = self._sources, self.app.root
        table = self.query_one("#history", SortableTable)
        table.empty = EMPTY
        table.show(shown.HISTORY, len(sources), lambda at: shown.history_cells(sources[at], root))

    def _title(self) -> None:
        level, line = self.level, self._line
        if level in ("matrix", "history"):
            only = next((s for s in self._sources if s.path == self._only), None)
            count = len(self._sources)
            if level == "history":
                text = f"{count:,} evaluations, the newest first; Enter shows one alone"
            elif only is not None:
                text = f"Only {shown.summary(only)} (Escape: all)"
            elif count == 1:
                text = shown.summary(self._sources[0])
            else:
                text = f"Every model as newly measured, from {count:,} evaluations (v lists them)" if count else ""
        else:
            assert line is not None
            at = self.query_one("#rows", SortableTable).cursor
            place = f"{at + 1:,} of " if self._pairs and level == "row" else ""
            text = f": {place}{len(self._pairs):,} {evaluated_rows.FILTERS[self._kept]}, {evaluated_rows.ORDERS[self._order]}"
            head = f"{line.row.model} on {ev.SPLIT_WORDS.get(line.row.split, line.row.split)}, {line.row.scope}"
            text = cut(one_line(head), max(8, self.size.width - 2 - len(text))) + text
        self.query_one("#title", Static).update(Content(cut(one_line(text), max(8, self.size.width - 2))))

    def _words(self) -> None:
        words = self.query_one("#words", Static)
        said: Content | None = None
        if self.level == "matrix":
            line = self.under_cursor("matrix", self._lines)
            if line is not None:
                said = shown.sentence(line)
                self.inspected = shown.facts(line, self._source(line))
                self.told = ""
        elif self.level == "rows":
            pair = self.under_cursor("rows", self._pairs)
            if pair is not None:
                said = shown.preview(pair)
                self.told = f"row {self.query_one('#rows', SortableTable).cursor + 1:,}/{len(self._pairs):,}"
        words.display = said is not None
        words.update(said or Content(""))

    # --- rows

    def on_sortable_table_chosen(self, event: SortableTable.Chosen) -> None:
        event.stop()
        if event.table.id == "matrix":
            line = self.under_cursor("matrix", self._lines)
            if line is not None:
                self._open(line)
        elif event.table.id == "history":
            source = self.under_cursor("history", self._sources)
            if source is not None and not source.problem:
                self._only = source.path
                self.show_sorted()
                self._go("matrix")
        elif self._pairs:
            self._show_row()

    def on_sortable_table_moved(self, event: SortableTable.Moved) -> None:
        event.stop()
        if event.table.id == self.level:
            self._words()

    def on_sortable_table_sort_wanted(self, event: SortableTable.SortWanted) -> None:
        event.stop()
        if event.table.id == "matrix":
            self.sort_by(event.key)
        elif event.table.id == "rows":
            orders = {"change": "gain" if self._order != "gain" else "loss", "at": "file"}
            self._arrange(order=orders.get(event.key, "worst"))

    def _open(self, line: Line) -> None:
        """Show the rows of a line, read in a thread where they are not there."""
        if self._document is not None and self._document.path == line.source:
            self._rows(line)
            return
        self.query_one("#title", Static).update(Content("reading the rows…"))

        def read() -> None:
            try:
                self.post_message(self.Loaded(line, evaluated_rows.load(line.source)))
            except LookupError as error:
                self.post_message(self.Loaded(line, None, str(error)))

        self.run_worker(read, thread=True, exit_on_error=False, group="load", exclusive=True)

    def on_eval_view_loaded(self, event: Loaded) -> None:
        event.stop()
        if event.document is None:
            self._title()
            self.app.show_error(LookupError(event.problem))
            return
        self._document = event.document
        self._rows(event.line)

    def _rows(self, line: Line) -> None:
        if self._line is None or line.key != self._line.key:
            self._order, self._kept = "worst", ""
        self._line = line
        self._arrange()
        self._go("rows")

    def _arrange(self, order: str | None = None, kept: str | None = None) -> None:
        """Bring the rows into order; the cursor goes to the first one."""
        line = self._line
        if self._document is None or line is None:
            return
        self._order = order if order is not None else self._order
        self._kept = kept if kept is not None else self._kept
        scope, compared = line.row.scope, line.row.model != ev.BASE
        pairs = evaluated_rows.arranged(
            self._document.rows(line.row.model, line.row.split), scope, self._order, self._kept
        )
        self._pairs = pairs
        sorted_by = {"worst": "mean", "gain": "change", "loss": "change", "file": "at"}[self._order]
        self.query_one("#rows", SortableTable).show(
            shown.rows_columns(scope, compared), len(pairs), lambda at: shown.row_cells(pairs[at], scope, compared),
            cursor=0, sorted_by=sorted_by, descending=self._order in ("worst", "loss"),
        )  # fmt: skip
        self._title()
        self._words()
        self.find_bar.again()

    def act_eval_worst(self) -> None:
        self._arrange(order="worst")

    def act_eval_gain(self) -> None:
        self._arrange(order="gain")

    def act_eval_loss(self) -> None:
        self._arrange(order="loss")

    def act_eval_filter(self) -> None:
        names = list(evaluated_rows.FILTERS)
        self._arrange(kept=names[(names.index(self._kept) + 1) % len(names)])

    def act_eval_sort(self) -> None:
        if self.level == "matrix":
            self.sort_by_next(["", *(c.key for c in shown.MATRIX)])
        elif self.level == "rows":
            names = list(evaluated_rows.ORDERS)
            self._arrange(order=names[(names.index(self._order) + 1) % len(names)])

    def act_eval_reverse(self) -> None:
        if self.level == "matrix" and self._sort:
            self.sort_by(self._sort)

    # --- one row

    def _show_row(self) -> None:
        pair = self.under_cursor("rows", self._pairs)
        if pair is None or self._document is None or self._line is None:
            return
        text = shown.row_in_full(self._document, pair, self._line.row.split, self.size.width - 4, self.app.ascii)
        self.query_one(RowText).put(text)
        self.query_one(RowText).scroll_home(animate=False)
        self._go("row")

    def act_eval_next(self) -> None:
        self._step(1)

    def act_eval_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        table = self.query_one("#rows", SortableTable)
        table.show_row(table.cursor + by)
        self._show_row()

    async def act_app_copy(self) -> None:
        """The row that is shown, or the words about the figure."""
        from workbench.commands.system import SystemCommands

        chosen = self.app.screen.get_selected_text()
        name = "RowText > Static" if self.level == "row" else "#words"
        text = chosen or str(self.query_one(name, Static).content)
        await next(c for c in self.app.commands if isinstance(c, SystemCommands)).copy(text)

    # --- finding (`FindTarget`)

    def may_edit_find(self) -> bool:
        return self.level == "rows"

    def matches(self, text: str, case: bool) -> int | None:
        self._places = []
        self.query_one("#rows", SortableTable).mark([])
        if not text:
            return 0
        pairs = self._pairs
        self.run_worker(
            lambda: self.post_message(self.Found(text, evaluated_rows.containing(pairs, text, case))), thread=True,
            exit_on_error=False, group="find", exclusive=True,
        )  # fmt: skip
        return None

    def on_eval_view_found(self, event: Found) -> None:
        event.stop()
        if event.text == self.find_bar.wanted and self.find_bar.shown:
            self._places = event.places
            self.query_one("#rows", SortableTable).mark(event.places)
            self.find_bar.tell(len(event.places))

    def nearest(self) -> int:
        cursor = self.query_one("#rows", SortableTable).cursor
        return next((n for n, at in enumerate(self._places) if at >= cursor), 0)

    def go(self, number: int) -> None:
        if 0 <= number < len(self._places):
            self.query_one("#rows", SortableTable).show_row(self._places[number])

    def on_find_bar_closed(self, event: FindBar.Closed) -> None:
        event.stop()
        self.focus_first()

    # --- evaluating

    async def act_eval_again(self) -> None:
        await jobs(self.app).evaluate(self.target)

    async def act_eval_start(self) -> None:
        await jobs(self.app).evaluate(self.target)

    def may_eval_stop(self) -> bool:
        return self.query_one(JobLine).state == "running"

    async def act_eval_stop(self) -> None:
        await jobs(self.app).stop(self.query_one(JobLine).label)
