"""A light table: a head line, columns fitted to the room, a row under the cursor. Only the lines in sight are made.

It holds no data: `show` gets the columns, how many rows there are, and what makes the cells of one. Columns that find no
room are left out, the least important first. Sorting is the owner's: it is asked for by `SortWanted`.

    table.show(columns, len(items), lambda at: [items[at].name, ("0.31", "good")])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.text import cells, cut, one_line, pad

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

MEASURED_ROWS = 200
"""Rows whose texts decide how wide the columns are."""
GAP = "  "

Cell = str | tuple[str, str]
"""A text, or a text and its look: "good", "bad", "dim"."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        key: what `SortWanted` names.
        align: "<" or ">".
        most: cells that it takes at most (one that `grows` takes what is left).
        rank: how important: where there is no room, the highest goes first; 0 always stays.
    """

    key: str
    title: str
    align: str = "<"
    most: int = 40
    rank: int = 0
    grows: bool = False


def fit(columns: Sequence[Column], wanted: Sequence[int], room: int) -> list[int]:
    """Widths in cells, 0 for the columns that are left out.

    Args:
        wanted: how wide each one's texts are.
    """
    widths = [max(min(w, c.most), cells(c.title) + 2) for c, w in zip(columns, wanted, strict=True)]
    shown = [True] * len(columns)

    def over() -> int:
        used = [w for w, s in zip(widths, shown, strict=True) if s]
        return sum(used) + len(GAP) * max(0, len(used) - 1) - room

    for at in sorted(range(len(columns)), key=lambda i: (-columns[i].rank, -i)):
        if over() <= 0:
            break
        if columns[at].grows:  # it gives way before others are left out
            widths[at] = max(min(widths[at], 12), widths[at] - over())
        elif columns[at].rank:
            shown[at] = False
    for at in sorted(range(len(columns)), key=lambda i: -widths[i]):
        if over() <= 0:
            break
        if shown[at] and columns[at].rank == 0:
            widths[at] = max(min(widths[at], 8), widths[at] - over())
    growing = [i for i, c in enumerate(columns) if c.grows and shown[i]]
    for number, at in enumerate(growing):
        widths[at] += max(0, -over()) // (len(growing) - number)
    return [w if s else 0 for w, s in zip(widths, shown, strict=True)]


class SortableTable(ScrollView):
    """Attributes: cursor: the row under the cursor, from 0. sorted_by, descending: what the head line marks."""

    HELP = "j and k or the arrows move, g and G go to the ends, Enter opens, a click on a title sorts by it."
    COMPONENT_CLASSES: ClassVar = {"table--head", "table--cursor", "table--good", "table--bad", "table--dim",
                                   "table--found"}  # fmt: skip
    DEFAULT_CSS = """
    SortableTable { height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; overflow-x: hidden; }
    SortableTable .table--head { background: $panel; text-style: bold; }
    SortableTable .table--cursor { background: $boost; }
    SortableTable:focus .table--cursor { background: $primary-muted; text-style: bold; }
    SortableTable .table--good { color: $text-success; }
    SortableTable .table--bad { color: $text-error; }
    SortableTable .table--dim { color: $text-muted; }
    SortableTable .table--found { text-style: underline; }
    """
    BINDINGS: ClassVar = [
        Binding("down,j", "move(1)", show=False), Binding("up,k", "move(-1)", show=False),
        Binding("pagedown,ctrl+d", "page(1)", show=False), Binding("pageup,ctrl+u", "page(-1)", show=False),
        Binding("g,home", "jump(0)", show=False), Binding("G,end", "jump(-1)", show=False),
        Binding("enter,l,right", "choose", show=False),
    ]  # fmt: skip
    can_focus = True
    cursor: reactive[int] = reactive(0)
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Moved(Message):
        """Another row is under the cursor."""

        def __init__(self, table: SortableTable) -> None:
            super().__init__()
            self.table = table

        @property
        def control(self) -> SortableTable:
            return self.table

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, SortableTable.Moved) and message.table is self.table

    class Chosen(Moved):
        """Enter on a row, or a double click."""

        def can_replace(self, message: Message) -> bool:
            return False

    class SortWanted(Message):
        """A title was clicked."""

        def __init__(self, table: SortableTable, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> SortableTable:
            return self.table

    def __init__(self, id: str | None = None, empty: str = "nothing yet") -> None:
        super().__init__(id=id)
        self.empty = empty
        self.columns: list[Column] = []
        self.count = 0
        self.sorted_by, self.descending = "", False
        self.found: frozenset[int] = frozenset()
        self._row: Callable[[int], Sequence[Cell]] = lambda at: []
        self._widths: list[int] = []

    # --- what there is

    def show(
        self,
        columns: Sequence[Column],
        count: int,
        row: Callable[[int], Sequence[Cell]],
        *,
        cursor: int | None = None,
        sorted_by: str = "",
        descending: bool = False,
    ) -> None:
        """Other rows; the cursor stays where it is unless it is given."""
        self.columns, self.count, self._row = list(columns), count, row
        self.sorted_by, self.descending = sorted_by, descending
        before = self.cursor
        self.set_reactive(SortableTable.cursor, max(0, min(before if cursor is None else cursor, count - 1)))
        self._fit()
        self.virtual_size = Size(0, count + 1)
        if self.is_mounted:
            self.show_row(self.cursor)
        self.refresh()
        self.post_message(self.Moved(self))

    def mark(self, found: Sequence[int]) -> None:
        """Underline rows (those that a search found)."""
        self.found = frozenset(found)
        self.refresh()

    def _fit(self) -> None:
        wanted = [0] * len(self.columns)
        for at in range(min(self.count, MEASURED_ROWS)):
            for number, cell in enumerate(self._row(at)):
                text = cell if isinstance(cell, str) else cell[0]
                wanted[number] = max(wanted[number], cells(one_line(text[:400])))
        self._widths = fit(self.columns, wanted, max(8, self.size.width - 3))

    # --- drawing

    def _mark(self) -> str:
        if self.app.ascii:
            return "v" if self.descending else "^"
        return "▼" if self.descending else "▲"

    def _look(self, name: str) -> Style:
        return self.get_component_rich_style(f"table--{name}", partial=True)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            style = self.get_component_rich_style("table--head")
            titles = [f"{c.title} {self._mark()}" if c.key == self.sorted_by else c.title for c in self.columns]
            text = GAP.join(
                pad(cut(t, w), w, c.align) for t, w, c in zip(titles, self._widths, self.columns, strict=True) if w
            )
            return Strip([Segment(pad(cut("  " + text, width), width), style)], width)
        at = self.scroll_offset.y + y - 1
        if at >= self.count:
            text = f"  {self.empty}" if y == 2 and not self.count else ""
            return Strip([Segment(pad(cut(text, width), width), self.rich_style + self._look("dim"))], width)
        style = self.get_component_rich_style("table--cursor") if at == self.cursor else self.rich_style
        if at in self.found:
            style += self._look("found")
        sign = (">" if self.app.ascii else "▸") if at == self.cursor else " "
        segments, used = [Segment(f"{sign} ", style)], 2
        for cell, w, column in zip(self._row(at), self._widths, self.columns, strict=True):
            if not w:
                continue
            text, look = (cell, "") if isinstance(cell, str) else cell
            if used > 2:
                segments.append(Segment(GAP, style))
                used += len(GAP)
            shown = pad(cut(one_line(text[: 4 * w + 8]), w), w, column.align)
            segments.append(Segment(shown, style + self._look(look) if look else style))
            used += w
        return Strip([*segments, Segment(" " * max(0, width - used), style)]).crop_extend(0, width, style)

    # --- moving

    def watch_cursor(self) -> None:
        self.refresh()
        self.post_message(self.Moved(self))

    def on_resize(self) -> None:
        self._fit()
        self.show_row(self.cursor)
        self.refresh()

    def show_row(self, at: int) -> None:
        """Put the cursor on a row (from 0), and bring it into sight."""
        self.cursor = max(0, min(at, self.count - 1))
        top, height = self.scroll_offset.y, max(1, self.size.height - 1)
        if self.cursor < top:
            top = self.cursor
        elif self.cursor >= top + height:
            top = self.cursor - height + 1
        self.scroll_to(None, max(0, top), animate=False, force=True)

    def action_move(self, by: int) -> None:
        self.show_row(self.cursor + by)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_jump(self, at: int) -> None:
        self.show_row(self.count - 1 if at < 0 else at)

    def action_choose(self) -> None:
        if self.count:
            self.post_message(self.Chosen(self))

    def on_click(self, event: events.Click) -> None:
        if event.y == 0:
            self._click_title(event.x)
        elif self.scroll_offset.y + event.y - 1 < self.count:
            self.show_row(self.scroll_offset.y + event.y - 1)
            if event.chain == 2:
                self.action_choose()

    def _click_title(self, x: int) -> None:
        left = 2
        for column, width in zip(self.columns, self._widths, strict=True):
            if width and left <= x < left + width + len(GAP):
                self.post_message(self.SortWanted(self, column.key))
                return
            left += width + len(GAP) if width else 0
