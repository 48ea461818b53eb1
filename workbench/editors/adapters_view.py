"""The adapters of a project, or of all: what they are, what was measured of them, how they differ, what they were merged
into, and how true the merged models are.

Comes from: `models.adapters`, read in threads; the event logs of merges that are going on. Goes to:
`commands.evaluation` (evaluating, merging), `commands.runs` (deleting), `jobs.detach` (export).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import ContentSwitcher, Static

from engine.text import one_line, size
from workbench import actions
from workbench.commands.evaluation import evaluation as jobs
from workbench.editors.levels import LevelsView
from workbench.models import adapters as model
from workbench.models.adapters import Entry, Merged
from workbench.models.workspace import ProjectInfo
from workbench.widgets import adapter_shown as shown
from workbench.widgets.job_line import JobLine
from workbench.widgets.scrolled_text import ScrolledText
from workbench.widgets.sortable_table import SortableTable

INSPECTOR_WIDTH = 36

Found = tuple[list[Entry], list[Merged]]


class AdaptersView(LevelsView):
    """Levels: list, details of one, settings that differ, merged models, the report of one."""

    HELP = (
        "The adapters of all runs with their rank, size and the newest measurement on unseen rows. Enter shows one in "
        "full. m marks; c compares the settings of the marked ones, M merges them, e evaluates them: without marks, the "
        "one under the cursor. v lists merged models with their verification. E copies the adapter's folder elsewhere, "
        "y copies its path, d moves its run to .trash."
    )
    SCOPES: ClassVar = ("adapters",)
    BINDINGS: ClassVar = actions.bindings("adapters")
    DEFAULT_CSS = """
    AdaptersView { layout: vertical; }
    AdaptersView > #title { height: 1; padding: 0 1; color: $text-muted; }
    AdaptersView > ContentSwitcher { height: 1fr; width: 1fr; }
    """

    FIRST = "list"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._known: dict[Path, Any] = {}
        self._read: list[Entry] = []
        self._entries: list[Entry] = []
        self._merged: list[Merged] = []
        self._marked: set[str] = set()
        self._compared: list[Entry] = []

    def compose(self) -> ComposeResult:
        yield Static(id="title", markup=False)
        yield JobLine("merge", self.target, "s stops it")
        with ContentSwitcher(initial="list"):
            yield SortableTable(id="list", empty="reading…")
            yield ScrolledText(id="details")
            yield ScrolledText(id="compare")
            yield SortableTable(id="merged", empty="Nothing was merged yet: M merges the adapter under the cursor.")
            yield ScrolledText(id="report")

    def on_mount(self) -> None:
        self.heading = f"adapters {self.target}".strip()
        self.follow_results()

    # --- reading

    def key_of(self, project: ProjectInfo) -> object:
        runs = [(r.label, r.measured, r.adapter, r.state) for r in project.runs]
        return runs, [(j.label, j.state) for j in project.jobs]

    def read_results(self) -> Iterator[Found]:
        root, project, known = self.app.root, self.target, self._known
        yield model.scan(root, project, known), model.merged(root, project)
        yield model.scan(root, project, known, digest=True), model.merged(root, project)

    def show_results(self, found: Found) -> None:
        if found != (self._read, self._merged) or not self._read:
            self._read, self._merged = found
            self._marked &= {e.label for e in self._read}
            self.show_sorted()

    def on_job_line_ended(self, event: JobLine.Ended) -> None:
        event.stop()
        self.scan()
        if event.state == "done":
            self.query_one(JobLine).dismiss()
            if self.level in ("list", "merged"):
                self._go("merged")
                self.query_one("#merged", SortableTable).show_row(0)
            self.app.notify(f"Merged and written: {event.label}", timeout=4, markup=False)

    # --- what is shown

    def show_sorted(self) -> None:
        table = self.query_one("#list", SortableTable)
        before = self.entry
        entries = self._entries = shown.sorted_entries(self._read, self._sort, self._descending)
        where = f"project {self.target} has" if self.target else "this workspace has"
        table.empty = f"{where} no adapter yet: F5 trains one"
        labels = [e.label for e in entries]
        table.show(
            shown.LIST, len(entries),
            lambda at: shown.list_cells(entries[at], entries[at].label in self._marked, self.app.ascii, time.time()),
            cursor=labels.index(before.label) if before is not None and before.label in labels else 0,
            sorted_by=self._sort, descending=self._descending,
        )  # fmt: skip
        merged, root = self._merged, self.app.root
        self.query_one("#merged", SortableTable).show(
            shown.MERGED, len(merged), lambda at: shown.merged_cells(merged[at], root)
        )
        self._title()
        self._words()

    @property
    def entry(self) -> Entry | None:
        """The adapter under the cursor."""
        return self.under_cursor("list", self._entries)

    @property
    def chosen(self) -> list[Entry]:
        """The marked ones, else the one under the cursor."""
        marked = [e for e in self._entries if e.label in self._marked]
        return marked or ([self.entry] if self.entry is not None else [])

    def _go(self, level: str) -> None:
        self.query_one(ContentSwitcher).current = level
        self._title()
        self._words()
        if self.has_focus_within or self.app.focused is None:
            self.focus_first()

    def reveal(self, place: Any) -> None:
        """ "merged", or a run's label."""
        if place == "merged":
            self._go("merged")
        else:
            for at, entry in enumerate(self._entries):
                if entry.label == place:
                    self._go("list")
                    self.query_one("#list", SortableTable).show_row(at)

    def _title(self) -> None:
        level = self.level
        count = f"{len(self._entries):,} adapter{'' if len(self._entries) == 1 else 's'}"
        merged = f"{len(self._merged):,} merged model{'' if len(self._merged) == 1 else 's'}"
        marked = f", {len(self._marked)} marked" if self._marked else ""
        if level == "list":
            text = f"{count}{marked}; {merged} (v)"
        elif level == "compare":
            text = f"Settings in which {len(self._compared)} adapters differ (Escape: back)"
        elif level == "merged":
            text = f"{merged}: Enter shows what was proved (Escape: the adapters)"
        else:
            text = "Escape: back"
        self.query_one("#title", Static).update(Content(text))

    def _words(self) -> None:
        if self.level == "merged":
            made = self.under_cursor("merged", self._merged)
            self.inspected = shown.report_text(made, INSPECTOR_WIDTH) if made is not None else None
        elif self.level in ("list", "details"):
            self.inspected = shown.details(self.entry, self.app.root) if self.entry is not None else None
            if self.level == "details" and self.entry is not None:
                self.query_one("#details", ScrolledText).put(shown.details(self.entry, self.app.root))

    def on_sortable_table_moved(self, event: SortableTable.Moved) -> None:
        event.stop()
        if event.table.id == self.level:
            self._words()

    def on_sortable_table_chosen(self, event: SortableTable.Chosen) -> None:
        event.stop()
        if event.table.id == "list" and self.entry is not None:
            self._go("details")
        elif event.table.id == "merged" and self._merged:
            self._report()
            self._go("report")

    def on_sortable_table_sort_wanted(self, event: SortableTable.SortWanted) -> None:
        event.stop()
        if event.table.id == "list":
            self.sort_by(event.key if event.key in shown.SORTABLE else "")

    def _report(self) -> None:
        made = self.under_cursor("merged", self._merged)
        if made is not None:
            text = shown.report_text(made, max(20, self.size.width - 4))
            self.query_one("#report", ScrolledText).put(text)

    def on_resize(self) -> None:
        if self.level == "compare":
            self._compare()
        elif self.level == "report":
            self._report()

    def act_adapters_sort(self) -> None:
        self.sort_by_next(list(shown.SORTABLE))

    def act_adapters_reverse(self) -> None:
        if self._sort:
            self.sort_by(self._sort)

    def act_adapters_back(self) -> None:
        back = {"report": "merged", "list": "list"}.get(self.level, "list")
        if self.level == "list":
            self.query_one(JobLine).dismiss()
        self._go(back)

    def act_adapters_merged(self) -> None:
        self._go("list" if self.level == "merged" else "merged")

    # --- commands

    def act_adapters_mark(self) -> None:
        if self.level == "list" and self.entry is not None:
            self._marked ^= {self.entry.label}
            table = self.query_one("#list", SortableTable)
            table.action_move(1)
            table.refresh()
            self._title()

    def act_adapters_compare(self) -> None:
        chosen = self.chosen if len(self.chosen) > 1 else self._entries
        self._compared = [e for e in chosen if e.info is not None][:8]
        if len(self._compared) < 2:
            raise LookupError("there is only one adapter to compare")
        self._compare()
        self._go("compare")

    def _compare(self) -> None:
        entries, width = self._compared, max(20, self.size.width - 4)

        async def read() -> None:
            text = await asyncio.to_thread(shown.compared, entries, width)  # it reads their project files
            self.query_one("#compare", ScrolledText).put(text)

        self.run_worker(read, exit_on_error=False, group="compare", exclusive=True)

    def _same_project(self) -> tuple[str, tuple[str, ...]]:
        """The project that the chosen adapters belong to, and their labels.

        Raises:
            LookupError: there is none, or they are of several.
        """
        chosen = self.chosen
        projects = {e.project for e in chosen} or ({self.target} if self.target else set())
        if not projects:
            raise LookupError("there is no adapter yet: F5 trains one")
        if len(projects) > 1:
            raise LookupError("the marked adapters belong to several projects")
        return projects.pop(), tuple(e.label for e in chosen)

    async def act_adapters_merge_these(self) -> None:
        await jobs(self.app).merge(*self._same_project())

    async def act_adapters_merge(self) -> None:
        await jobs(self.app).merge(*self._same_project())

    async def act_adapters_evaluate(self) -> None:
        await jobs(self.app).evaluate(*self._same_project())

    async def act_eval_start(self) -> None:
        await jobs(self.app).evaluate(*self._same_project())

    def act_compare_open(self) -> None:
        """Base beside the marked adapters, or the one under the cursor."""
        project, labels = self._same_project()
        self.app.open(f"compare:{project}", place=tuple(labels))

    def act_adapters_run(self) -> None:
        if self.entry is not None:
            self.app.open(f"run:{self.entry.label}")

    async def act_adapters_delete(self) -> None:
        from workbench.commands.runs import runs

        if self.entry is not None:
            await runs(self.app).delete(self.entry.label)

    def may_adapters_stop(self) -> bool:
        return self.query_one(JobLine).state == "running"

    async def act_adapters_stop(self) -> None:
        await jobs(self.app).stop(self.query_one(JobLine).label)

    async def act_adapters_export(self) -> None:
        """Copy the folder of the adapter under the cursor."""
        from workbench.jobs import detach
        from workbench.modals.confirm import AskLine

        entry = self.entry
        if entry is None:
            raise LookupError("there is no adapter to export")
        about = f"Copy the adapter of {one_line(entry.label)} (PEFT layout) to which new folder?"
        start = str(Path.home() / entry.name)
        given = await self.app.push_screen_wait(
            AskLine(about, start, lambda text: None if text.strip() else "Name a folder.")
        )
        if given is None:
            return
        target = Path(given.strip()).expanduser()
        target = target if target.is_absolute() else self.app.root / target
        written = await asyncio.to_thread(detach.export, entry.path, target)
        self.app.notify(f"{size(written)} copied to {target}", title="Exported", markup=False)

    async def act_app_copy(self) -> None:
        """What is selected, else the path of what is under the cursor."""
        from workbench.commands.system import SystemCommands

        made = self.under_cursor("merged", self._merged)
        path = made.path if self.level in ("merged", "report") and made is not None else None
        if path is None and self.entry is not None:
            path = self.entry.path
        text = self.app.screen.get_selected_text() or (str(path) if path is not None else "")
        if not text:
            raise LookupError("there is nothing to copy")
        await next(c for c in self.app.commands if isinstance(c, SystemCommands)).copy(text)
