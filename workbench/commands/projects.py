"""New, duplicated and renamed projects."""

from __future__ import annotations

import asyncio

from workbench.commands import Commands
from workbench.views.explorer import Explorer


class ProjectCommands(Commands):
    async def act_project_new(self) -> None:
        from workbench.jobs import files
        from workbench.modals.wizard import Wizard

        root = self.app.root
        sources = await asyncio.to_thread(files.known_sources, root)
        bases = await asyncio.to_thread(files.known_bases, root)
        name = await self.app.push_screen_wait(Wizard(sources, bases))
        if name is not None:
            self._open(name)

    async def act_project_duplicate(self) -> None:
        from workbench.jobs import projects

        old = self.project
        new = await self._ask(f"Duplicate {old} (its project.toml, not its runs) as", self._free(f"{old}-copy"))
        if new is not None:
            await asyncio.to_thread(projects.duplicate, self.app.root, old, new)
            self._open(new)

    async def act_project_rename(self) -> None:
        from workbench.jobs import projects

        old = self.project
        running = [r.label for r in self.app.snapshot.projects[old].runs if r.state == "running"]
        if running:
            raise LookupError(f"{', '.join(running)} is running: stop it first (shift+F5, or space r s)")
        new = await self._ask(f"Rename {old} to", old)
        if new is None:
            return
        editors = self.app.workbench.editors
        concerned = [e for e in editors.all if e.project == old]
        for editor in concerned:
            if not await editor.may_close():
                return
        await asyncio.to_thread(projects.rename, self.app.root, old, new)
        opened = [e.uri for e in concerned]
        for editor in concerned:
            await editors.close(editor, ask=False)
        for uri in opened or [f"project:{old}"]:
            scheme, _, target = uri.partition(":")
            self.app.open(f"{scheme}:{new}{target.removeprefix(old)}")
        self._reveal(new)

    async def _ask(self, question: str, value: str) -> str | None:
        from workbench.jobs.projects import name_problem
        from workbench.modals.confirm import AskLine

        taken = self.app.snapshot.projects
        return await self.app.push_screen_wait(AskLine(question, value, lambda text: name_problem(text, taken)))

    def _free(self, name: str) -> str:
        """`name`, with a number where it is taken."""
        taken, number, free = self.app.snapshot.projects, 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def _open(self, name: str) -> None:
        self.app.open(f"project:{name}")
        self._reveal(name)

    def _reveal(self, name: str) -> None:
        """Show a project that has just come to be in the explorer."""
        self.app.workbench.query_one(Explorer).reveal(name)
        self.app.watch_workspace.now()
