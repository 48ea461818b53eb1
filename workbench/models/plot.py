"""Curves as dots: which dots of a Braille grid a series touches, its axes, its ticks. No widget, no colour.

A cell has 2 x 4 dots. Many points fall on one column of dots: it is drawn from the least to the greatest of them, so
that no extreme is lost, and joined to its neighbours. The cost depends on the number of columns, not of points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from engine.text import size
from workbench.models.series import Series

ACROSS, DOWN = 2, 4
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Of the dots of a cell, by column and row (Unicode's Braille patterns)."""


class Column(NamedTuple):
    """The points of a series that fall on one column of dots: the first, least, greatest and last y."""

    at: int
    first: float
    least: float
    greatest: float
    last: float


def columns(series: Series, x0: float, x1: float, count: int) -> list[Column]:
    """The columns, of `count` from x0 to x1, that have points of `series`; the points just outside are left out."""
    begin, end = series.index(x0), series.index(math.nextafter(x1, math.inf))
    x, y = series.x, series.y
    found: list[Column] = []
    few = end - begin <= 2 * count
    while begin < end:
        at, upto = column_of(x[begin], x0, x1, count), begin + 1
        if at == count - 1:
            upto = end
        elif not few:
            upto = min(end, max(upto, series.index(x0 + (at + 1) * (x1 - x0) / count)))
        new = Column(at, y[begin], *series.extremes(begin, upto), y[upto - 1])
        if found and found[-1].at == at:
            old = found.pop()
            new = Column(at, old.first, min(old.least, new.least), max(old.greatest, new.greatest), new.last)
        found.append(new)
        begin = upto
    return found


def column_of(x: float, x0: float, x1: float, count: int) -> int:
    """The column of dots, of `count` from x0 to x1, that `x` falls on."""
    return min(count - 1, max(0, int((x - x0) / (x1 - x0) * count))) if x1 > x0 else count // 2


@dataclass(frozen=True, slots=True)
class Axis:
    """The vertical axis: from `low` at the bottom to `high` at the top, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    def rows(self, count: int) -> Callable[[float], int]:
        """What gives the row of a value, of `count` rows, 0 at the top; what the axis does not reach lies at its end."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        last = count - 1
        scale = last / (high - low) if high > low and math.isfinite(high - low) else 0.0
        if scale == 0.0 or not math.isfinite(scale):
            return lambda value: count // 2 if low >= high else _half(value, self.low, self.high, last)
        if self.log:
            return lambda value: last if value <= 0 else min(last, max(0, round((high - math.log10(value)) * scale)))
        return lambda value: min(last, max(0, round((high - value) * scale)))

    def row(self, value: float, count: int) -> int:
        return self.rows(count)(value)

    def ticks(self, most: int) -> list[float]:
        """At most `most` (at least 2) round values that lie on the axis; its ends where there are none."""
        found = _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)
        return found if len(found) > 1 else [self.low, self.high]


def _half(value: float, low: float, high: float, last: int) -> int:
    """The row on an axis whose length is no number that floats can say, or whose parts are not."""
    return (
        round((0.5 - value / 2 / max(abs(low), abs(high))) * last)
        if max(abs(low), abs(high)) >= 1.0
        else (0 if value == high else last)
    )


def axis_of(found: Iterable[list[Column]], log: bool) -> Axis | None:
    """The axis on which all columns have room; None where there is nothing to show (with `log`: nothing above 0)."""
    values = [v for cs in found for c in cs for v in (c.least, c.greatest) if not log or v > 0]
    if not values:
        return None
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.05 or 1.0
        return Axis(low / 1.1, high * 1.1, True) if log else Axis(low - room, high + room)
    return Axis(low, high, log)


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    each = (high - low) / max(1, most)
    if not each > 1e-300 or not math.isfinite(each):
        return [low]
    power = 10.0 ** math.floor(math.log10(each))
    for factor in (1, 2, 5, 10, 20, 50):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            return [i * step for i in range(first, last + 1)]
    return [low]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        found = [f * 10.0**p for p in range(first, last + 1) for f in factors if low <= f * 10.0**p <= high]
        if len(found) <= most:
            return found
    every = max(1, math.ceil((last - first) / max(1, most)))
    found = [10.0**p for p in range(first, last + 1, every) if low <= 10.0**p <= high]
    return found[:most]


class Dots:
    """A grid of cells, each with the dots that are set and the number of the curve that set one last (-1: none)."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = [bytearray(width) for _ in range(height)]
        self.owner = [[-1] * width for _ in range(height)]

    def set(self, x: int, y: int, owner: int) -> None:
        """Set the dot in column `x` and row `y` of dots."""
        column, row = x // ACROSS, y // DOWN
        self.bits[row][column] |= _BITS[x % ACROSS][y % DOWN]
        self.owner[row][column] = owner

    def fall(self, x: int, top: int, bottom: int, owner: int) -> None:
        """Set the dots of a column from row `top` to row `bottom`."""
        for y in range(top, bottom + 1):
            self.set(x, y, owner)

    def line(self, x0: int, y0: int, x1: int, y1: int, owner: int) -> None:
        """A straight line of dots; x1 >= x0."""
        steps = max(x1 - x0, abs(y1 - y0))
        for i in range(1, steps):
            self.set(x0 + round((x1 - x0) * i / steps), y0 + round((y1 - y0) * i / steps), owner)

    def draw(self, found: list[Column], axis: Axis, owner: int) -> None:
        """The columns of a curve, joined."""
        row = axis.rows(self.height * DOWN)
        before: Column | None = None
        for c in found:
            self.fall(c.at, row(c.greatest), row(c.least), owner)
            if before is not None:
                self.line(before.at, row(before.last), c.at, row(c.first), owner)
            before = c

    def text(self, row: int) -> str:
        """A row as Braille characters; spaces where nothing is."""
        return "".join(chr(0x2800 + b) if b else " " for b in self.bits[row])


def number(value: float, unit: str = "") -> str:
    """A value in few characters, for an axis or a legend: "0.734", "1.8e-4", "12.3k"; bytes as "1.2 GB"."""
    if not math.isfinite(value):
        return str(value)
    if unit == "B":
        return size(value) if value >= 0 else f"-{size(-value)}"
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude < 1e-3 or magnitude >= 1e15:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    for limit, divisor, letter in _PLAIN:
        if magnitude < limit:
            scaled = value / divisor
            digits = 4 if abs(scaled) < 1 else 3 if abs(scaled) < 10 else 2 if abs(scaled) < 100 else 1
            text = f"{scaled:.{digits}f}"
            return text.rstrip("0").rstrip(".") + letter
    return f"{value:.3g}"


def tick_labels(ticks: list[float], unit: str = "", log: bool = False) -> list[str]:
    """Labels of an axis: as many decimals as tell its ticks apart, the same for all of them."""
    largest = max(map(abs, ticks), default=0.0)
    gaps = [b - a for a, b in pairwise(ticks) if b > a]
    if log or not gaps or (largest < 1e-3 and unit != "B") or not math.isfinite(largest):
        return [number(t, unit) for t in ticks]
    scale = _BYTES if unit == "B" else _PLAIN
    divisor, letter = next((d, n) for limit, d, n in scale if largest < limit)
    digits = min(6, max(0, -math.floor(math.log10(min(gaps) / divisor) + 1e-9)))
    return [f"{t / divisor:.{digits}f}{letter}" for t in ticks]


_PLAIN = ((1e4, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M"), (math.inf, 1e9, "G"))
_BYTES = ((1e3, 1.0, " B"), (1e6, 1e3, " kB"), (1e9, 1e6, " MB"), (1e12, 1e9, " GB"), (math.inf, 1e12, " TB"))


def exact(value: float, unit: str = "") -> str:
    """A value as it was measured, in at most seven significant digits."""
    if unit == "B":
        return f"{value:,.0f} B ({size(value)})" if value >= 0 else f"{value:,.0f} B"
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:.7g}"
