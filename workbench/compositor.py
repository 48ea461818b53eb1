"""What a change on the screen costs: only widgets that stand where something changed are asked for their lines, and only
what differs from what the terminal shows is sent to it.

Textual's own partial update asks every widget within the box around all changes, also those that are covered, and sends
all of a changed region: while two panes stream, half of the work, and most of the bytes of a slow link.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor, ReflowResult
from textual._context import visible_screen_stack
from textual.geometry import Region, Size
from textual.strip import Strip

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from textual.screen import Screen
    from textual.widget import Widget

Span = tuple[int, int]
"""Cells of a line, from the first to behind the last."""
Places = dict["Widget", tuple[Region, Region]]
"""Where widgets stand, and the part of the screen on which they are seen."""
Sent = dict[int, dict[int, Strip]]
"""Pieces of lines on the terminal: line, first cell, what was written there."""


class Sparing(Compositor):
    """A compositor that remembers what it has sent."""

    def __init__(self) -> None:
        super().__init__()
        self._left: dict[int, list[Span]] | None = None
        self._sent: Sent = {}
        self._sent_cuts: list[list[int]] | None = None
        self._stood: Places = {}

    def reflow(self, parent: Widget, size: Size) -> ReflowResult:
        result = super().reflow(parent, size)
        self._mark_moves()
        return result

    def reflow_visible(self, parent: Widget, size: Size) -> set[Widget]:
        exposed = super().reflow_visible(parent, size)
        self._mark_moves()
        return exposed

    def _mark_moves(self) -> None:
        """Where widgets stand that did not stand there before, and where they stood, is to be drawn.

        Textual compares with the last arrangement it made of all widgets, which is not what the terminal shows after
        scrolling, or after somebody asked where a widget is: what stood only there would stay on the terminal. Marked when
        widgets are arranged, too, because a screen beneath another hands its marks up and is not asked for a frame.
        """
        stand = self.visible_widgets
        if stand is not self._stood:
            moved = stand.items() ^ self._stood.items()
            self._dirty_regions.update(seen for _, (region, clip) in moved if (seen := region.intersection(clip)))
            self._stood = stand

    def render_update(
        self, full: bool = False, screen_stack: list[Screen] | None = None, simplify: bool = False
    ) -> RenderableType | None:
        if simplify:
            return super().render_update(full, screen_stack, simplify)
        visible_screen_stack.set(screen_stack or [])
        self._mark_moves()
        if full or self.size.region in self._dirty_regions:
            self._dirty_regions.add(self.size.region)
            self._sent_cuts = None
        return self.render_partial_update()

    def render_partial_update(self) -> ChopsUpdate | None:
        seen = self.size.region
        regions = [cut for region in self._dirty_regions if (cut := region.intersection(seen))]
        self._dirty_regions.clear()
        if not regions:
            return None
        spans = list(self._regions_to_spans(regions))
        cuts = self.cuts
        if cuts is not self._sent_cuts:  # widgets came, went or moved: pieces of lines begin elsewhere
            self._sent_cuts = cuts
            self._sent = {y: {} for y in range(seen.height)}
        self._left = defaultdict(list)
        for y, start, end in spans:
            self._left[y].append((start, end))
        try:
            chops = self._render_chops(Region.from_union(regions), {y for y, _, _ in spans}.__contains__)
        finally:
            self._left = None
        return Differences(chops, spans, [line[1:] for line in cuts], self._sent)

    def _get_renders(self, crop: Region | None = None) -> Iterable[tuple[Region, Region, list[Strip]]]:
        """Front to back, as Textual's, with the rows that are needed of each widget."""
        if self._left is None:
            yield from super()._get_renders(crop)
            return
        left = dict(self._left)
        for widget, (region, clip) in self.visible_widgets.items():
            seen = region.intersection(clip)
            rows = [
                y for y, spans in left.items()
                if seen.y <= y < seen.bottom and any(start < seen.right and seen.x < end for start, end in spans)
            ]  # fmt: skip
            if not rows:
                continue
            part = Region(seen.x, min(rows), seen.width, max(rows) + 1 - min(rows))
            yield region, part, widget.render_lines(part.translate(-region.offset))
            for y in rows:
                left[y] = [span for whole in left[y] for span in _beside(whole, seen.x, seen.right)]
                if not left[y]:
                    del left[y]
            if not left:
                return


def _beside(span: Span, start: int, end: int) -> list[Span]:
    """What is left of a span where `start` to `end` is covered."""
    return [part for part in ((span[0], min(span[1], start)), (max(span[0], end), span[1])) if part[0] < part[1]]


class Differences(ChopsUpdate):
    """Pieces of lines, of which those are written that differ from what was written before.

    Args:
        sent: what was written last; what is written now is entered.
    """

    def __init__(
        self,
        chops: Sequence[Mapping[int, Strip | None]],
        spans: list[tuple[int, int, int]],
        chop_ends: list[list[int]],
        sent: Sent,
    ) -> None:
        super().__init__(chops, spans, chop_ends)
        self._sent = sent

    def render_segments(self, console: Console) -> str:
        written: list[str] = []

        def write(x: int, y: int, strip: Strip) -> None:
            written.extend((Control.move_to(x, y).segment.text, strip.render(console)))

        for y, start, end in self.spans:
            known = self._sent[y]
            for stop, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= end or stop <= start or known.get(x) == strip:
                    continue
                known[x] = strip
                write(x, y, strip)
                if sum(len(segment.text) for segment in strip) != strip.cell_length:
                    # Wide and joined characters: terminals differ about their cells, and may have gone beyond the piece.
                    for right in [place for place in known if place > x]:
                        write(right, y, known[right])
        return "".join(written)
