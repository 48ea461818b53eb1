"""A curve: points by step, with a pyramid of minima and maxima over them, so that any stretch of any length is drawn at
the same cost and no extreme of it is lost. Plain Python: numpy would be 45 MB and a quarter of a second.

Comes from: `models.run`, folded from events. Goes to: `widgets.line_chart`.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence

FACTOR = 32
"""Points, or blocks, that a block of the next level stands for."""


class Series:
    """Points whose x ascends.

    Attributes:
        name: what it is, "train loss"; unit: of y, "nats/token", "" for a plain number.
        x, y: the points with a finite y.
        bad: the x of those whose y was NaN or infinite.
    """

    def __init__(self, name: str = "", unit: str = "") -> None:
        self.name, self.unit = name, unit
        self.x, self.y, self.bad = array("d"), array("d"), array("d")
        self._low: list[array[float]] = []
        self._high: list[array[float]] = []
        self._smooth: tuple[float, Series, float] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __bool__(self) -> bool:
        return bool(self.x or self.bad)

    def extend(self, x: Sequence[float], y: Sequence[float]) -> None:
        """Add points behind the others."""
        if not all(map(math.isfinite, y)):
            self.bad.extend(a for a, b in zip(x, y, strict=True) if not math.isfinite(b))
            pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b)]
            x, y = [a for a, _ in pairs], [b for _, b in pairs]
        self.x.extend(x)
        self.y.extend(y)
        self._grow()

    def append(self, x: float, y: float) -> None:
        self.extend((x,), (y,))

    def cut(self, x: float) -> None:
        """Take away the points from `x` on: they are done again."""
        at = bisect_left(self.x, x)
        del self.x[at:], self.y[at:], self.bad[bisect_left(self.bad, x) :]
        for level, (low, high) in enumerate(zip(self._low, self._high, strict=True)):
            keep = at // FACTOR ** (level + 1)
            del low[keep:], high[keep:]
        self._smooth = None

    def _grow(self) -> None:
        """Bring the pyramid up to the points: only full blocks are in it."""
        low, high, level = self.y, self.y, 0
        while True:
            if level == len(self._low):
                if len(low) < FACTOR:
                    return
                self._low.append(array("d"))
                self._high.append(array("d"))
            lows, highs = self._low[level], self._high[level]
            for begin in range(len(lows) * FACTOR, len(low) - FACTOR + 1, FACTOR):
                lows.append(min(low[begin : begin + FACTOR]))
                highs.append(max(high[begin : begin + FACTOR]))
            low, high, level = lows, highs, level + 1

    def index(self, x: float) -> int:
        """The first point at or after `x`."""
        return bisect_left(self.x, x)

    def nearest(self, x: float) -> int | None:
        """The point nearest to `x`; None where there is none."""
        if not self.x:
            return None
        at = self.index(x)
        if at == len(self.x) or (at and x - self.x[at - 1] < self.x[at] - x):
            return at - 1
        return at

    def extremes(self, begin: int, end: int) -> tuple[float, float]:
        """The least and the greatest y of points `begin` to `end` (not included); of none (inf, -inf)."""
        least, greatest = math.inf, -math.inf
        low, high, level = self.y, self.y, 0
        begin, end = max(0, begin), min(end, len(self.y))
        while begin < end:
            up, upto = -(-begin // FACTOR), end // FACTOR
            if level < len(self._low):
                upto = min(upto, len(self._low[level]))
            if level == len(self._low) or up >= upto:
                least, greatest = min(least, min(low[begin:end])), max(greatest, max(high[begin:end]))
                break
            for a, b in ((begin, up * FACTOR), (upto * FACTOR, end)):
                if a < b:
                    least, greatest = min(least, min(low[a:b])), max(greatest, max(high[a:b]))
            low, high, begin, end, level = self._low[level], self._high[level], up, upto, level + 1
        return least, greatest

    def smoothed(self, weight: float) -> Series:
        """The exponential moving average, corrected for its start: each value counts `weight` times its successor.

        m[t] = weight * m[t-1] + (1 - weight) * y[t], shown as m[t] / (1 - weight^t) (Kingma and Ba 2015, section 3).
        Kept, and only brought up to the newest points when it is asked for again.
        """
        if not 0.0 < weight < 1.0:
            return self
        if self._smooth is None or self._smooth[0] != weight:
            self._smooth = weight, Series(self.name, self.unit), 0.0
        _, found, moving = self._smooth
        begin = len(found)
        if begin < len(self.y):
            values, rest = [], 1.0 - weight
            power = weight**begin
            for value in self.y[begin:]:
                moving = weight * moving + rest * value
                power *= weight
                values.append(moving / (1.0 - power))
            found.extend(self.x[begin:], values)
            self._smooth = weight, found, moving
        return found
