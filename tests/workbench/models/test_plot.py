"""Curves as dots: every point lies in the span drawn for its column, so that no extreme is lost, at any zoom."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.models.plot import DOWN, Axis, Dots, axis_of, column_of, columns, exact, number
from workbench.models.series import FACTOR, Series

values = st.floats(-1e6, 1e6, allow_nan=False)
curves = st.lists(values, min_size=1, max_size=3000)


def series_of(y: list[float], gap: float = 1.0) -> Series:
    made = Series()
    half = len(y) // 2
    made.extend([i * gap for i in range(half)], y[:half])
    made.extend([i * gap for i in range(half, len(y))], y[half:])
    return made


@settings(max_examples=150)
@given(y=curves, count=st.integers(1, 300), window=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@example(y=[0.0] * FACTOR**2 + [9.0] + [0.0] * 900, count=4, window=(0.0, 1.0))
def test_every_visible_point_lies_within_its_column(y: list[float], count: int, window: tuple[float, float]) -> None:
    series = series_of(y)
    x0, x1 = (round(w * len(y)) for w in sorted(window))
    found = columns(series, x0, x1, count)
    seen = {c.at: c for c in found}
    assert len(seen) == len(found)
    assert [c.at for c in found] == sorted(seen)
    shown = [(x, v) for x, v in zip(series.x, series.y, strict=True) if x0 <= x <= x1]
    for x, v in shown:  # at a border between two columns either may have it
        at = column_of(x, x0, x1, count)
        near = [seen[a] for a in (at - 1, at, at + 1) if a in seen]
        assert any(c.least <= v <= c.greatest for c in near)
    if shown:
        assert min(c.least for c in found) == min(v for _, v in shown)
        assert max(c.greatest for c in found) == max(v for _, v in shown)
        assert (found[0].first, found[-1].last) == (shown[0][1], shown[-1][1])


@settings(max_examples=60)
@given(y=curves, width=st.integers(1, 60), height=st.integers(1, 20), log=st.booleans())
def test_the_extremes_reach_the_edges(y: list[float], width: int, height: int, log: bool) -> None:
    series, dots = series_of(y), Dots(width, height)
    found = columns(series, 0, len(y) - 1, width * 2)
    axis = axis_of([found], log)
    if axis is None:
        assert log and max(y) <= 0
        return
    dots.draw(found, axis, 0)
    assert any(any(row) for row in dots.bits)
    shown = [v for v in y if not log or v > 0]
    if min(shown) < max(shown) and len(shown) == len(
        y
    ):  # of a column that reaches 0, a log axis has the greatest alone
        assert any(dots.bits[0]) and any(dots.bits[-1])
        assert axis.row(max(shown), height * DOWN) == 0
        assert axis.row(min(shown), height * DOWN) == height * DOWN - 1
    ticks = axis.ticks(5)
    assert 2 <= len(ticks) <= 5
    slack = (axis.high - axis.low) * 1e-6
    assert all(axis.low - slack <= t <= axis.high + slack for t in ticks)


@settings(max_examples=150)
@given(
    y=curves,
    cut=st.integers(0, 3000),
    more=st.lists(values, max_size=200),
    span=st.tuples(st.integers(0, 3300), st.integers(0, 3300)),
)
def test_the_pyramid_knows_the_extremes_also_after_points_were_cut(
    y: list[float], cut: int, more: list[float], span: tuple[int, int]
) -> None:
    series = series_of(y)
    series.cut(cut)
    kept = y[:cut]
    series.extend([len(kept) + i for i in range(len(more))], more)
    kept += more
    a, b = span
    part = kept[a:b]
    assert series.extremes(a, b) == ((min(part), max(part)) if part else (math.inf, -math.inf))


@settings(max_examples=50)
@given(y=st.lists(values, min_size=1, max_size=300), weight=st.sampled_from([0.5, 0.9, 0.99]), cut=st.integers(0, 300))
def test_smoothing_bit_by_bit_is_smoothing_at_once(y: list[float], weight: float, cut: int) -> None:
    series = Series()
    for i, v in enumerate(y):
        series.append(i, v)
        series.smoothed(weight)
    series.cut(cut)
    moving, expected = 0.0, []
    for t, v in enumerate(y[:cut], 1):
        moving = weight * moving + (1 - weight) * v
        expected.append(moving / (1 - weight**t))
    assert list(series.smoothed(weight).y) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_what_is_not_finite_is_kept_apart() -> None:
    series = Series()
    series.extend([1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])
    assert (list(series.x), list(series.bad)) == ([1, 4], [2, 3])
    series.cut(3)
    assert (list(series.x), list(series.bad)) == ([1], [2])
    assert columns(series, 1, 1, 10) == [(5, 1.0, 1.0, 1.0, 1.0)]


def test_a_hundred_times_as_many_points_cost_about_the_same() -> None:
    def cost(count: int) -> float:
        series = series_of([math.sin(i) for i in range(count)])
        begun = time.perf_counter()
        for _ in range(5):
            columns(series, 0, count - 1, 200)
        return time.perf_counter() - begun

    assert cost(200_000) < 6 * cost(2000) + 0.02


@pytest.mark.parametrize(
    ("value", "unit", "short", "long"),
    [(0.73412345, "", "0.7341", "0.7341235"), (1.8e-4, "", "1.8e-4", "0.00018"), (12345.0, "", "12.35k", "12,345"),
     (0, "", "0", "0"), (1.2e9, "B", "1.2 GB", "1,200,000,000 B (1.2 GB)"), (-3.25, "", "-3.25", "-3.25"),
     (2e6, "", "2M", "2,000,000"), (100.0, "", "100", "100")],
)  # fmt: skip
def test_numbers(value: float, unit: str, short: str, long: str) -> None:
    assert (number(value, unit), exact(value, unit)) == (short, long)


def test_a_flat_curve_has_an_axis() -> None:
    assert Axis(-0.05, 0.05).row(0, 9) == 4
    found = columns(series_of([3.0, 3.0]), 0, 1, 10)
    axis = axis_of([found], False)
    assert axis is not None and axis.low < 3.0 < axis.high
