"""A table of any number of rows: only those in sight are drawn and asked for. A head line, a number for each row, a
word for what became of it, columns fitted to the width; there is a row under the cursor.

It asks with `Wanted` (pages of `models.data.Pages`) and is told by `arrived`; it opens nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from workbench.models.data import Pages, ShownRow, column_widths, fitted, needs, safe

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

FATE_WIDTH, TOKENS_WIDTH = 8, 7


class RowTable(ScrollView):
    """Attributes: cursor: position of the row under the cursor, from 0. pages: the rows. wide: columns as wide as their
    texts, to be scrolled sideways, not fitted."""

    HELP = (
        "Rows as they lie in the file. j and k or the arrows move, Page Up and Page Down, g and G go to the ends, "
        "h and l or left and right go sideways, ctrl+g goes to a row by its number, Enter shows the row."
    )
    SCOPES: ClassVar = ("data",)
    COMPONENT_CLASSES: ClassVar = {"rows--head", "rows--number", "rows--cursor", "rows--wrong", "rows--missing"}
    DEFAULT_CSS = """
    RowTable { height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; }
    RowTable .rows--head { background: $panel; text-style: bold; }
    RowTable .rows--number { color: $text-muted; }
    RowTable .rows--missing { color: $text-muted; text-style: italic; }
    RowTable .rows--wrong { color: $text-error; }
    RowTable .rows--cursor { background: $boost; }
    RowTable:focus .rows--cursor { background: $primary-muted; text-style: bold; }
    """
    BINDINGS: ClassVar = [
        Binding("down,j", "move(1)", show=False), Binding("up,k", "move(-1)", show=False),
        Binding("pagedown,ctrl+d", "page(1)", show=False), Binding("pageup,ctrl+u", "page(-1)", show=False),
        Binding("g,home", "jump(0)", show=False), Binding("G,end", "jump(-1)", show=False),
        Binding("right,l", "sideways(8)", show=False), Binding("left,h", "sideways(-8)", show=False),
        Binding("0", "sideways(-1000000)", show=False), Binding("enter", "choose", show=False),
    ]  # fmt: skip
    can_focus = True
    cursor: reactive[int] = reactive(0)
    wide: reactive[bool] = reactive(False)
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Wanted(Message):
        """Pages in sight that are not there."""

        def __init__(self, pages: list[int]) -> None:
            super().__init__()
            self.pages = pages

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, RowTable.Wanted)

    class Moved(Message):
        """Another row is under the cursor, or it has come."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, RowTable.Moved)

    class Picked(Message):
        """Enter on a row, or a double click."""

    def __init__(self, pages: Pages, **more: Any) -> None:
        super().__init__(**more)
        self.pages = pages
        self.names: list[str] = []
        self.marked = False
        self.waiting = "no rows"
        self._widths: dict[str, int] = {}
        self._need: dict[str, int] = {}

    # --- what there is

    def reset(self, pages: Pages, names: list[str]) -> None:
        """Other rows."""
        self.pages = pages
        self.name_columns(names)
        self.set_reactive(RowTable.cursor, 0)
        self.scroll_to(0, 0, animate=False, force=True)
        self.arrived()

    def name_columns(self, names: list[str]) -> None:
        """Other columns; `arrived` draws them."""
        self.names, self._need = names, {}

    def arrived(self, rows: list[ShownRow] | None = None) -> None:
        """Rows (those, or all that are here), marks or their count are new."""
        self.set_reactive(RowTable.cursor, max(0, min(self.cursor, self.pages.known - 1)))
        self._need = needs(self.names, self.pages.rows() if rows is None else rows, self._need)
        room = max(8, self.size.width - self._frozen - self.scrollbar_size_vertical)
        self._widths = self._need if self.wide else column_widths(self._need, room)
        self.virtual_size = Size(self._frozen + self._body, self.pages.known + 1)
        self.refresh()
        self._want()

    @property
    def row(self) -> ShownRow | None:
        """The row under the cursor, None where it has not come."""
        return self.pages.row(self.cursor)

    def _want(self) -> None:
        first = self.scroll_offset.y
        pages = self.pages.missing(first, min(first + max(1, self.size.height), max(0, self.pages.known - 1)))
        if pages:
            self.post_message(self.Wanted(pages))

    # --- columns

    @property
    def _digits(self) -> int:
        return max(3, len(f"{self.pages.known:,}"))

    @property
    def _frozen(self) -> int:
        """Cells at the left that do not go sideways: cursor mark, number, what became of the row, its tokens."""
        return 2 + self._digits + 1 + ((FATE_WIDTH + TOKENS_WIDTH) if self.marked else 0) + 1

    @property
    def _body(self) -> int:
        return sum(self._widths.values()) + max(0, len(self._widths) - 1)

    # --- drawing

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._line(self._head(), self.get_component_rich_style("rows--head"))
        position = self.scroll_offset.y + y - 1
        if position >= self.pages.known:
            text = self.waiting if y == 2 and not self.pages.known else ""
            return Strip([Segment(fitted(f"  {text}", width), self.rich_style)], width)
        on = position == self.cursor
        style = self.get_component_rich_style("rows--cursor") if on else self.rich_style
        row = self.pages.row(position)
        if row is None:
            text = f"  {position + 1:>{self._digits},} {'...' if self.app.ascii else '…'}"
            return Strip([Segment(fitted(text, width), style + self._rich("missing"))], width)
        return self._line(self._row(row, on, style), style)

    def _rich(self, name: str) -> Style:
        return self.get_component_rich_style(f"rows--{name}", partial=True)

    def _line(self, parts: tuple[list[Segment], list[Segment]], style: Style) -> Strip:
        """The frozen part, and of the other what the sideways scroll leaves."""
        frozen, body = Strip(parts[0], self._frozen), Strip(parts[1])
        room, shift = max(0, self.size.width - self._frozen), self.scroll_offset.x
        return Strip.join([frozen, body.crop_extend(shift, shift + room, style)])

    def _head(self) -> tuple[list[Segment], list[Segment]]:
        style = self.get_component_rich_style("rows--head")
        marks = f"{'':{FATE_WIDTH}}{'tokens':>{TOKENS_WIDTH - 1}} " if self.marked else ""
        frozen = fitted(f"  {'row':>{self._digits}} {marks}", self._frozen)
        body = " ".join(self._cell(name, width) for name, width in self._widths.items())
        return [Segment(frozen, style)], [Segment(body, style)]

    def _cell(self, text: str, width: int) -> str:
        return fitted(safe(text[: 4 * width + 8]), width, "~" if self.app.ascii else "…")

    def _row(self, row: ShownRow, on: bool, style: Style) -> tuple[list[Segment], list[Segment]]:
        sign = (">" if self.app.ascii else "▶") if on else "x" if row.fate == "refused" else " "
        marks = ""
        if self.marked:
            tokens = f"{row.tokens:,}" if row.tokens else ""
            marks = f"{row.fate if row.fate != 'kept' else '':{FATE_WIDTH}}{tokens:>{TOKENS_WIDTH - 1}} "
        wrong = self._rich("wrong") if row.fate == "refused" else Style()
        frozen = fitted(f"{sign} {row.number:>{self._digits},} {marks}", self._frozen)
        head = [Segment(frozen, style + (wrong if row.fate == "refused" else self._rich("number")))]
        if row.refused is not None and "" in row.cells:  # not even its columns are known
            text = f"{row.refused}: {row.cells['']}"
            return head, [Segment(self._cell(text, max(8, self._body)), style + wrong)]
        body: list[Segment] = []
        for name, width in self._widths.items():
            text = row.cells.get(name)
            missing = text is None
            shown = self._cell("-" if text is None else text, width)
            body += [Segment(shown, style + (self._rich("missing") if missing else wrong)), Segment(" ", style)]
        return head, body

    # --- moving

    def watch_cursor(self) -> None:
        self.refresh()
        self.post_message(self.Moved())

    def watch_wide(self) -> None:
        if self.is_mounted:
            self.scroll_to(0, animate=False, force=True)
            self.arrived([])

    def watch_scroll_y(self, old: float, new: float) -> None:
        super().watch_scroll_y(old, new)
        if self.is_mounted:
            self._want()

    def on_resize(self) -> None:
        self.arrived([])
        self.show_row(self.cursor)

    def show_row(self, position: int, *, centre: bool = False) -> None:
        """Put the cursor on a row (from 0), and bring it into sight."""
        self.cursor = max(0, min(position, self.pages.known - 1))
        top, height = self.scroll_offset.y, max(1, self.size.height - 1 - self.scrollbar_size_horizontal)
        if centre and not top <= self.cursor < top + height:
            top = self.cursor - height // 2
        elif self.cursor < top:
            top = self.cursor
        elif self.cursor >= top + height:
            top = self.cursor - height + 1
        self.scroll_to(None, max(0, top), animate=False, force=True)
        self._want()

    def action_move(self, by: int) -> None:
        self.show_row(self.cursor + by)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 2))

    def action_jump(self, position: int) -> None:
        self.show_row(self.pages.known - 1 if position < 0 else position)

    def action_sideways(self, by: int) -> None:
        self.scroll_to(max(0, self.scroll_offset.x + by), animate=False, force=True)

    def action_choose(self) -> None:
        self.post_message(self.Picked())

    def on_click(self, event: events.Click) -> None:
        if event.y > 0:
            self.show_row(self.scroll_offset.y + event.y - 1)
            if event.chain == 2:
                self.post_message(self.Picked())
