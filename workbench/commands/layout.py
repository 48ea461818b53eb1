"""Regions, tabs and focus."""

from __future__ import annotations

from workbench.commands import Commands
from workbench.keys import is_text
from workbench.screen import REGIONS


class LayoutCommands(Commands):
    def act_view_sidebar(self) -> None:
        self.app.workbench.toggle("sidebar")

    def act_view_panel(self) -> None:
        self.app.workbench.toggle("panel")

    def act_view_inspector(self) -> None:
        self.app.workbench.toggle("inspector")

    def act_view_zoom(self) -> None:
        self.app.workbench.zoom()

    def act_view_redraw(self) -> None:
        self.app.screen.refresh()

    def act_view_wider(self) -> None:
        self.app.workbench.resize_region(2)

    def act_view_narrower(self) -> None:
        self.app.workbench.resize_region(-2)

    def act_view_explorer(self) -> None:
        self._view("explorer")

    def act_view_runs(self) -> None:
        self._view("runs")

    def act_view_learn(self) -> None:
        self._view("learn")

    def _view(self, name: str) -> None:
        self.app.workbench.show_view(name)
        self.app.workbench.focus_region("sidebar")

    def act_view_problems(self) -> None:
        self.app.workbench.panel.tab = "problems"
        self.app.workbench.focus_region("panel")

    def act_view_output(self) -> None:
        self.app.workbench.panel.tab = "output"
        self.app.workbench.focus_region("panel")

    def act_focus_next(self) -> None:
        screen = self.app.workbench
        visible = [name for name in REGIONS if screen.shown(name)]
        now = screen.focused_region
        at = visible.index(now) if now in visible and screen.focused is not None else -1
        screen.focus_region(visible[(at + 1) % len(visible)])

    def act_focus_sidebar(self) -> None:
        self.app.workbench.focus_region("sidebar")

    def act_focus_editor(self) -> None:
        self.app.workbench.focus_region("editor")

    def act_focus_panel(self) -> None:
        self.app.workbench.focus_region("panel")

    def act_focus_inspector(self) -> None:
        self.app.workbench.focus_region("inspector")

    def may_focus_leave(self) -> bool:
        """Escape leaves a text field for the pane around it, and an overlaid side bar for the editors."""
        screen = self.app.workbench
        return is_text(self.app.focused) or (screen.size.width < 100 and screen.focused_region == "sidebar")

    def act_focus_leave(self) -> None:
        screen = self.app.workbench
        if screen.focused_region == "sidebar" and screen.size.width < 100:
            screen.toggle("sidebar")
        else:
            screen.set_focus(None)

    def act_tab_next(self) -> None:
        self.app.workbench.editors.step(1)

    def act_tab_previous(self) -> None:
        self.app.workbench.editors.step(-1)

    async def act_tab_close(self) -> None:
        editors = self.app.workbench.editors
        if editors.front is not None:
            await editors.close(editors.front)

    async def act_tab_split(self) -> None:
        await self.app.workbench.editors.split()
