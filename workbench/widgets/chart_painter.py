"""How a line chart is painted: curves, letters along them, axes, legend and read-out, as strips for a screen.

Comes from: a `LineChart` with what it is to show, and `models.plot`. Nothing is kept between two pictures.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from engine.text import cells, cut, one_line, pad
from workbench.models.plot import ACROSS, Axis, Column, Dots, axis_of, column_of, columns, exact, number, tick_labels
from workbench.models.series import Series

if TYPE_CHECKING:
    from workbench.widgets.line_chart import LineChart

LETTERS = "abcdefghijklmnop"
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
class Drawn:
    """One line of dots: a curve or its smoothed form. `owner`: an even number, and the next odd one where it is dim."""

    found: list[Column]
    owner: int
    points: int


@dataclass
class Picture:
    strips: list[Strip] = field(default_factory=list)
    columns: int = 0
    left: int = 0
    range: tuple[float, float] = (0.0, 1.0)


class ChartPainter:
    """Paints one picture of a chart."""

    def __init__(self, chart: LineChart) -> None:
        self.chart = chart

    def picture(self, width: int, height: int) -> Picture:
        legend = self._legend(width)[: max(1, height // 3)]
        picture = Picture(strips=[s.adjust_cell_length(width, self.chart.base).simplify() for s in legend])
        rows = height - len(legend) - 1
        whole = self.chart.range
        if whole is None or width < NARROWEST or rows < LOWEST:
            text = self.chart.placeholder if whole is None else "no room for the chart"
            picture.strips += self._middle(text, width, height - len(legend))
            return picture
        x0, x1 = self.chart.window or whole
        x0, x1 = (x0 - 0.5, x1 + 0.5) if x1 <= x0 else (x0, x1)
        picture.left, picture.columns, picture.range = GUTTER + 1, width - GUTTER - 1, (x0, x1)
        drawn = self._lines(x0, x1, picture.columns * ACROSS)
        axis = axis_of((d.found for d in drawn), self.chart.log_axis)
        if axis is None:
            text = "nothing above zero: a shows a linear axis" if any(d.found for d in drawn) else "no points here"
            picture.strips += self._middle(text, width, height - len(legend))
            return picture
        picture.strips += self._plot(picture, drawn, axis, rows)
        picture.strips.append(self._below(picture, width))
        return picture

    def _middle(self, text: str, width: int, height: int) -> list[Strip]:
        blank = Strip.blank(width, self.chart.base)
        line = cut(text, width)
        left = (width - cells(line)) // 2
        strip = Strip([Segment(" " * left, self.chart.base), Segment(line, self.chart.style_of("axis"))])
        strips = [blank] * height
        if height > 0:
            strips[height // 2] = strip.adjust_cell_length(width, self.chart.base)
        return strips

    def _lines(self, x0: float, x1: float, count: int) -> list[Drawn]:
        """What is drawn, the last one on top."""
        drawn: list[Drawn] = []
        for number_, curve in enumerate(self.chart.curves):
            with curve.lock or threading.Lock():
                raw = columns(curve.series, x0, x1, count)
                if self.chart.smoothing and len(curve.series) > 2:
                    drawn.append(Drawn(raw, 2 * number_ + 1, len(raw)))
                    smooth = curve.series.smoothed(self.chart.smoothing)
                    drawn.append(Drawn(columns(smooth, x0, x1, count), 2 * number_, len(raw)))
                else:
                    drawn.append(Drawn(raw, 2 * number_, len(raw)))
        return sorted(drawn, key=lambda d: (d.owner % 2 == 0, -d.owner))

    def _plot(self, picture: Picture, drawn: list[Drawn], axis: Axis, rows: int) -> list[Strip]:
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
        for tick, label in zip(ticks, tick_labels(ticks, self.chart.unit, axis.log), strict=True):
            labels.setdefault(axis.row(tick, rows * 4) // 4, label)
        cursor = self._cursor_column(picture)
        side = "|" if self.chart.ascii else "│"
        strips = []
        for row in range(rows):
            label = labels.get(row, "")
            mark = side if not label else "+" if self.chart.ascii else "┤"
            segments = [Segment(pad(cut(label, GUTTER - 1), GUTTER - 1, ">") + " " + mark, self.chart.style_of("axis"))]
            strips.append(Strip([*segments, *self._row(chars[row], owners[row], cursor)]))
        return strips

    def _characters(self, dots: Dots, row: int) -> list[str]:
        """The cells of a row."""
        if not self.chart.ascii:
            return list(dots.text(row))
        several = len(self.chart.curves) > 1
        mark = lambda owner: "." if owner % 2 else LETTERS[owner // 2 % len(LETTERS)] if several else "*"  # noqa: E731
        return [mark(o) if b else " " for b, o in zip(dots.bits[row], dots.owner[row], strict=True)]

    def _put_letters(self, chars: list[list[str]], owners: list[list[int]], d: Drawn, axis: Axis, rows: int) -> None:
        """A curve's letter along it, where there are several; a mark on every point of one that has few."""
        several, number_ = len(self.chart.curves) > 1, d.owner // 2
        if d.owner % 2 or not d.found or not (several or d.points < 3):
            return
        letter = LETTERS[number_ % len(LETTERS)] if several else ("o" if self.chart.ascii else "●")
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

    def _put_bad(self, chars: list[list[str]], owners: list[list[int]], picture: Picture) -> None:
        """A mark at the top where a value was NaN or infinite."""
        x0, x1 = picture.range
        for curve in self.chart.curves:
            for x in curve.series.bad[-1000:]:
                if x0 <= x <= x1:
                    at = column_of(x, x0, x1, picture.columns)
                    chars[0][at], owners[0][at] = ("!" if self.chart.ascii else "✗"), -2

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
            style = (
                self.chart.style_of("bad")
                if owner == -2
                else self.chart.curve_style(owner)
                if owner >= 0
                else self.chart.base
            )
            if cursor is not None and at <= cursor < at + len(text):
                here = text[cursor - at]
                mark, shown = (here, style + Style(reverse=True))
                if here == " ":
                    mark, shown = (":" if self.chart.ascii else "┊"), self.chart.style_of("cursor")
                parts = ((text[: cursor - at], style), (mark, shown), (text[cursor - at + 1 :], style))
                segments += [Segment(t, s) for t, s in parts if t]
            else:
                segments.append(Segment(text, style))
            at += len(text)
        return segments

    def _below(self, picture: Picture, width: int) -> Strip:
        """The labels of the horizontal axis: its ends, and the middle where there is room."""
        x0, x1 = picture.range
        corner, dash = ("+", "-") if self.chart.ascii else ("└", "─")
        room = picture.columns
        left, right = f" {math.ceil(x0):,} ", f" {math.floor(x1):,} step"
        middle = f" {round((x0 + x1) / 2):,} "
        line = dash * room
        if len(left) + len(right) + 2 <= room:
            line = left + dash * (room - len(left) - len(right)) + right
            at = room // 2 - len(middle) // 2
            if x1 - x0 >= 4 and at > len(left) + 2 and at + len(middle) < room - len(right) - 2:
                line = line[:at] + middle + line[at + len(middle) :]
        return Strip([Segment(" " * GUTTER + corner + line, self.chart.style_of("axis"))]).adjust_cell_length(width)

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
            lines[-1] += [Segment(text, style), Segment("  ", self.chart.base)]
            used += cells(text) + 2
        return [Strip(line).crop(0, width) for line in lines]

    def _parts(self, words: bool, short: bool) -> list[tuple[str, Style]]:
        """(text, style) of the legend; `words`: with unit and modes; `short`: with rounded values."""
        parts = [(self.chart.heading, self.chart.style_of("title"))]
        if self.chart.cursor is not None:
            parts.append((f"step {round(self.chart.cursor):,}", self.chart.style_of("axis")))
        for number_, curve in enumerate(self.chart.curves):
            letter = f"{LETTERS[number_ % len(LETTERS)]} " if len(self.chart.curves) > 1 else ""
            text = f"{letter}{one_line(curve.label)} {self._read(curve, short)}".replace("  ", " ").strip()
            parts.append((text, self.chart.curve_style(2 * number_) if len(self.chart.curves) > 1 else self.chart.base))
        modes = [self.chart.unit if self.chart.unit != "B" else "", "log" if self.chart.log_axis else ""]
        modes.append(f"smoothed {self.chart.smoothing:g}" if self.chart.smoothing else "")
        said = ", ".join(m for m in modes if m)
        return [*parts, (said, self.chart.style_of("axis"))] if words and said else parts

    def _read(self, curve: Curve, short: bool) -> str:
        """The value at the cursor, or the newest one."""
        with curve.lock or threading.Lock():
            series = curve.series
            bad = len(series.bad)
            said = "" if not bad else f" ({bad:,} NaN)" if short else f" ({bad:,} NaN or infinite)"
            at = (
                series.nearest(self.chart.cursor)
                if self.chart.cursor is not None
                else len(series) - 1
                if len(series)
                else None
            )
            if at is None:
                return f"-{said}"
            if self.chart.cursor is None:
                return number(series.y[at], self.chart.unit) + said
            x, value = series.x[at], series.y[at]
            text = number(value, self.chart.unit) if short else exact(value, self.chart.unit)
            if self.chart.smoothing and len(series) > 2 and not short:
                text += f" (~{number(series.smoothed(self.chart.smoothing).y[at], self.chart.unit)})"
            return text + ("" if round(x) == round(self.chart.cursor) else f" at {round(x):,}") + said

    def _cursor_column(self, picture: Picture) -> int | None:
        x0, x1 = picture.range
        if self.chart.cursor is None or not x0 <= self.chart.cursor <= x1:
            return None
        return column_of(self.chart.cursor, x0, x1, picture.columns)
