"""What a data view asks the engine's processes, and what it makes of the answers: the rows, and the row under the cursor.
What is asked of all rows is `data_survey`; where all that stands on the screen is `data_view`.

    RowTable.Wanted -> RowsClient.ask -> RowsAnswer -> Pages -> table        cursor -> row -> SeenPane
"""

from __future__ import annotations

from typing import Any

from textual.content import Content
from textual.widgets import Static

from engine.text import cut, one_line
from workbench.editors.base import Editor
from workbench.editors.row_search import RowSearch
from workbench.jobs.rows_client import ProjectChanged, RowsAnswer, RowsClient, RowsEnded, RowsNote
from workbench.models.data import PAGE, Pages, Progress, ShownRow, source_words
from workbench.widgets.data_panes import SeenPane
from workbench.widgets.row_table import RowTable

REPORTS = ("ledger", "lengths", "overlap")
SURVEYED_BYTES = 4_000_000
"""Sources up to this size are gone through at once; larger ones when a report is looked at."""
ROW_SECONDS = 0.06
"""A row is asked for when the cursor has rested this long."""
IN_FLIGHT = 2
"""Pages that are asked for at once."""


class DataReading(Editor):
    """Attributes:
    split: "train" or "test". section: the name of what is looked at.
    opened: what the engine says of the sources. pages: the rows of each split that have come.
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

    def on_unmount(self) -> None:
        if self.client is not None:
            self.client.stop()

    @property
    def table(self) -> RowTable:
        return self.query_one(RowTable)

    @property
    def seen(self) -> SeenPane:
        return self.query_one(SeenPane)

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

    def _note_find(self, note: dict[str, Any]) -> None:
        self.search.more(note["id"], note["numbers"])

    def _take_find(self, event: RowsAnswer) -> None:
        self.search.take(event)

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
