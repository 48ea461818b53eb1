"""What a data view asks of all rows at once.

survey -> RowsNote -> progress      -> RowsAnswer -> ledger, lengths, overlap, and a mark for every row in the table
"""

from __future__ import annotations

from typing import Any

from textual.content import Content

from workbench.editors.data_reading import DataReading
from workbench.jobs.rows_client import RowsAnswer
from workbench.models.data import Progress
from workbench.widgets.data_panes import LedgerPane, LengthsPane, OverlapPane


class DataSurvey(DataReading):
    """The engine goes through all rows once, at once where they are few."""

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
