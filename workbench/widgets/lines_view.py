"""Lines of a file of any size on the screen: only those in sight are read, in a thread, by their number.

It asks with `Wanted`, gets `give`; what it has not got yet is drawn as "…". There is a cursor line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.cache import LRUCache
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from engine.text import cells, size
from workbench.jobs.lines import Found, Line
from workbench.models.text_buffer import showable

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

PAGE = 200
"""Lines that are asked for at once."""


class LinesView(ScrollView):
    """Attributes: cursor: the line the user is on, from 0. count: lines that there are."""

    COMPONENT_CLASSES: ClassVar = {"lines--number", "lines--cursor", "lines--found", "lines--found-at", "lines--note"}
    DEFAULT_CSS = """
    LinesView { height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; }
    LinesView .lines--number { color: $text-muted; }
    LinesView .lines--cursor { background: $boost; }
    LinesView .lines--note { color: $text-warning; text-style: italic; }
    LinesView .lines--found { background: $warning 30%; text-style: underline; }
    LinesView .lines--found-at { color: $warning; text-style: bold reverse; }
    LinesView:focus .lines--cursor { background: $primary-muted; }
    """
    BINDINGS: ClassVar = [
        Binding("down,j", "move(1)", show=False), Binding("up,k", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False), Binding("pageup", "page(-1)", show=False),
        Binding("g,home", "jump(0)", show=False), Binding("G,end", "jump(-1)", show=False),
        Binding("right,l", "sideways(8)", show=False), Binding("left,h", "sideways(-8)", show=False),
        Binding("0", "sideways(-1000000)", show=False),
    ]  # fmt: skip
    can_focus = True
    cursor: reactive[int] = reactive(0)
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Wanted(Message):
        """Lines are to be read: `count` from number `first`."""

        def __init__(self, first: int, count: int) -> None:
            super().__init__()
            self.first, self.count = first, count

    class Moved(Message):
        """The cursor is on another line, or its text has come."""

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, LinesView.Moved)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._pages: LRUCache[int, list[Line]] = LRUCache(64)
        self._asked: set[int] = set()
        self._widest = 0
        self._found: dict[int, list[tuple[int, int, int]]] = {}
        self._found_at = -1

    # --- what there is

    def set_count(self, count: int) -> None:
        """How many lines there are; the last page may have changed."""
        if count == self.count:
            return
        for number in (self.count // PAGE, count // PAGE):
            self._pages.discard(number)
            self._asked.discard(number)
        self.count = count
        self.cursor = min(self.cursor, max(0, count - 1))
        self._resize()

    def forget(self) -> None:
        """The file is another one."""
        self._pages.clear()
        self._asked.clear()
        self._widest = 0
        self.refresh()

    def give(self, first: int, lines: list[Line]) -> None:
        """Lines that were asked for."""
        page = first // PAGE
        self._asked.discard(page)
        self._pages[page] = lines
        widest = max((cells(showable(line.text).expandtabs(4)) + 24 * line.cut for line in lines), default=0)
        if widest > self._widest:
            self._widest = widest
            self._resize()
        self.refresh()
        if self.cursor // PAGE == page:
            self.post_message(self.Moved())

    def line(self, number: int) -> Line | None:
        """A line, None (and asked for) where it has not been read."""
        page = number // PAGE
        lines = self._pages.get(page)
        if lines is None:
            if page not in self._asked and self.is_mounted:
                self._asked.add(page)
                self.post_message(self.Wanted(page * PAGE, PAGE))
            return None
        return lines[number % PAGE] if number % PAGE < len(lines) else None

    def set_found(self, found: list[Found], at: int = -1) -> None:
        """Matches to mark; `at` is the number of the one that is shown."""
        self._found = {}
        for number, f in enumerate(found):
            self._found.setdefault(f.line, []).append((f.column, f.column + f.length, number))
        self._found_at = at
        self.refresh()

    # --- drawing

    @property
    def _margin(self) -> int:
        return len(f"{max(1, self.count)}") + 2

    def _resize(self) -> None:
        self.virtual_size = Size(self._margin + self._widest, self.count)

    def render_line(self, y: int) -> Strip:
        number, shift, width = y + self.scroll_offset.y, self.scroll_offset.x, self.size.width
        if number >= self.count:
            return Strip.blank(width, self.rich_style)
        margin = self._margin
        style = self.get_component_rich_style("lines--cursor") if number == self.cursor else self.rich_style
        head = Segment(
            f"{number + 1:>{margin - 2}}{'>' if number == self.cursor else ' '} ", style + self._rich("number")
        )
        line = self.line(number)
        waiting = Segment("..." if self.app.ascii else "…", style)
        body = Strip([waiting]) if line is None else self._body(number, line, style)
        return Strip.join([Strip([head], margin), body.crop_extend(shift, shift + width - margin, style)])

    def _rich(self, name: str) -> Style:
        return self.get_component_rich_style(f"lines--{name}", partial=True)

    def _body(self, number: int, line: Line, style: Style) -> Strip:
        text = showable(line.text, ascii=self.app.ascii)
        segments, at = [], 0
        for start, end, match in self._found.get(number, ()):
            if at <= start < len(text):
                segments += [(text[at:start], style), (text[start:end], style + self._rich(self._look(match)))]
                at = end
        segments.append((text[at:], style))
        if line.cut:
            segments.append((f"  … {size(line.size)} in this line", style + self._rich("note")))
        column, strips = 0, []
        for part, look in segments:  # tabs end where the whole line's tabs do
            spread = (" " * (column % 4) + part).expandtabs(4)[column % 4 :]
            column += cells(spread)
            strips.append(Segment(spread, look))
        return Strip(strips)

    def _look(self, match: int) -> str:
        return "found-at" if match == self._found_at else "found"

    # --- moving

    def watch_cursor(self) -> None:
        self.refresh()
        self.post_message(self.Moved())

    def show_line(self, number: int, column: int = 0, *, centre: bool = True) -> None:
        """Put the cursor on a line (from 0), and bring it and the column into sight."""
        self.cursor = max(0, min(number, self.count - 1))
        line = self.line(self.cursor)
        left = cells(showable(line.text[:column]).expandtabs(4)) if line else column
        room = max(1, self.size.width - self._margin)
        x = self.scroll_offset.x
        if not x <= left < x + room - 8:
            x = max(0, left - room // 3)
        y, height = self.scroll_offset.y, max(1, self.size.height)
        if centre and not y <= self.cursor < y + height:
            y = self.cursor - height // 2
        elif self.cursor < y:
            y = self.cursor
        elif self.cursor >= y + height:
            y = self.cursor - height + 1
        self.scroll_to(x, max(0, y), animate=False, force=True)

    def action_move(self, by: int) -> None:
        self.show_line(self.cursor + by, self.scroll_offset.x, centre=False)

    def action_page(self, by: int) -> None:
        self.action_move(by * max(1, self.size.height - 1))

    def action_jump(self, number: int) -> None:
        self.show_line(self.count - 1 if number < 0 else number)

    def action_sideways(self, by: int) -> None:
        self.scroll_to(max(0, self.scroll_offset.x + by), animate=False, force=True)

    def on_click(self, event: events.Click) -> None:
        self.show_line(event.y + self.scroll_offset.y, self.scroll_offset.x, centre=False)
