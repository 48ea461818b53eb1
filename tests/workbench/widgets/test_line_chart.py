"""The chart on a screen: axes, legend, cursor, zoom, states; its cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from workbench.models.series import Series
from workbench.widgets.line_chart import Curve, LineChart


class Screen(App[None]):
    """One chart; what its keys do is called by `do`, as the workbench does."""

    def __init__(self, curves: Sequence[Curve], ascii: bool = False) -> None:
        super().__init__()
        self.curves, self.ascii = curves, ascii

    def compose(self) -> ComposeResult:
        yield LineChart("loss", "nats/token", ascii=self.ascii)

    def on_mount(self) -> None:
        self.chart.call_after_refresh(self.chart.show, self.curves)

    @property
    def chart(self) -> LineChart:
        return self.query_one(LineChart)

    def do(self, id: str) -> None:
        getattr(self.chart, f"act_{id.replace('.', '_')}")()

    def action_do(self, id: str) -> None:
        self.do(id)

    @property
    def text(self) -> str:
        strips = self.screen._compositor.render_strips()
        return "\n".join("".join(s.text for s in strip).rstrip() for strip in strips)


def series(y: Sequence[float], first: int = 1) -> Series:
    made = Series()
    made.extend(range(first, first + len(y)), list(y))
    return made


def falling(count: int) -> Series:
    return series([2.0 / (1 + i / 50) for i in range(count)])


async def drawn(pilot: Pilot[None]) -> None:
    """Until the curves, which are handed over after the first refresh, are on the screen."""
    app = pilot.app
    assert isinstance(app, Screen)
    while app.chart.curves is not app.curves:
        await pilot.pause(0.01)
    await pilot.pause()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 50), (30, 8)])
async def test_axes_and_newest_value(size: tuple[int, int]) -> None:
    app = Screen([Curve(falling(100))])
    async with app.run_test(size=size) as pilot:
        await drawn(pilot)
        lines = app.text.split("\n")
        assert len(lines) == size[1]
        assert all(len(line) <= size[0] for line in lines)
        assert lines[0].startswith("loss  0.6711")
        assert lines[-1].endswith("100 step") or size[0] < 40
        assert any(0x2800 < ord(c) < 0x2900 for c in app.text)
        assert any(line.strip().startswith(("1.0 ┤", "1 ┤")) for line in lines)


async def test_several_curves_are_told_apart_without_colour() -> None:
    app = Screen([Curve(falling(100), "demo/0001"), Curve(series([1.0] * 100), "[red]x[/]\x1b[31m")])
    async with app.run_test(size=(100, 20)) as pilot:
        await drawn(pilot)
        assert "a demo/0001 0.6711" in app.text
        assert "b [red]x[/]\\x1b[31m 1" in app.text
        body = "\n".join(app.text.split("\n")[1:-1])
        assert "a" in body and "b" in body


async def test_ascii_uses_nothing_else() -> None:
    app = Screen([Curve(falling(60), "x"), Curve(series([1.0, math.nan, 0.5]), "y")], ascii=True)
    async with app.run_test(size=(80, 20)) as pilot:
        await drawn(pilot)
        app.chart.cursor = 3
        app.chart.smoothing = 0.9
        await pilot.pause()
        assert app.text.isascii()
        assert "step 3" in app.text


async def test_the_cursor_reads_exact_values() -> None:
    y = [1 + i * 0.123456789 for i in range(1000)]
    app = Screen([Curve(series(y), "a"), Curve(series([5.0], first=501), "b")])
    async with app.run_test(size=(90, 20)) as pilot:
        await drawn(pilot)
        app.chart.focus()
        await pilot.press("G")
        assert app.chart.cursor == 1000
        assert f"step 1,000  a a {y[-1]:.7g}" in app.text
        assert "b b 5 at 501" in app.text
        await pilot.press("left")
        assert app.chart.cursor is not None and app.chart.cursor < 1000
        await pilot.press("g")
        assert app.chart.cursor == 1
        await pilot.click(LineChart, offset=(50, 8))
        assert 480 < app.chart.cursor < 530
        await pilot.press("escape")
        assert app.chart.cursor is None


async def test_zooming_reaches_single_steps_and_comes_back() -> None:
    app = Screen([Curve(falling(1000))])
    async with app.run_test(size=(90, 20)) as pilot:
        await drawn(pilot)
        app.chart.focus()
        await pilot.press("g", "right", "right", "right")
        assert app.chart.cursor is not None
        at = app.chart.cursor
        for _ in range(9):
            await pilot.press("plus")
        window = app.chart.window
        assert window is not None and window[0] <= at <= window[1] and window[1] - window[0] <= 5
        await pilot.press("l")
        assert app.chart.cursor == at + 1
        for _ in range(30):
            await pilot.press("h")
        assert app.chart.window is not None and app.chart.window[0] <= app.chart.cursor <= app.chart.window[1]
        await pilot.press("0")
        assert app.chart.window is None


async def test_log_axis_and_smoothing() -> None:
    app = Screen([Curve(series([10.0 ** (-i % 5) for i in range(200)]))])
    async with app.run_test(size=(90, 30)) as pilot:
        await drawn(pilot)
        app.chart.focus()
        await pilot.press("a")
        assert "nats/token, log" in app.text
        for label in ("1e4", "10k", "1000", "100", "10"):
            if label in app.text:
                break
        else:
            raise AssertionError(app.text)
        await pilot.press("e")
        assert app.chart.smoothing == 0.6
        assert "smoothed 0.6" in app.text
    app = Screen([Curve(series([-1.0, -2.0]))])
    async with app.run_test(size=(90, 30)) as pilot:
        await drawn(pilot)
        app.chart.focus()
        await pilot.press("a")
        assert "nothing above zero" in app.text


@pytest.mark.parametrize(
    ("y", "said"),
    [([], "no points yet"), ([math.nan], "no points here"), ([3.5], "3.5"), ([2.0, 2.0, 2.0], "2"),
     ([1.0, math.inf, 1.0], "1 NaN or infinite"), ([1e300, -1e300], "-1e300"), ([0.0, 5e-324], "4.94e-324"),
     ([1e-320, 2e-320, 3e-320], "3e-320")],
)  # fmt: skip
async def test_unusual_curves(y: list[float], said: str) -> None:
    app = Screen([Curve(series(y))])
    async with app.run_test(size=(80, 12)) as pilot:
        await drawn(pilot)
        for key in ("tab", "G", "h", "plus", "a", "e", "a", "minus", "0", "escape"):
            await pilot.press(key)
        assert said in app.text
        if said == "3.5":
            assert "●" in app.text


async def test_a_redraw_of_many_points_is_cheap_and_sends_only_what_changed() -> None:
    curve = falling(100_000)
    app = Screen([Curve(curve)])
    async with app.run_test(size=(120, 40)) as pilot:
        await drawn(pilot)
        begun = time.perf_counter()
        for _ in range(5):
            app.chart.redraw()
        assert (time.perf_counter() - begun) / 5 < 0.15
        before = app.chart._picture.strips
        curve.append(100_001, 0.001)
        refreshed: list[int] = []
        app.chart.refresh = lambda *regions, **_: refreshed.extend(r.y for r in regions)  # type: ignore[method-assign]
        app.chart.redraw()
        assert 0 < len(refreshed) < len(before)
