"""The charts of a run: all of them where there is room, the chosen one where there is not. Cursor, zoom and smoothing
are shared, so that one look goes through all curves at the same step.
"""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container

from workbench.models.run import RunModel
from workbench.widgets.line_chart import Curve, LineChart

CHARTS: dict[str, tuple[str, str, tuple[tuple[str, str], ...]]] = {
    "loss": ("loss", "nats/token", (("loss", "train"), ("unseen", "unseen"))),
    "rate": ("learning rate", "", (("learning_rate", ""),)),
    "norm": ("gradient norm", "", (("gradient_norm", ""),)),
    "speed": ("tokens/s", "", (("tokens_per_second", ""),)),
    "memory": ("memory", "B", (("memory_bytes", ""),)),
}
"""Heading, unit, and the curves (name in the model, label) of each chart."""
GRID_WIDTH, GRID_HEIGHT = 76, 20
"""Cells from which on all charts are shown."""


class RunCharts(Container):
    """Attributes: chosen: the chart that is shown, or has the focus. wanted: grid (True), one (False), as there is room."""

    DEFAULT_CSS = """
    RunCharts { height: 1fr; width: 1fr; }
    RunCharts.-grid { layout: grid; grid-size: 2; grid-gutter: 0 1; grid-rows: 2fr 1fr 1fr; }
    RunCharts.-grid #chart-loss { column-span: 2; }
    RunCharts.-grid.-wide { grid-size: 4; grid-rows: 3fr 2fr; }
    RunCharts.-grid.-wide #chart-loss { column-span: 4; }
    RunCharts LineChart { height: 1fr; }
    """
    SCOPES: ClassVar = ("chart",)

    def __init__(self, *, ascii: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.ascii, self.chosen = ascii, "loss"
        self.wanted: bool | None = None

    def compose(self) -> ComposeResult:
        for name, (heading, unit, _) in CHARTS.items():
            yield LineChart(heading, unit, "no step yet", ascii=self.ascii, id=f"chart-{name}")

    def chart(self, name: str) -> LineChart:
        return self.query_one(f"#chart-{name}", LineChart)

    def show(self, run: RunModel) -> None:
        """Draw the charts that are to be seen."""
        for name, (_, _, curves) in CHARTS.items():
            # A legend and letters only where a second curve has points.
            given = [(n, label) for n, label in curves if run.curves[n] or n == "loss"]
            chart = self.chart(name)
            shown = [Curve(run.curves[n], label if len(given) > 1 else "", run.lock) for n, label in given]
            if chart.display:
                chart.show(shown)
            else:
                chart.curves = shown

    @property
    def grid(self) -> bool:
        """Whether all are shown."""
        if self.wanted is not None:
            return self.wanted
        return self.size.width >= GRID_WIDTH and self.size.height >= GRID_HEIGHT

    def on_resize(self) -> None:
        self.lay_out()

    def lay_out(self) -> None:
        grid = self.grid
        self.set_class(grid, "-grid")
        self.set_class(grid and self.size.width >= 150, "-wide")
        for name in CHARTS:
            chart = self.chart(name)
            was, chart.display = chart.display, grid or name == self.chosen
            if chart.display and not was:
                chart.call_after_refresh(chart.redraw)

    def choose(self, by: int) -> None:
        """The next chart (1) or the previous one (-1)."""
        names = list(CHARTS)
        focused = self.focused_chart
        if focused is not None:
            self.chosen = focused
        self.chosen = names[(names.index(self.chosen) + by) % len(names)]
        self.lay_out()
        self.chart(self.chosen).focus()

    @property
    def focused_chart(self) -> str | None:
        return next((name for name in CHARTS if self.chart(name).has_focus), None)

    def toggle_grid(self) -> None:
        self.chosen = self.focused_chart or self.chosen
        self.wanted = not self.grid
        self.lay_out()
        self.chart(self.chosen).focus()

    def focus_chosen(self) -> None:
        self.chart(self.chosen).focus()

    def put(self, x: float | None) -> None:
        """Put the cursor of all charts at a step."""
        for name in CHARTS:
            self.chart(name).cursor = x

    def on_line_chart_moved(self, event: LineChart.Moved) -> None:
        event.stop()
        for name in CHARTS:
            other = self.chart(name)
            if other is not event.chart:
                other.cursor, other.window, other.smoothing = (
                    event.chart.cursor,
                    event.chart.window,
                    event.chart.smoothing,
                )
