"""The side bar: one view at a time, each made when it is first shown."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import ContentSwitcher, Static

from workbench.views import VIEWS


class SideBar(Vertical):
    """A title line and the view.

    Attributes:
        view: the name of the view that is shown.
    """

    DEFAULT_CSS = """
    SideBar { width: 30; height: 1fr; background: $surface; }
    SideBar > .title { height: 1; padding: 0 1; color: $text-muted; background: $panel; text-style: bold; }
    SideBar:focus-within > .title { color: $text; background: $primary; }
    SideBar > ContentSwitcher { height: 1fr; }
    """

    view: reactive[str] = reactive("explorer")

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        yield ContentSwitcher()

    def on_mount(self) -> None:
        self.call_later(self._show)

    def watch_view(self) -> None:
        if self.is_mounted:
            self.call_later(self._show)

    async def _show(self) -> None:
        switcher = self.query_one(ContentSwitcher)
        if not switcher.query_children(f"#view-{self.view}"):
            widget = VIEWS[self.view].make()
            widget.id = f"view-{self.view}"
            await switcher.mount(widget)
        switcher.current = f"view-{self.view}"
        self.query_one(".title", Static).update(f"1 {VIEWS[self.view].title}")

    @property
    def shown(self) -> Widget | None:
        current = self.query_one(ContentSwitcher).current
        return self.query_one(f"#{current}") if current else None

    def focus_first(self) -> None:
        for widget in self.shown.walk_children(with_self=True) if self.shown else ():
            if isinstance(widget, Widget) and widget.can_focus:
                widget.focus()
                return
