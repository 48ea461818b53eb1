"""The panel below the editors: problems, output of jobs. Its tabs are made when they are first shown."""

from __future__ import annotations

from importlib import import_module

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from workbench.regions.tab_strip import Tab, TabStrip

TABS = {
    "problems": ("PROBLEMS", "workbench.views.problems:ProblemsView"),
    "output": ("OUTPUT", "workbench.views.output:OutputView"),
}


class Panel(Vertical):
    """Attributes: tab: the name of the tab that is shown."""

    DEFAULT_CSS = """
    Panel { height: 10; width: 1fr; background: $surface; }
    Panel > ContentSwitcher { height: 1fr; }
    """

    tab: reactive[str] = reactive("problems")

    def compose(self) -> ComposeResult:
        yield TabStrip()
        yield ContentSwitcher()

    def on_mount(self) -> None:
        self.titles = {name: title for name, (title, _) in TABS.items()}
        self.retitle()
        self.call_later(self._show)

    def retitle(self, tab: str = "", title: str = "") -> None:
        """Set the title of one of the tabs ("PROBLEMS 2")."""
        if tab:
            self.titles[tab] = title
        strip = self.query_one(TabStrip)
        strip.tabs = tuple(Tab(name, text) for name, text in self.titles.items())
        strip.front = self.tab

    def watch_tab(self) -> None:
        if self.is_mounted:
            self.retitle()
            self.call_later(self._show)

    async def _show(self) -> None:
        switcher = self.query_one(ContentSwitcher)
        if not switcher.query_children(f"#panel-{self.tab}"):
            module, _, name = TABS[self.tab][1].partition(":")
            widget = getattr(import_module(module), name)()
            widget.id = f"panel-{self.tab}"
            await switcher.mount(widget)
        switcher.current = f"panel-{self.tab}"

    def on_tab_strip_chosen(self, event: TabStrip.Chosen) -> None:
        event.stop()
        self.tab = event.key

    def focus_first(self) -> None:
        current = self.query_one(ContentSwitcher).current
        for widget in self.query_one(f"#{current}").walk_children(with_self=True) if current else ():
            if isinstance(widget, Widget) and widget.can_focus:
                widget.focus()
                return
