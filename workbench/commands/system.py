"""Palette, menu, help, keys, looks, quitting."""

from __future__ import annotations

from workbench.commands import Commands


class SystemCommands(Commands):
    async def act_app_quit(self) -> None:
        for editor in self.app.workbench.editors.all:
            if not await editor.may_close():
                return
        self.app.remember()
        self.app.exit(0)
