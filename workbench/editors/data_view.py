"""A project's data: rows as they lie there, as the model will see them, what became of all, how long they are.

    RowTable.Wanted -> RowsClient.ask -> RowsAnswer -> Pages -> table        RowsNote -> progress
    cursor -> row -> SeenPane        survey -> ledger, lengths, overlap, and a mark for every row in the table

One section fills a small terminal; where there is room the row stands below or beside the table, and ledger, lengths
and overlap beside each other. All reading is done by the engine, in processes of its own (`jobs.rows_client`).
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.widgets import Static

from engine.text import cut, one_line
from workbench import actions
from workbench.editors.base import Editor
from workbench.jobs.rows_client import ProjectChanged, RowsAnswer, RowsClient, RowsEnded, RowsNote
from workbench.models.data import PAGE, Pages, Progress, ShownRow, source_words
from workbench.regions.tab_strip import Tab, TabStrip
from workbench.widgets.data_panes import LedgerPane, LengthsPane, OverlapPane, Pane, SeenPane
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.row_table import RowTable

SECTIONS = {
    "rows": ("Rows r", "#rows"), "seen": ("As the model sees it s", "#seen"), "ledger": ("Ledger e", "#ledger"),
    "lengths": ("Lengths i", "#lengths"), "overlap": ("Overlap o", "#overlap"),
}  # fmt: skip
REPORTS = ("ledger", "lengths", "overlap")
SURVEYED_BYTES = 4_000_000
"""Sources up to this size are gone through at once; larger ones when a report is looked at."""
ROW_SECONDS = 0.06
"""A row is asked for when the cursor has rested this long."""
IN_FLIGHT = 2
"""Pages that are asked for at once."""
MOST_FOUND = 10_000
UNSEEN = "which rows are kept unseen is known when all have been read"


class DataView(Finding, Editor):
    """Attributes: split: "train" or "test". section: the name of what is looked at."""

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

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.split, self.section = "train", "rows"
        self.client: RowsClient | None = None
        self.search = RowSearch(self)
        self._forget()

    def _forget(self) -> None:
        """What belongs to the data as they were read last."""
        self.opened: dict[str, Any] = {}
        self.pages = {"train": Pages(), "test": Pages()}
        self._flying: dict[int, int] = {}  # question -> page
        self._wanted: list[int] = []
        self._row_asked: tuple[str, int] | None = None
        self._documents: dict[tuple[str, int], dict[str, Any]] = {}
        self._surveyed = self._surveying = self._marking = False
        self.progress = Progress()
        self._places: Any = None

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

    def on_unmount(self) -> None:
        if self.client is not None:
            self.client.stop()

    @property
    def table(self) -> RowTable:
        return self.query_one(RowTable)

    @property
    def seen(self) -> SeenPane:
        return self.query_one(SeenPane)

    def focus_first(self) -> None:
        self._focus_section()

    # --- opening

    def _begin(self) -> None:
        """Ask for everything anew."""
        if self.client is not None:
            self.client.stop()
        self.client = RowsClient(self.app.root, self.target, self.post_message)
        self.client.ask("open")
        self._ask_page(0)

    def act_data_reload(self) -> None:
        """Read again, with the cursor where it is."""
        self._places = {"train": self.table.cursor if self.split == "train" else 0, self.split: self.table.cursor}
        places = self._places
        self._forget()
        self._places = places
        self._wrong("")
        self.table.marked = False
        self.table.waiting = "reading"
        self.table.reset(self.pages[self.split], [])
        self._begin()
        if self.section in REPORTS:
            self._survey()

    def on_project_changed(self, event: ProjectChanged) -> None:
        if event.client is self.client:
            self.act_data_reload()
            self.app.notify(f"{self.target}: the data settings have changed, read again", timeout=3, markup=False)

    def on_rows_ended(self, event: RowsEnded) -> None:
        if event.client is not self.client:
            return
        self._flying.clear()
        self._row_asked, self._surveying = None, False
        self._wrong(f"{event.words}\nR starts it again")

    def _wrong(self, words: str) -> None:
        widget = self.query_one("#wrong", Static)
        widget.update(Content("\n".join(one_line(line) for line in words.split("\n"))))
        widget.set_class(bool(words), "-shown")

    # --- what the engine says

    def on_rows_answer(self, event: RowsAnswer) -> None:
        if event.client is self.client:
            getattr(self, f"_take_{event.do}")(event)

    def on_rows_note(self, event: RowsNote) -> None:
        if event.client is self.client and event.kind in ("index", "survey", "find"):
            getattr(self, f"_note_{event.kind}")(event.note)

    def _take_open(self, event: RowsAnswer) -> None:
        if event.ok is None:
            self._wrong(event.problem.words if event.problem else "")
            self.table.waiting = ""
            self.table.refresh()
            return
        self.opened = event.ok
        if event.ok["shape_problem"]:
            self._wrong(event.ok["shape_problem"])
        self._columns()
        self._tell_about()
        if self.table.row is not None:
            self._first_rows()

    def _columns(self) -> None:
        splits = self.opened.get("splits", {})
        found = splits.get(self.split, {}).get("columns") or splits.get("train", {}).get("columns") or []
        if not found:  # not opened yet: those of the first rows
            found = list(dict.fromkeys(c for row in self.pages[self.split].rows() for c in row.cells if c))
        if found != self.table.names:
            self.table.name_columns(found)
        self.table.arrived()

    def _note_index(self, note: dict[str, Any]) -> None:
        pages = self.pages[note["split"]]
        pages.known, pages.complete = max(pages.known, note["known"]), note["complete"]
        if note["error"]:
            self._wrong("\n".join(p for p in note["error"].values() if p))
        if note["split"] == self.split:
            self.table.waiting = "no rows" if note["complete"] else "reading"
            self.table.arrived([])
            self._tell_about()
        if self._places and pages.known > self._places.get(self.split, 0) and note["split"] == self.split:
            self.table.show_row(self._places.pop(self.split), centre=True)
            self._places = None

    def on_row_table_wanted(self, event: RowTable.Wanted) -> None:
        event.stop()
        self._wanted = event.pages
        self._ask_pages()

    def _ask_pages(self) -> None:
        """Ask for what is in sight, a few at a time; what has gone out of sight meanwhile is never asked for."""
        for page in self._wanted:
            if len(self._flying) >= IN_FLIGHT:
                return
            if page not in self._flying.values():
                self._ask_page(page)

    def _ask_page(self, page: int) -> None:
        if self.client is not None and (not self._of_survey or self._surveyed or self._surveying):
            do = "unseen" if self._of_survey else "rows"
            asked = self.client.ask(do, split=self.split, start=page * PAGE + 1, count=PAGE, width=240)
            self._flying[asked] = page

    @property
    def _of_survey(self) -> bool:
        """Whether which rows the split has is only known when all rows have been read."""
        return "fraction" in self.opened.get("splits", {}).get(self.split, {})

    def _take_unseen(self, event: RowsAnswer) -> None:
        self._take_rows(event)

    def _take_rows(self, event: RowsAnswer) -> None:
        page = self._flying.pop(event.number, None)
        if page is None or event.asked["split"] != self.split:
            return
        self._wanted = [p for p in self._wanted if p != page]
        if event.ok is None:
            if page == 0 or not self.opened or event.problem:
                self._wrong(event.problem.words if event.problem else "")
            return
        rows = [ShownRow(r["number"], r["where"], r["cells"], r["refused"]) for r in event.ok["rows"]]
        pages = self.pages[self.split]
        first = pages.known == 0 or self.table.row is None
        pages.put(page, rows)
        pages.known = max(pages.known, event.ok["known"])
        pages.complete = event.ok["complete"]
        if not self.table.names:
            self._columns()
        self.table.arrived(rows)
        self._ask_pages()
        self._tell_about()
        if self._surveyed:
            self._ask_marks()
        if first and self.table.row is not None and self.opened:
            self._first_rows()
        elif self.table.cursor // PAGE == page:
            self._moved()

    def _first_rows(self) -> None:
        """The rows are there: now what takes longer."""
        size = sum(s.get("size", 0) for s in self.opened["splits"].values())
        self._moved()
        if 0 < size <= SURVEYED_BYTES or self.section in REPORTS or self._of_survey:
            self._survey()

    # --- the row under the cursor

    def on_row_table_moved(self, event: RowTable.Moved) -> None:
        event.stop()
        self._moved()

    def _moved(self) -> None:
        row = self.table.row
        self._tell_place()
        if row is None:
            return
        key = self.split, row.number
        self.seen.show_row(row, self._documents.get(key))
        if key not in self._documents:
            self.set_timer(ROW_SECONDS, self._ask_row)

    def _ask_row(self) -> None:
        """Ask for the row under the cursor; one at a time, so that moving quickly asks for few."""
        row = self.table.row
        if row is None or self.client is None or self._row_asked is not None or not self.opened:
            return
        key = self.split, row.number
        if key not in self._documents and self.opened.get("shape"):
            self._row_asked = key
            self.client.ask("row", split=self.split, number=row.number)

    def _take_row(self, event: RowsAnswer) -> None:
        key, self._row_asked = self._row_asked, None
        if key is None:
            return
        if len(self._documents) > 50:
            del self._documents[next(iter(self._documents))]
        if event.ok is not None:
            self._documents[key] = event.ok
        row = self.table.row
        if row is not None and (self.split, row.number) == key:
            self.seen.show_row(row, event.ok, event.problem.words if event.problem else "")
            self._inspect(row, event.ok)
        else:
            self._ask_row()

    def _inspect(self, row: ShownRow, document: dict[str, Any] | None) -> None:
        lines = [f"row {row.number:,} of {self.split}", one_line(row.where)]
        if document is not None and document.get("refused") is None:
            lines += [
                f"{document['length']:,} tokens", f"{document['supervised']:,} supervised",
                f"longest allowed: {document['max_length']:,}",
            ]  # fmt: skip
        if row.mark:
            lines.append(", ".join(row.mark))
        if shape := self.opened.get("shape"):
            lines += ["", one_line(shape["said"])]
        self.inspected = Content("\n".join(lines))

    # --- all rows

    def _survey(self) -> None:
        """Have the engine go through all rows, once."""
        if self._surveyed or self._surveying or self.client is None or not self.opened.get("shape"):
            return
        self._surveying = True
        self.query_one(LedgerPane).show_progress(self.progress)
        for pane in (self.query_one(LengthsPane), self.query_one(OverlapPane)):
            pane.say(Content.styled("known when all rows have been read", "$text-muted"))
        for do in ("ledger", "lengths", "overlap"):
            self.client.ask(do)

    def _note_survey(self, note: dict[str, Any]) -> None:
        self.progress = Progress(note["stage"], note["done"], note["total"], note["ledgers"])
        self.query_one(LedgerPane).show_progress(self.progress)
        if "lengths" in note:
            self.query_one(LengthsPane).show_lengths(note["lengths"], self.progress)
        if self._of_survey and note["unseen"] is not None and not self.pages["test"].known:
            self._ask_page(0)
        self._tell_place()

    def _take_ledger(self, event: RowsAnswer) -> None:
        self._surveying = False
        if event.ok is None:
            if event.problem:
                self._wrong(event.problem.words)
            self.query_one(LedgerPane).entitle("Ledger")
            return
        self._surveyed = True
        self.query_one(LedgerPane).show_ledger(event.ok)
        self.table.marked = True
        self._ask_marks()
        if self._of_survey and not self.pages["test"].known:
            self._ask_page(0)
        self._tell_place()

    def _take_lengths(self, event: RowsAnswer) -> None:
        if event.ok is not None:
            pane = self.query_one(LengthsPane)
            pane.split = self.split
            pane.show_lengths(event.ok)

    def _take_overlap(self, event: RowsAnswer) -> None:
        if event.ok is not None:
            self.query_one(OverlapPane).show_overlap(event.ok)

    def _ask_marks(self) -> None:
        numbers = self.pages[self.split].unmarked()[:500]
        if numbers and self.client is not None and not self._marking:
            self._marking = True
            self.client.ask("marks", split=self.split, numbers=numbers)

    def _take_marks(self, event: RowsAnswer) -> None:
        self._marking = False
        if event.ok is None or event.asked["split"] != self.split:
            return
        self.pages[self.split].mark(dict(zip(event.asked["numbers"], event.ok["marks"], strict=True)))
        self.table.arrived([])
        if any(event.ok["marks"]):
            self._ask_marks()

    # --- sections

    def on_resize(self) -> None:
        self._lay_out()

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

    def _note_find(self, note: dict[str, Any]) -> None:
        self.search.more(note["id"], note["numbers"])

    def _take_find(self, event: RowsAnswer) -> None:
        self.search.take(event)

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

    # --- words

    def _tell_about(self) -> None:
        pages = self.pages[self.split]
        known = pages.known
        source = source_words(self.split, self.opened, known, pages.complete) if self.opened else "reading"
        shape = self.opened.get("shape")
        said = "  ".join(filter(None, (source, shape["said"] if shape else "")))
        other = "test" if self.split == "train" else "train"
        head = f"{self.split.upper()} rows (t: {other})  "
        text = one_line(said)
        room = max(10, self.size.width - 2 - len(head)) if self.size.width else 200
        self.query_one("#about", Static).update(Content.assemble((head, "bold"), (cut(text, room), "$text-muted")))
        self._tell_place()

    def _tell_place(self) -> None:
        pages = self.pages[self.split]
        more = "" if pages.complete else "+"
        text = f"row {self.table.cursor + 1:,} of {pages.known:,}{more}" if pages.known else "no rows"
        self.told = f"{text}  {self.progress.words()}" if self._surveying else text


class RowSearch:
    """A `FindTarget` over all rows; the engine looks, from the cursor on and round the end."""

    def __init__(self, view: DataView) -> None:
        self.view = view
        self.numbers: list[int] = []
        self._asked = 0

    def matches(self, text: str, case: bool) -> None:
        self.numbers = []
        client, view = self.view.client, self.view
        if text and client is not None and not view._of_survey:
            start = view.table.cursor + 1
            self._asked = client.ask("find", split=view.split, text=text, **{"from": start}, most=MOST_FOUND, case=case)
        else:
            self._asked = 0

    def more(self, number: int, rows: list[int]) -> None:
        """Rows found so far."""
        if number == self._asked and rows:
            self.numbers += rows
            self.view.find_bar.tell(len(self.numbers), whole=False)

    def take(self, event: RowsAnswer) -> None:
        """The search is over."""
        if event.number == self._asked and event.ok is not None:
            self.numbers = event.ok["numbers"]
            self.view.find_bar.tell(len(self.numbers), whole=event.ok["whole"] or not self.numbers)

    def nearest(self) -> int:
        return 0

    def go(self, number: int) -> None:
        self.view.table.show_row(self.numbers[number] - 1, centre=True)
