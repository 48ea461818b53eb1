"""A project's data: rows as they lie there, as the model will see them, what became of all, how long they are.

One section fills a small terminal; where there is room the row stands below or beside the table, and ledger, lengths
and overlap beside each other. All reading is done by the engine, in processes of its own: see `data_reading`.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Container
from textual.widgets import Static

from engine.text import one_line
from workbench import actions
from workbench.editors.data_reading import REPORTS
from workbench.editors.data_survey import DataSurvey
from workbench.regions.tab_strip import Tab, TabStrip
from workbench.widgets.data_panes import LedgerPane, LengthsPane, OverlapPane, Pane, SeenPane
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.row_table import RowTable

SECTIONS = {
    "rows": ("Rows r", "#rows"), "seen": ("As the model sees it s", "#seen"), "ledger": ("Ledger e", "#ledger"),
    "lengths": ("Lengths i", "#lengths"), "overlap": ("Overlap o", "#overlap"),
}  # fmt: skip
UNSEEN = "which rows are kept unseen is known when all have been read"


class DataView(Finding, DataSurvey):
    """Sections side by side or one at a time, and what leads to a row."""

    HELP = (
        "A project's data. r shows the rows as they lie in the file, s the row under the cursor as the model will see "
        "it, e what became of all rows, i how long they are, o which stand on both sides; t changes between training "
        "and unseen rows. Rows are read by the engine as training reads them."
    )
    SCOPES: ClassVar = ("data",)
    BINDINGS = actions.bindings("data")
    DEFAULT_CSS = """
    DataView { layout: vertical; }
    DataView > #about { height: 1; padding: 0 1; }
    DataView > #wrong { height: auto; max-height: 8; padding: 0 1; color: $text-error; display: none; }
    DataView > #wrong.-shown { display: block; }
    DataView #pair, DataView #reports { height: 1fr; width: 1fr; layout: vertical; }
    DataView.-beside #pair, DataView.-beside #reports { layout: horizontal; }
    DataView.-beside #seen, DataView.-beside #lower { border-left: solid $panel-lighten-2; }
    DataView.-below #seen { height: 45%; }
    DataView #lower { height: 1fr; width: 1fr; layout: vertical; }
    """

    def compose(self) -> ComposeResult:
        self._begin()  # the engine starts while the widgets are made
        yield Static(id="about", markup=False)
        yield TabStrip()
        yield Static(id="wrong", markup=False)
        with Container(id="pair"):
            yield RowTable(self.pages["train"], id="rows")
            yield SeenPane(id="seen")
        with Container(id="reports"):
            yield LedgerPane(id="ledger")
            with Container(id="lower"):
                yield LengthsPane(id="lengths")
                yield OverlapPane(id="overlap")
        yield FindBar(self.search)

    def on_mount(self) -> None:
        self.heading = f"{self.target} data"
        self.table.waiting = "reading"
        self._retitle()
        self._lay_out()

    def focus_first(self) -> None:
        self._focus_section()

    # --- sections

    def on_resize(self) -> None:
        self._lay_out()
        self._tell_about()

    @property
    def room(self) -> str:
        """How much fits: "beside", "below" or "one"."""
        width, height = self.size.width, self.size.height
        return "beside" if width >= 110 and height >= 16 else "below" if height >= 24 else "one"

    def _lay_out(self) -> None:
        room, section = self.room, self.section
        for name in ("beside", "below"):
            self.set_class(room == name, f"-{name}")
        report = section in REPORTS
        self.query_one("#pair").display = not report
        self.query_one("#reports").display = report
        self.table.display = section == "rows" or room != "one"
        self.seen.display = section == "seen" or room != "one"
        together = room == "beside"
        self.query_one("#ledger").display = section == "ledger" or together
        self.query_one("#lower").display = section != "ledger" or together
        self.query_one("#lengths").display = section == "lengths" or together
        self.query_one("#overlap").display = section == "overlap" or together

    def _retitle(self) -> None:
        strip = self.query_one(TabStrip)
        strip.tabs = tuple(Tab(name, title) for name, (title, _) in SECTIONS.items())
        strip.front = self.section

    def go_to(self, section: str) -> None:
        """Look at a section, and give it the focus."""
        self.section = section
        self._lay_out()
        self._retitle()
        if section in REPORTS:
            self._survey()
        self._focus_section()

    def _focus_section(self) -> None:
        widget = self.query_one(SECTIONS[self.section][1])
        target = widget if widget.can_focus else next((w for w in widget.query("*") if w.can_focus), None)
        if target is not None:
            target.focus()

    def act_data_rows(self) -> None:
        self.go_to("rows")

    def act_data_seen(self) -> None:
        self.go_to("seen")

    def act_data_ledger(self) -> None:
        self.go_to("ledger")

    def act_data_lengths(self) -> None:
        self.go_to("lengths")

    def act_data_overlap(self) -> None:
        self.go_to("overlap")

    @on(TabStrip.Chosen)
    def _section_chosen(self, event: TabStrip.Chosen) -> None:
        event.stop()
        self.go_to(event.key)

    def on_row_table_picked(self, event: RowTable.Picked) -> None:
        event.stop()
        self.go_to("seen")

    def act_data_split(self) -> None:
        self.show_split("test" if self.split == "train" else "train")

    def show_split(self, split: str) -> None:
        """The training rows, or the unseen ones."""
        if split == "test" and self.opened and "test" not in self.opened["splits"]:
            raise LookupError("this project has no unseen rows: set data.test or data.test_fraction")
        self.split = split
        self._flying.clear()
        self.table.waiting = UNSEEN if self._of_survey else "reading"
        self.seen.show_row(None, None)
        self.table.reset(self.pages[split], [])
        self._columns()
        self._tell_about()
        if self._of_survey:
            self._survey()
        if not self.pages[split].known:
            self._ask_page(0)
        lengths = self.query_one(LengthsPane)
        lengths.split = split
        if lengths.found is not None:
            lengths.show_lengths(lengths.found)
        self._moved()
        if self._surveyed:
            self._ask_marks()

    def act_data_tokens(self) -> None:
        self.seen.ends = not self.seen.ends
        self.seen.raw = False
        self.seen.render_row()

    def act_data_raw(self) -> None:
        self.seen.raw = not self.seen.raw
        self.seen.render_row()

    def act_data_wide(self) -> None:
        self.table.wide = not self.table.wide

    # --- places

    def reveal(self, place: Any) -> None:
        """A row's number, or (split, number)."""
        split, number = place if isinstance(place, tuple | list) and len(place) == 2 else (self.split, place)
        if split in ("train", "test") and isinstance(number, int):
            if split != self.split:
                self.show_split(split)
            if self.pages[split].known >= number:
                self.table.show_row(number - 1, centre=True)
            else:
                self._places = {split: number - 1}

    @on(Pane.Opened)
    def _place_chosen(self, event: Pane.Opened) -> None:
        event.stop()
        if event.row is not None and not self._of_survey:
            self.reveal((event.split, event.row))
            self.go_to("rows")
        else:
            self.open_place(event.where)

    def open_place(self, where: str) -> None:
        """Open "FILE:LINE" in a tab; what has no lines ("file:row 3") is shown in the table."""
        if row := re.search(r":row (\d+)$", where):
            self.reveal(int(row[1]))
            self.go_to("rows")
            return
        found = re.match(r"(.+?):(\d+)(?::(\d+))?$", where)
        if found is None:
            raise LookupError(f"{one_line(where)} is not a place in a file")
        self.app.open(f"file:{found[1]}", place=(int(found[2]), int(found[3] or 1)))

    def act_data_place(self) -> None:
        if self.table.row is None:
            raise LookupError("there is no row under the cursor")
        self.open_place(self.table.row.where)

    async def act_edit_goto_line(self) -> None:
        from workbench.modals.confirm import AskLine

        pages = self.pages[self.split]

        def wrong(text: str) -> str | None:
            digits = text.strip().replace(",", "")
            ok = digits.isdecimal() and len(digits) < 16 and 1 <= int(digits) <= pages.known
            return None if ok else f"a row from 1 to {pages.known:,}"

        answer = await self.app.push_screen_wait(AskLine(f"Go to row (1 to {pages.known:,})", "", wrong))
        if answer is not None:
            self.go_to("rows")
            self.table.show_row(int(answer.strip().replace(",", "")) - 1, centre=True)

    def act_data_next(self) -> None:
        self._find_step(1)

    def act_data_previous(self) -> None:
        self._find_step(-1)

    def on_find_bar_closed(self) -> None:
        self._focus_section()

    async def act_app_copy(self) -> None:
        if self.app.screen.get_selected_text():
            await next(c for c in self.app.commands if hasattr(c, "act_app_copy")).act_app_copy()
            return
        row = self.table.row
        if row is None:
            raise LookupError("there is no row to copy")
        document = self._documents.get((self.split, row.number))
        shown = document is not None and document.get("refused") is None and not self.seen.raw
        text = "".join(s["text"] for s in document["segments"]) if shown and document else "\n".join(row.cells.values())
        await next(c.copy for c in self.app.commands if hasattr(c, "copy"))(text)
