"""The one screen: regions, what is shown of them at which size, how large they are, which one is zoomed.

-narrow (below 100 columns): no activity bar; the side bar lies over the editors; no inspector
-normal: activity bar, side bar, editors      -wide (160 and more): the inspector, too
-short (below 32 rows): a low panel
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widget import Widget

from workbench.compositor import Sparing
from workbench.regions.activity_bar import ActivityBar
from workbench.regions.editors import EditorArea
from workbench.regions.inspector import Inspector
from workbench.regions.panel import Panel
from workbench.regions.side_bar import SideBar
from workbench.regions.status_bar import StatusBar

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

REGIONS = ("sidebar", "editor", "panel", "inspector")
SIZES = {"sidebar": (16, 80), "panel": (4, 40), "inspector": (24, 90)}
"""Smallest and largest width (panel: height) of the regions that can be resized, in cells."""


class WorkbenchScreen(Screen):
    """Regions by name: sidebar, editor, panel, inspector."""

    HORIZONTAL_BREAKPOINTS: ClassVar = [(0, "-narrow"), (100, "-normal"), (160, "-wide")]
    VERTICAL_BREAKPOINTS: ClassVar = [(0, "-short"), (32, "-tall")]
    AUTO_FOCUS = ""

    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self) -> None:
        super().__init__()
        self._compositor = Sparing()
        self.wanted: dict[str, bool | None] = {"sidebar": None, "panel": None, "inspector": None}
        """Whether the user wants a region; None: as the size of the terminal suggests."""
        self.sizes: dict[str, int] = {}
        self.zoomed: str | None = None

    def compose(self) -> ComposeResult:
        with Horizontal(id="main"):
            yield ActivityBar()
            yield SideBar()
            with Vertical(id="centre"):
                yield EditorArea()
                yield Panel()
            yield Inspector()
        yield StatusBar()

    def on_mount(self) -> None:
        self.lay_out()

    def on_resize(self) -> None:
        self.lay_out()

    # --- regions

    @property
    def editors(self) -> EditorArea:
        return self.query_one(EditorArea)

    @property
    def panel(self) -> Panel:
        return self.query_one(Panel)

    def region_widget(self, name: str) -> Widget:
        return self.query_one({"sidebar": SideBar, "editor": EditorArea, "panel": Panel, "inspector": Inspector}[name])

    @property
    def focused_region(self) -> str:
        """The region that has the focus, "editor" where none has."""
        chain = self.focused.ancestors_with_self if self.focused else ()
        return next((name for name in REGIONS if self.region_widget(name) in chain), "editor")

    def shown(self, name: str) -> bool:
        """Whether a region is to be on the screen now."""
        if self.zoomed:
            return name == self.zoomed
        wanted = self.wanted.get(name)
        if wanted is not None:
            return wanted
        width, height = self.size.width or self.app.size.width, self.size.height or self.app.size.height
        return {"sidebar": width >= 100, "panel": height >= 32, "inspector": width >= 160}.get(name, True)

    def lay_out(self) -> None:
        """Show, hide and size the regions."""
        width, height = self.app.size
        self.query_one(ActivityBar).display = width >= 100 and not self.zoomed
        for name in REGIONS:
            self.region_widget(name).display = self.shown(name)
        # In a narrow terminal the side bar lies over what is right of it.
        self.query_one("#centre").display = not self.zoomed or self.zoomed in ("editor", "panel")
        sidebar, panel, inspector = (self.region_widget(n) for n in ("sidebar", "panel", "inspector"))
        sidebar.set_class(width < 100 and self.zoomed != "sidebar", "-over")
        sidebar.styles.width = (
            "1fr" if self.zoomed == "sidebar" else self.sizes.get("sidebar", 34 if width >= 160 else 28)
        )
        inspector.styles.width = (
            "1fr" if self.zoomed == "inspector" else min(self.sizes.get("inspector", 40), max(24, width - 40))
        )
        tall = self.sizes.get("panel", 14 if height >= 45 else 10 if height >= 32 else 6)
        panel.styles.height = "1fr" if self.zoomed == "panel" else min(tall, max(4, height // 2))

    def toggle(self, name: str) -> None:
        """Show or hide a region; a hidden one gives its focus to the editors."""
        self.zoomed = None
        had_focus = self.focused_region == name
        self.wanted[name] = not self.shown(name)
        self.lay_out()
        if had_focus and not self.wanted[name]:
            self.focus_region("editor")

    def uncover(self) -> None:
        """Take the side bar away where it lies over the editors."""
        if self.query_one(SideBar).has_class("-over") and self.shown("sidebar"):
            self.wanted["sidebar"] = False
            self.lay_out()

    def focus_region(self, name: str) -> None:
        """Show a region and give it the focus."""
        if not self.shown(name):
            if self.zoomed:
                self.zoomed = None
            else:
                self.wanted[name] = True
            self.lay_out()
        widget = self.region_widget(name)
        if isinstance(widget, EditorArea):
            if widget.front is not None:
                widget.front.focus_first()
            else:
                self.set_focus(None)
        elif isinstance(widget, SideBar | Panel | Inspector):
            widget.call_after_refresh(widget.focus_first)

    def zoom(self) -> None:
        """Only the focused region, or all again."""
        self.zoomed = None if self.zoomed else self.focused_region
        self.lay_out()

    def resize_region(self, by: int) -> None:
        """Make the focused region `by` cells larger; the editors: the side bar smaller."""
        name = self.focused_region
        name, by = ("sidebar", -by) if name == "editor" else (name, by)
        widget = self.region_widget(name)
        now = widget.size.height if name == "panel" else widget.outer_size.width
        low, high = SIZES[name]
        self.sizes[name] = max(low, min(high, now + by))
        self.lay_out()

    # --- what is remembered

    def remembered(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted,
            "sizes": self.sizes,
            "view": self.query_one(SideBar).view,
            "tab": self.panel.tab,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        from workbench.regions.panel import TABS
        from workbench.views import VIEWS

        wanted, sizes = saved.get("wanted"), saved.get("sizes")
        for name in self.wanted:
            if isinstance(wanted, dict) and isinstance(wanted.get(name), bool | None):
                self.wanted[name] = wanted.get(name)
            if isinstance(sizes, dict) and isinstance(sizes.get(name), int) and name in SIZES:
                self.sizes[name] = max(SIZES[name][0], min(SIZES[name][1], sizes[name]))
        if saved.get("view") in VIEWS:
            self.show_view(saved["view"])
        if saved.get("tab") in TABS:
            self.panel.tab = saved["tab"]
        self.lay_out()

    def show_view(self, view: str) -> None:
        """Show a view in the side bar."""
        self.query_one(SideBar).view = view
        self.query_one(ActivityBar).view = view

    # --- messages of the regions

    def on_activity_bar_chosen(self, event: ActivityBar.Chosen) -> None:
        self.show_view(event.view)
        self.focus_region("sidebar")

    def on_status_bar_chosen(self, event: StatusBar.Chosen) -> None:
        self.app.do(event.action)

    def on_editor_area_front_changed(self, event: EditorArea.FrontChanged) -> None:
        front, bar = event.front, self.query_one(StatusBar)
        bar.told = front.told if front else ""
        self.query_one(Inspector).inspect(front.inspected if front else None)
        if front is not None and front.project:
            self.app.project = front.project
