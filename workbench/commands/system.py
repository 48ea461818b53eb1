"""Palette, menu, help, keys, looks, copying, quitting."""

from __future__ import annotations

import asyncio

from workbench import actions, clipboard
from workbench.commands import Commands
from workbench.keys import is_text


class SystemCommands(Commands):
    # Dialogs that the next key is meant for are pushed at once, not in a worker.

    def act_app_quick_open(self) -> None:
        self._quick_open("")

    def act_app_commands(self) -> None:
        self._quick_open(">")

    def act_app_theme(self) -> None:
        self._quick_open("theme ")

    def _quick_open(self, start: str) -> None:
        from workbench.modals.quick_open import QuickOpen

        self.app.push_screen(QuickOpen(start, self._applicable()), lambda chosen: chosen and chosen())

    def _applicable(self) -> frozenset[str]:
        """Ids of the actions that something would do now."""
        return frozenset(a.id for a in actions.registry().values() if self.app.handler(a) is not None)

    def act_app_menu(self) -> None:
        from workbench.modals.which_key import WhichKey

        self.app.push_screen(WhichKey("", self._applicable()), lambda chosen: chosen and self.app.do(chosen))

    def act_app_help(self) -> None:
        from workbench.modals.help import Help

        about, scopes, heading = "", [], "Help"
        for target in self.app.targets():
            text = getattr(target, "HELP", None)
            if text and not about:
                about, heading = text, type(target).__name__
            scopes += [s for s in getattr(target, "SCOPES", ()) if s not in scopes]
        self.app.push_screen(Help(heading, about, tuple(scopes)))

    def act_app_keys(self) -> None:
        from workbench.modals.keyboard_doctor import KeyboardDoctor

        self.app.push_screen(KeyboardDoctor())

    def act_view_jump(self) -> None:
        from workbench.modals.jump import Jump, focusable

        self.app.push_screen(Jump(focusable(self.app.workbench)), lambda chosen: chosen and chosen.focus())

    async def act_app_copy(self) -> None:
        focused = self.app.focused
        text = self.app.screen.get_selected_text() or (
            getattr(focused, "selected_text", "") if is_text(focused) else ""
        )
        if not text:
            raise LookupError("nothing is selected: drag over text, or select with shift and arrows")
        await self.copy(text)

    async def copy(self, text: str) -> None:
        """Copy, and say how it went out."""
        routes = await asyncio.to_thread(clipboard.copy, text, self.app.copy_to_clipboard, self.app.state.folder)
        self.app.notify(f"{len(text)} characters copied to {routes}", timeout=4, markup=False)

    async def act_app_quit(self) -> None:
        for editor in self.app.workbench.editors.all:
            if not await editor.may_close():
                return
        self.app.remember()
        self.app.exit(0)
