"""A column of a comparison: its title, what was asked and answered, and the proof of whose answer it is.

The text is a line widget: only the blocks that changed are wrapped again, only the lines in sight are drawn, so that
four columns stream beside each other. What is shown comes from `models.compare_text`; nothing is known of sessions here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import constants, events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import Reactive
from textual.scroll_view import ScrollView
from textual.scrollbar import ScrollBar
from textual.strip import Strip
from textual.timer import Timer
from textual.widgets import Static

from workbench.models.compare_text import Line, Run, Wrapped, wrapped
from workbench.settings import FPS_OVER_SSH

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

LOOKS = ("prompt", "note", "wrong", "differs", "number", "more1", "more2", "more3", "less1", "less2", "less3")
LEAP = 4
"""At as few frames a second as over SSH a text that grows scrolls by a part of its height at once, not line by line:
a scroll sends all lines anew."""
BAR_SECONDS = 1.0
"""How often the scroll bar of a text that grows is drawn: of most lines its thumb does not move by a cell."""
MOST_DRAWN = 2_000
"""Lines that are kept as they were drawn."""
Block = tuple[Hashable, Callable[[], Sequence[Run]], bool]
"""A part of the text: what it depends on, what makes it where that has changed, whether a line is free above it."""


class AnswerText(ScrollView):
    """Blocks of text, one below the other; it follows its end until one scrolls up."""

    COMPONENT_CLASSES: ClassVar = {f"answer--{look}" for look in LOOKS}
    DEFAULT_CSS = """
    AnswerText { height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; overflow-x: hidden; padding: 0 0 0 1; }
    AnswerText .answer--prompt { color: $text-primary; text-style: bold; }
    AnswerText .answer--note { color: $text-muted; text-style: italic; }
    AnswerText .answer--wrong { color: $text-error; }
    AnswerText .answer--number { color: $text-muted; }
    AnswerText .answer--differs { background: $accent-muted; text-style: underline; }
    AnswerText .answer--more1 { color: $text-success; }
    AnswerText .answer--more2 { color: $text-success; text-style: bold; }
    AnswerText .answer--more3 { background: $success-muted; text-style: bold underline; }
    AnswerText .answer--less1 { color: $text-warning; }
    AnswerText .answer--less2 { color: $text-error; }
    AnswerText .answer--less3 { background: $error-muted; text-style: italic; }
    """
    BINDINGS: ClassVar = [
        Binding("down,j", "scroll_down", show=False), Binding("up,k", "scroll_up", show=False),
        Binding("pagedown", "page_down", show=False), Binding("pageup", "page_up", show=False),
        Binding("home", "scroll_home", show=False), Binding("end,G", "scroll_end", show=False),
    ]  # fmt: skip
    can_focus = True

    def __init__(self) -> None:
        super().__init__()
        self._blocks: list[Block] = []
        self._wrapped: dict[Hashable, Wrapped] = {}
        self._order: list[Wrapped] = []
        self._width = 0
        self._lines: list[Line] = []
        self._styles: dict[str, Style] = {}
        self._drawn: dict[tuple[Run, ...], Strip] = {}
        self._starts: list[int] = []
        self._follow = True
        self._bar_timer: Timer | None = None

    def show(self, blocks: list[Block]) -> None:
        """Show these; those whose key is as before are not made again."""
        self._blocks = blocks
        self._lay_out()

    @property
    def text(self) -> str:
        """All of it, as it is shown."""
        return "\n".join("".join(text for text, _ in line) for line in self._lines)

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        if width < 1:
            return
        if width != self._width:
            self._width, self._wrapped, self._order, self._drawn = width, {}, [], {}
        known, before = self._wrapped, self._order
        lines: list[Line] = []
        self._wrapped, self._order, self._starts = {}, [], []
        for number, (key, make, apart) in enumerate(self._blocks):
            block = self._wrapped.get(key) or known.get(key)
            if block is None:  # often the one that stood here has grown
                block = wrapped(make(), width, before[number] if number < len(before) else None)
            self._wrapped[key] = block
            self._order.append(block)
            if lines and apart:
                lines.append([])
            self._starts.append(len(lines))
            lines += block.lines
        old, offset, self._lines = self._lines, self.scroll_offset, lines
        height = self.scrollable_content_region.height
        top = max(0, len(lines) - height)
        if self._follow and top and constants.MAX_FPS <= FPS_OVER_SSH:
            ahead = max(1, height // LEAP)
            top = offset.y if top <= offset.y < top + ahead and old else top + ahead - 1
        size = Size(width, max(len(lines), top + height) if self._follow else len(lines))
        self._resize_to(size)
        if not self._follow or top == offset.y:
            self._draw_again(old)
        elif self.show_vertical_scrollbar:
            self._scroll_by_growing(top)
        else:
            self.scroll_to(y=top, animate=False, immediate=True)
            self.refresh()

    def _resize_to(self, size: Size) -> None:
        """Another size of the text. A screen is laid out anew only where that makes a scroll bar come or go."""
        if size == self.virtual_size:
            return
        if self.show_vertical_scrollbar and size.height > self.container_size.height:
            self.set_reactive(AnswerText.virtual_size, size)
            self._move_bar(ScrollBar.window_virtual_size, size.height)
        else:
            self.virtual_size = size

    def _scroll_by_growing(self, top: int) -> None:
        """What `scroll_to` does at once; the scroll bar comes after it."""
        self.set_reactive(AnswerText.scroll_y, top)
        self.set_reactive(AnswerText.scroll_target_y, top)
        self._move_bar(ScrollBar.position, top)
        self.refresh(self.scrollable_content_region.size.region)

    def _move_bar(self, what: Reactive[Any], value: float) -> None:
        """Tell the scroll bar something that it shows a moment later."""
        self.vertical_scrollbar.set_reactive(what, value)
        if self._bar_timer is None:
            self._bar_timer = self.set_timer(BAR_SECONDS, self._draw_bar)

    def _draw_bar(self) -> None:
        self._bar_timer = None
        self.vertical_scrollbar.refresh()

    def _draw_again(self, old: list[Line]) -> None:
        """Draw the lines in sight that differ from those before: while text streams, often only the last one."""
        first, (width, height) = self.scroll_offset.y, self.scrollable_content_region.size
        for y, at in enumerate(range(first, first + height)):
            if (old[at] if at < len(old) else None) != (self._lines[at] if at < len(self._lines) else None):
                self.refresh(Region(0, y, width, 1))

    def follow(self) -> None:
        """Go to the end, and stay there while it grows."""
        self._follow = True
        self._lay_out()

    def top(self) -> None:
        """Go to where the last block begins."""
        if self._starts and len(self._lines) - self._starts[-1] > self.scrollable_content_region.height:
            self._follow = False
            self.scroll_to(y=self._starts[-1], animate=False, immediate=True)
        else:
            self.follow()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follow = round(new_value) >= len(self._lines) - self.scrollable_content_region.height

    def on_resize(self) -> None:
        self._lay_out()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles, self._drawn = {}, {}

    def _style(self, look: str) -> Style:
        if look not in self._styles:
            base = self.rich_style
            self._styles[look] = base + self.get_component_rich_style(f"answer--{look}", partial=True) if look else base
        return self._styles[look]

    def _line(self, y: int) -> Strip:
        """What stands in a line in sight, with the margin at its left."""
        number = y + self.scroll_offset.y
        line = tuple(self._lines[number]) if number < len(self._lines) else ()
        if (strip := self._drawn.get(line)) is None:
            if len(self._drawn) >= MOST_DRAWN:
                self._drawn.clear()
            segments = [Segment(text, self._style(look)) for text, look in ((" ", ""), *line)]
            width = self.scrollable_content_region.width + 1
            strip = self._drawn[line] = Strip(segments).adjust_cell_length(width, self._style("")).simplify()
        return strip

    def render_line(self, y: int) -> Strip:
        return self._line(y).crop(1)

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines in sight. Textual's own way draws all of them anew whenever the text scrolls by one."""
        if self.app.native_ansi_color:
            return super().render_lines(crop)
        strips = [self._line(y) for y in range(crop.y, crop.bottom)]
        for line_filter in self.get_line_filters():
            strips = [strip.apply_filter(line_filter, self.background_colors[1]) for strip in strips]
        return (
            strips if crop.column_span == (0, self.size.width) else [strip.crop(*crop.column_span) for strip in strips]
        )


class AnswerPane(Vertical):
    """Attributes: number: which column it is. area: its text."""

    DEFAULT_CSS = """
    AnswerPane { height: 1fr; width: 1fr; border-left: solid $panel-lighten-2; }
    AnswerPane.-first { border-left: none; }
    AnswerPane > .title { height: 1; padding: 0 1; background: $panel; color: $text-muted; }
    AnswerPane.-focused > .title { background: $primary-muted; color: $text; text-style: bold; }
    AnswerPane > .proof { height: auto; max-height: 4; padding: 0 1; color: $text-muted; background: $surface; display: none; }
    AnswerPane > .proof.-shown { display: block; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Chosen(Message):
        """The user is in this column now."""

        def __init__(self, pane: AnswerPane) -> None:
            super().__init__()
            self.pane = pane

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.area = number, AnswerText()
        self._title, self._proof = "", ()

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        yield self.area
        yield Static(classes="proof", markup=False)

    def show(self, title: str, blocks: list[Block], proof: Sequence[Run]) -> None:
        """Show title, text and proof."""
        if title != self._title:
            self._title = title
            self.query_one(".title", Static).update(Content(title), layout=False)  # it counts tokens at every frame
        if tuple(proof) != self._proof:
            self._proof = tuple(proof)
            below = self.query_one(".proof", Static)
            colours = {"wrong": "$text-error", "": "$text"}
            below.update(Content.assemble(*((text, colours.get(look, "")) for text, look in proof)))
            below.set_class(bool(proof), "-shown")
        self.area.show(blocks)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self.post_message(self.Chosen(self))

    def on_click(self) -> None:
        self.area.focus()
