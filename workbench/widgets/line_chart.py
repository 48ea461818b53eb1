"""A line chart in Braille dots: any number of points, several curves, a cursor that reads exact values off.

Curves are told apart by letters along them (and in the legend), colours come on top. A redraw costs a few bisections a
column (see `models.plot`), and only lines of the screen that became different are sent to the terminal.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from engine.text import cells, cut, one_line, pad
from workbench import actions
from workbench.models.plot import ACROSS, Axis, Column, Dots, axis_of, column_of, columns, exact, number, tick_labels
from workbench.models.series import Series

LETTERS = "abcdefghijklmnop"
SMOOTHINGS = (0.0, 0.6, 0.9, 0.98)
GUTTER = 9
"""Cells of the labels at the left, the line beside them not counted."""
NARROWEST, LOWEST = 20, 3


@dataclass(frozen=True)
class Curve:
    """A series, what it is called in the legend ("" where it is the only one), and the lock of who writes it."""

    series: Series
    label: str = ""
    lock: threading.RLock | None = None


@dataclass
class _Drawn:
    """One line of dots: a curve or its smoothed form. `owner`: an even number, and the next odd one where it is dim."""

    found: list[Column]
    owner: int
    points: int


@dataclass
class _Picture:
    strips: list[Strip] = field(default_factory=list)
    columns: int = 0
    left: int = 0
    range: tuple[float, float] = (0.0, 1.0)


class LineChart(Widget, can_focus=True):
    """The curves that `show` was given last.

    Attributes:
        log: the vertical axis is logarithmic. smoothing: weight of the moving average, 0: none.
        cursor: the step that is read off, None: the newest values are shown.
        window: first and last step shown, None: all.
        placeholder: what stands there while there is no point.
    """

    HELP = (
        "Left and right (h, l) move the cursor that reads values off, g and G to the ends, Escape takes it away; + and - "
        "zoom around it, 0 shows all; a switches to a logarithmic axis, e smooths. A click puts the cursor somewhere."
    )
    SCOPES: ClassVar = ("chart",)
    BINDINGS: ClassVar = actions.bindings("chart")
    COMPONENT_CLASSES: ClassVar = {
        "line-chart--title", "line-chart--axis", "line-chart--cursor", "line-chart--bad",
        *(f"line-chart--curve-{i}" for i in range(6)),
    }  # fmt: skip
    DEFAULT_CSS = """
    LineChart { height: 1fr; width: 1fr; min-height: 3; }
    LineChart .line-chart--title { text-style: bold; }
    LineChart .line-chart--axis { color: $text-muted; }
    LineChart .line-chart--cursor { color: $text-accent; }
    LineChart .line-chart--bad { color: $text-error; text-style: bold; }
    LineChart .line-chart--curve-0 { color: $primary; }
    LineChart .line-chart--curve-1 { color: $warning; }
    LineChart .line-chart--curve-2 { color: $success; }
    LineChart .line-chart--curve-3 { color: $error; }
    LineChart .line-chart--curve-4 { color: $accent; }
    LineChart .line-chart--curve-5 { color: $secondary; }
    LineChart:focus .line-chart--title { background: $primary; color: $text; }
    """

    log_axis: reactive[bool] = reactive(False, init=False)
    smoothing: reactive[float] = reactive(0.0, init=False)
    cursor: reactive[float | None] = reactive(None, init=False)
    window: reactive[tuple[float, float] | None] = reactive(None, init=False)

    class Moved(Message):
        """Cursor, window or smoothing were changed by the user; charts beside it may follow."""

        def __init__(self, chart: LineChart) -> None:
            super().__init__()
            self.chart = chart

    def __init__(
        self,
        heading: str,
        unit: str = "",
        placeholder: str = "no points yet",
        *,
        ascii: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self.heading, self.unit, self.placeholder, self.ascii = heading, unit, placeholder, ascii
        self.curves: Sequence[Curve] = ()
        self._picture = _Picture()
        self._styles: dict[str, Style] = {}

    def show(self, curves: Sequence[Curve]) -> None:
        """Draw these curves as they are now; lines that look the same are not drawn again."""
        self.curves = curves
        self.redraw()

    def redraw(self) -> None:
        if not self.is_attached or not self.size:
            return
        old, self._picture = self._picture.strips, self._draw(*self.size)
        new = self._picture.strips
        if len(old) != len(new):
            self.refresh()
            return
        changed = [Region(0, y, self.size.width, 1) for y, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
        if changed:
            self.refresh(*changed)

    def on_resize(self) -> None:
        self.redraw()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()
        self.redraw()

    def on_focus(self) -> None:
        self._styles.clear()
        self.redraw()

    def on_blur(self) -> None:
        self._styles.clear()
        self.redraw()

    def watch_log_axis(self) -> None:
        self.redraw()

    def watch_smoothing(self) -> None:
        self.redraw()

    def watch_cursor(self) -> None:
        self.redraw()

    def watch_window(self) -> None:
        self.redraw()

    def render_line(self, y: int) -> Strip:
        strips = self._picture.strips
        return strips[y] if y < len(strips) else Strip.blank(self.size.width, self.rich_style)

    # --- drawing

    @property
    def _base(self) -> Style:
        """The widget's own style, which Textual makes anew each time it is asked for."""
        if "" not in self._styles:
            self._styles[""] = self.rich_style
        return self._styles[""]

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            own = self.get_component_rich_style(f"line-chart--{name}")
            self._styles[name] = own
        return self._styles[name]

    def _curve_style(self, owner: int) -> Style:
        name = f"curve-{owner // 2 % 6}"
        if not owner % 2:
            return self._style(name)
        dim = f"{name} dim"
        if dim not in self._styles:
            self._styles[dim] = self._style(name) + Style(dim=True)
        return self._styles[dim]

    @property
    def range(self) -> tuple[float, float] | None:
        """First and last step of all curves."""
        ends = [e for c in self.curves for a in (c.series.x, c.series.bad) if a for e in (a[0], a[-1])]
        return (min(ends), max(ends)) if ends else None

    def _draw(self, width: int, height: int) -> _Picture:
        legend = self._legend(width)[: max(1, height // 3)]
        picture = _Picture(strips=[s.adjust_cell_length(width, self._base).simplify() for s in legend])
        rows = height - len(legend) - 1
        whole = self.range
        if whole is None or width < NARROWEST or rows < LOWEST:
            text = self.placeholder if whole is None else "no room for the chart"
            picture.strips += self._middle(text, width, height - len(legend))
            return picture
        x0, x1 = self.window or whole
        x0, x1 = (x0 - 0.5, x1 + 0.5) if x1 <= x0 else (x0, x1)
        picture.left, picture.columns, picture.range = GUTTER + 1, width - GUTTER - 1, (x0, x1)
        drawn = self._lines(x0, x1, picture.columns * ACROSS)
        axis = axis_of((d.found for d in drawn), self.log_axis)
        if axis is None:
            text = "nothing above zero: a shows a linear axis" if any(d.found for d in drawn) else "no points here"
            picture.strips += self._middle(text, width, height - len(legend))
            return picture
        picture.strips += self._plot(picture, drawn, axis, rows)
        picture.strips.append(self._below(picture, width))
        return picture

    def _middle(self, text: str, width: int, height: int) -> list[Strip]:
        blank = Strip.blank(width, self._base)
        line = cut(text, width)
        left = (width - cells(line)) // 2
        strip = Strip([Segment(" " * left, self._base), Segment(line, self._style("axis"))])
        strips = [blank] * height
        if height > 0:
            strips[height // 2] = strip.adjust_cell_length(width, self._base)
        return strips

    def _lines(self, x0: float, x1: float, count: int) -> list[_Drawn]:
        """What is drawn, the last one on top."""
        drawn: list[_Drawn] = []
        for number_, curve in enumerate(self.curves):
            with curve.lock or threading.Lock():
                raw = columns(curve.series, x0, x1, count)
                if self.smoothing and len(curve.series) > 2:
                    drawn.append(_Drawn(raw, 2 * number_ + 1, len(raw)))
                    smooth = curve.series.smoothed(self.smoothing)
                    drawn.append(_Drawn(columns(smooth, x0, x1, count), 2 * number_, len(raw)))
                else:
                    drawn.append(_Drawn(raw, 2 * number_, len(raw)))
        return sorted(drawn, key=lambda d: (d.owner % 2 == 0, -d.owner))

    def _plot(self, picture: _Picture, drawn: list[_Drawn], axis: Axis, rows: int) -> list[Strip]:
        dots = Dots(picture.columns, rows)
        for d in drawn:
            dots.draw(d.found, axis, d.owner)
        chars = [self._characters(dots, row) for row in range(rows)]
        owners = dots.owner
        for d in drawn:
            self._put_letters(chars, owners, d, axis, rows)
        self._put_bad(chars, owners, picture)
        labels: dict[int, str] = {}
        ticks = axis.ticks(max(2, min(6, (rows + 1) // 2)))
        for tick, label in zip(ticks, tick_labels(ticks, self.unit, axis.log), strict=True):
            labels.setdefault(axis.row(tick, rows * 4) // 4, label)
        cursor = self._cursor_column(picture)
        side = "|" if self.ascii else "│"
        strips = []
        for row in range(rows):
            label = labels.get(row, "")
            mark = side if not label else "+" if self.ascii else "┤"
            segments = [Segment(pad(cut(label, GUTTER - 1), GUTTER - 1, ">") + " " + mark, self._style("axis"))]
            strips.append(Strip([*segments, *self._row(chars[row], owners[row], cursor)]))
        return strips

    def _characters(self, dots: Dots, row: int) -> list[str]:
        """The cells of a row."""
        if not self.ascii:
            return list(dots.text(row))
        several = len(self.curves) > 1
        mark = lambda owner: "." if owner % 2 else LETTERS[owner // 2 % len(LETTERS)] if several else "*"  # noqa: E731
        return [mark(o) if b else " " for b, o in zip(dots.bits[row], dots.owner[row], strict=True)]

    def _put_letters(self, chars: list[list[str]], owners: list[list[int]], d: _Drawn, axis: Axis, rows: int) -> None:
        """A curve's letter along it, where there are several; a mark on every point of one that has few."""
        several, number_ = len(self.curves) > 1, d.owner // 2
        if d.owner % 2 or not d.found or not (several or d.points < 3):
            return
        letter = LETTERS[number_ % len(LETTERS)] if several else ("o" if self.ascii else "●")
        if d.points <= 12:
            chosen = d.found
        else:
            every = 24
            places = range((number_ * 7) % every, len(chars[0]), every)
            by_cell = {c.at // ACROSS: c for c in d.found}
            chosen = [c for p in places if (c := by_cell.get(p)) is not None] or [d.found[len(d.found) // 2]]
        for c in chosen:
            row = axis.row(c.last, rows * 4) // 4
            chars[row][c.at // ACROSS] = letter
            owners[row][c.at // ACROSS] = d.owner

    def _put_bad(self, chars: list[list[str]], owners: list[list[int]], picture: _Picture) -> None:
        """A mark at the top where a value was NaN or infinite."""
        x0, x1 = picture.range
        for curve in self.curves:
            for x in curve.series.bad[-1000:]:
                if x0 <= x <= x1:
                    at = column_of(x, x0, x1, picture.columns)
                    chars[0][at], owners[0][at] = ("!" if self.ascii else "✗"), -2

    def _row(self, chars: list[str], owners: list[int], cursor: int | None) -> list[Segment]:
        """A row of the plot: pieces of one style each."""
        pieces: list[tuple[int, str]] = []
        begin = 0
        for owner, group in groupby(owners):
            end = begin + sum(1 for _ in group)
            pieces.append((owner, "".join(chars[begin:end])))
            begin = end
        segments: list[Segment] = []
        at = 0
        for owner, text in pieces:
            style = self._style("bad") if owner == -2 else self._curve_style(owner) if owner >= 0 else self._base
            if cursor is not None and at <= cursor < at + len(text):
                here = text[cursor - at]
                mark, shown = (here, style + Style(reverse=True))
                if here == " ":
                    mark, shown = (":" if self.ascii else "┊"), self._style("cursor")
                parts = ((text[: cursor - at], style), (mark, shown), (text[cursor - at + 1 :], style))
                segments += [Segment(t, s) for t, s in parts if t]
            else:
                segments.append(Segment(text, style))
            at += len(text)
        return segments

    def _below(self, picture: _Picture, width: int) -> Strip:
        """The labels of the horizontal axis: its ends, and the middle where there is room."""
        x0, x1 = picture.range
        corner, dash = ("+", "-") if self.ascii else ("└", "─")
        room = picture.columns
        left, right = f" {math.ceil(x0):,} ", f" {math.floor(x1):,} step"
        middle = f" {round((x0 + x1) / 2):,} "
        line = dash * room
        if len(left) + len(right) + 2 <= room:
            line = left + dash * (room - len(left) - len(right)) + right
            at = room // 2 - len(middle) // 2
            if x1 - x0 >= 4 and at > len(left) + 2 and at + len(middle) < room - len(right) - 2:
                line = line[:at] + middle + line[at + len(middle) :]
        return Strip([Segment(" " * GUTTER + corner + line, self._style("axis"))]).adjust_cell_length(width)

    # --- the legend and the read-out

    def _legend(self, width: int) -> list[Strip]:
        """The heading and what each curve reads: in one line where that is possible with fewer words, else in several."""
        for words, short in ((True, False), (False, False), (False, True)):
            parts = self._parts(words, short)
            if sum(cells(text) + 2 for text, _ in parts) - 2 <= width:
                break
        lines: list[list[Segment]] = [[]]
        used = 0
        for text, style in parts:
            text = cut(text, width)
            if used and used + cells(text) > width:
                lines.append([])
                used = 0
            lines[-1] += [Segment(text, style), Segment("  ", self._base)]
            used += cells(text) + 2
        return [Strip(line).crop(0, width) for line in lines]

    def _parts(self, words: bool, short: bool) -> list[tuple[str, Style]]:
        """(text, style) of the legend; `words`: with unit and modes; `short`: with rounded values."""
        parts = [(self.heading, self._style("title"))]
        if self.cursor is not None:
            parts.append((f"step {round(self.cursor):,}", self._style("axis")))
        for number_, curve in enumerate(self.curves):
            letter = f"{LETTERS[number_ % len(LETTERS)]} " if len(self.curves) > 1 else ""
            text = f"{letter}{one_line(curve.label)} {self._read(curve, short)}".replace("  ", " ").strip()
            parts.append((text, self._curve_style(2 * number_) if len(self.curves) > 1 else self._base))
        modes = [self.unit if self.unit != "B" else "", "log" if self.log_axis else ""]
        modes.append(f"smoothed {self.smoothing:g}" if self.smoothing else "")
        said = ", ".join(m for m in modes if m)
        return [*parts, (said, self._style("axis"))] if words and said else parts

    def _read(self, curve: Curve, short: bool) -> str:
        """The value at the cursor, or the newest one."""
        with curve.lock or threading.Lock():
            series = curve.series
            bad = len(series.bad)
            said = "" if not bad else f" ({bad:,} NaN)" if short else f" ({bad:,} NaN or infinite)"
            at = series.nearest(self.cursor) if self.cursor is not None else len(series) - 1 if len(series) else None
            if at is None:
                return f"-{said}"
            if self.cursor is None:
                return number(series.y[at], self.unit) + said
            x, value = series.x[at], series.y[at]
            text = number(value, self.unit) if short else exact(value, self.unit)
            if self.smoothing and len(series) > 2 and not short:
                text += f" (~{number(series.smoothed(self.smoothing).y[at], self.unit)})"
            return text + ("" if round(x) == round(self.cursor) else f" at {round(x):,}") + said

    # --- the cursor

    def _cursor_column(self, picture: _Picture) -> int | None:
        x0, x1 = picture.range
        if self.cursor is None or not x0 <= self.cursor <= x1:
            return None
        return column_of(self.cursor, x0, x1, picture.columns)

    def _longest(self) -> Series | None:
        return max((c.series for c in self.curves), key=len, default=None)

    def move(self, by: int) -> None:
        """Move the cursor by so many cells, at least to the next point."""
        series, whole = self._longest(), self.range
        if series is None or not len(series) or whole is None:
            return
        x0, x1 = self.window or whole
        if self.cursor is None:
            self.put(min(x1, series.x[-1]) if by < 0 else max(x0, series.x[0]))
            return
        wanted = self.cursor + by * (x1 - x0) / max(1, self._picture.columns)
        at = series.nearest(wanted)
        now = series.nearest(self.cursor)
        assert at is not None and now is not None
        if at == now:
            at = min(len(series) - 1, max(0, now + (1 if by > 0 else -1)))
        self.put(series.x[at])

    def put(self, x: float | None) -> None:
        """Put the cursor at a step, with the window around it."""
        if x is not None and self.window is not None and not self.window[0] <= x <= self.window[1]:
            half = (self.window[1] - self.window[0]) / 2
            self._look(x - half, x + half)
        self.cursor = x
        self.post_message(self.Moved(self))

    def zoom(self, factor: float) -> None:
        """Show `factor` times as many steps, around the cursor or, without one, up to the newest."""
        whole = self.range
        if whole is None:
            return
        x0, x1 = self.window or whole
        centre = self.cursor if self.cursor is not None and x0 <= self.cursor <= x1 else x1
        span = max(4.0, (x1 - x0) * factor)
        share = (centre - x0) / (x1 - x0) if x1 > x0 else 0.5
        self._look(centre - share * span, centre + (1 - share) * span)
        self.post_message(self.Moved(self))

    def _look(self, x0: float, x1: float) -> None:
        whole = self.range
        if whole is None or (x1 - x0) >= whole[1] - whole[0]:
            self.window = None
            return
        if x0 < whole[0]:
            x0, x1 = whole[0], x1 + whole[0] - x0
        if x1 > whole[1]:
            x0, x1 = x0 - (x1 - whole[1]), whole[1]
        self.window = (x0, x1)

    def on_click(self, event: events.Click) -> None:
        x0, x1 = self._picture.range
        at = event.x - self._picture.left
        series = self._longest()
        if self._picture.columns and 0 <= at < self._picture.columns and series is not None:
            nearest = series.nearest(x0 + (at + 0.5) / self._picture.columns * (x1 - x0))
            if nearest is not None:
                self.put(series.x[nearest])

    def act_chart_left(self) -> None:
        self.move(-1)

    def act_chart_right(self) -> None:
        self.move(1)

    def act_chart_first(self) -> None:
        series = self._longest()
        self.put(series.x[0] if series is not None and len(series) else None)

    def act_chart_last(self) -> None:
        series = self._longest()
        self.put(series.x[-1] if series is not None and len(series) else None)

    def may_chart_clear(self) -> bool:
        return self.cursor is not None

    def act_chart_clear(self) -> None:
        self.put(None)

    def act_chart_closer(self) -> None:
        self.zoom(0.5)

    def act_chart_wider(self) -> None:
        self.zoom(2.0)

    def act_chart_all(self) -> None:
        self.window = None
        self.post_message(self.Moved(self))

    def act_chart_log(self) -> None:
        self.log_axis = not self.log_axis

    def act_chart_smooth(self) -> None:
        at = SMOOTHINGS.index(self.smoothing) if self.smoothing in SMOOTHINGS else 0
        self.smoothing = SMOOTHINGS[(at + 1) % len(SMOOTHINGS)]
        self.post_message(self.Moved(self))
