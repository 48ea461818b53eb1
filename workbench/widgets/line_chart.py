"""A line chart in Braille dots: any number of points, several curves, a cursor that reads exact values off.

Curves are told apart by letters along them (and in the legend), colours come on top. A redraw costs a few bisections a
column (see `models.plot`), and only lines of the screen that became different are sent to the terminal. How it is
painted is in `chart_painter`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from workbench import actions
from workbench.models.series import Series
from workbench.widgets.chart_painter import LETTERS, ChartPainter, Curve, Picture

__all__ = ["LETTERS", "Curve", "LineChart"]

SMOOTHINGS = (0.0, 0.6, 0.9, 0.98)


class LineChart(Widget, can_focus=True):
    """The curves that `show` was given last.

    Attributes:
        log_axis: the vertical axis is logarithmic. smoothing: weight of the moving average, 0: none.
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
        self._picture = Picture()
        self._styles: dict[str, Style] = {}

    def show(self, curves: Sequence[Curve]) -> None:
        """Draw these curves as they are now; lines that look the same are not drawn again."""
        self.curves = curves
        self.redraw()

    def redraw(self) -> None:
        if not self.is_attached or not self.size:
            return
        old, self._picture = self._picture.strips, ChartPainter(self).picture(*self.size)
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

    # --- styles, what is shown

    @property
    def base(self) -> Style:
        """The widget's own style, which Textual makes anew each time it is asked for."""
        if "" not in self._styles:
            self._styles[""] = self.rich_style
        return self._styles[""]

    def style_of(self, name: str) -> Style:
        if name not in self._styles:
            own = self.get_component_rich_style(f"line-chart--{name}")
            self._styles[name] = own
        return self._styles[name]

    def curve_style(self, owner: int) -> Style:
        name = f"curve-{owner // 2 % 6}"
        if not owner % 2:
            return self.style_of(name)
        dim = f"{name} dim"
        if dim not in self._styles:
            self._styles[dim] = self.style_of(name) + Style(dim=True)
        return self._styles[dim]

    @property
    def range(self) -> tuple[float, float] | None:
        """First and last step of all curves."""
        ends = [e for c in self.curves for a in (c.series.x, c.series.bad) if a for e in (a[0], a[-1])]
        return (min(ends), max(ends)) if ends else None

    # --- the cursor

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
