"""Finding in the rows of a data view: the engine looks through all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.jobs.rows_client import RowsAnswer

if TYPE_CHECKING:
    from workbench.editors.data_view import DataView

MOST_FOUND = 10_000


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
