"""Starting, stopping, resuming and deleting runs: what asks the user, and the commands on the project's runs.

The work is `jobs.launch`, in threads. Views that have a run selected call `RunCommands` with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from workbench.commands import Commands

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.models.workspace import RunInfo


def runs(app: WorkbenchApp) -> RunCommands:
    """The commands on runs."""
    return next(c for c in app.commands if isinstance(c, RunCommands))


class RunCommands(Commands):
    """Without a run in front, they are about the newest one of the project that they apply to."""

    def __init__(self, app: WorkbenchApp) -> None:
        super().__init__(app)
        self._asked: dict[tuple[str, int], float] = {}
        self._starting: set[str] = set()

    # --- the project's newest

    async def act_run_start(self) -> None:
        await self.start(self.project)

    async def act_run_stop(self) -> None:
        await self.stop(self._newest("running", words="runs").label)

    async def act_run_resume(self) -> None:
        await self.resume(self._newest("stopped", "killed", "failed", words="was stopped or ended early").label)

    async def act_run_delete(self) -> None:
        await self.delete(self._newest(words="is there").label)

    def _newest(self, *states: str, words: str) -> RunInfo:
        info = self.app.snapshot.projects.get(self.project)
        found = [r for r in info.runs if not states or r.state in states] if info else []
        if not found:
            raise LookupError(f"no run of project {self.project} {words}")
        return found[-1]

    # --- any

    async def start(self, project: str) -> None:
        """Check the project; show what is wrong, or start a run and open its tab."""
        from workbench.commands.preflight import preflight
        from workbench.jobs import launch

        if project in self._starting or not await self._saved(project):
            return
        self._starting.add(project)
        try:
            if not await self._right(project) or await self._in_session(project):
                return
            if not await preflight(self.app, project):
                return
            label = await asyncio.to_thread(launch.new_run, self.app.root, project)
            await self._go(label)
        finally:
            self._starting.discard(project)

    async def _in_session(self, project: str, resume: int | None = None) -> bool:
        """Whether the session of the project trains it, on the base that it holds already: no second copy of that."""
        from workbench.jobs import session_client

        label = await asyncio.to_thread(session_client.train, self.app.root, project, resume)
        if label is None:
            return False
        self.app.open(f"run:{label}")
        self.app.tails.now()
        self.app.watch_workspace.now()
        return True

    async def _saved(self, project: str) -> bool:
        """Whether to go on: the project's editor may hold changes that the file has not."""
        from workbench.modals.confirm import Choose

        editor = self.app.workbench.editors.find(f"project:{project}")
        if editor is None or not editor.dirty:
            return True
        answers = {"save": "Save and start", "file": "Start with the file as it is", "cancel": "Cancel"}
        question = f"{project}/project.toml has unsaved changes."
        chosen = await self.app.push_screen_wait(Choose(question, answers))
        if chosen == "save":
            done = getattr(editor, "act_file_save")()  # noqa: B009  (editors that hold text have it)
            if hasattr(done, "__await__"):
                await done
            return not editor.dirty
        return chosen == "file"

    async def _right(self, project: str) -> bool:
        """Whether the project file has no mistakes; they go to the Problems list, which is then shown."""
        from workbench.jobs import launch
        from workbench.models.problems import Problem

        uri = f"project:{project}"
        wrong = await asyncio.to_thread(launch.check, self.app.root, project)
        if self.app.problems.put(uri, [Problem(uri, w.line, w.column, w.text) for w in wrong]):
            self.app.tell_problems()
        if not wrong:
            return True
        self.app.workbench.panel.tab = "problems"
        self.app.workbench.focus_region("panel")
        count = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
        self.app.notify(
            f"Not started: {project}/project.toml has {count}. Enter goes to one.", severity="error", markup=False
        )
        return False

    async def _go(self, label: str) -> None:
        """Open a run's tab and start its process."""
        from workbench.jobs import launch

        self.app.open(f"run:{label}")
        self.app.watch_workspace.now()
        await asyncio.to_thread(launch.launch, self.app.root, label)
        self.app.tails.now()
        self.app.watch_workspace.now()

    async def stop(self, label: str) -> None:
        """Ask the run to stop after its step; asked a second time, ask the user whether it shall stop at once."""
        from workbench.jobs import launch
        from workbench.modals.confirm import Confirm

        before = next((key for key in self._asked if key[0] == label), None)
        if before is None:
            pid = await asyncio.to_thread(launch.stop, self.app.root, label)
            self._asked = {(label, pid): time.monotonic()}
            words = f"{label} finishes its step, saves a checkpoint and stops. Resume goes on exactly there."
            self.app.notify(words, title="Stopping", markup=False)
            return
        state = await asyncio.to_thread(launch.running_process, self.app.root, label)
        if state != before[1]:  # that process is gone
            del self._asked[before]
            await self.stop(label)
            return
        passed = time.monotonic() - self._asked[before]
        question = (
            f"{label} was asked {passed:.0f} s ago and is finishing its step.\n"
            "Interrupt it at once? The steps since its newest checkpoint are lost."
        )
        if await self.app.push_screen_wait(Confirm(question, yes="Interrupt", no="Wait")):
            await asyncio.to_thread(launch.stop, self.app.root, label, before[1])

    async def resume(self, label: str) -> None:
        """Go on with a run from its newest checkpoint."""
        if label in self._starting:
            return
        self._starting.add(label)
        project, _, number = label.rpartition("/")
        try:
            if not await self._in_session(project, int(number)):
                await self._go(label)
        finally:
            self._starting.discard(label)

    async def delete(self, label: str) -> None:
        """Move a run to the trash, after asking."""
        from workbench.jobs import launch
        from workbench.modals.confirm import Confirm

        info = self.app.snapshot.run(label)
        if info is not None and info.state == "running":
            raise LookupError(f"{label} is running: stop it first (shift+F5, or space r s)")
        what = " with its adapter" if info is not None and info.adapter else ""
        question = f"Move run {label}{what} to the workspace's .trash folder?"
        if not await self.app.push_screen_wait(Confirm(question, yes="Move")):
            return
        gone = await asyncio.to_thread(launch.delete, self.app.root, label)
        editors = self.app.workbench.editors
        editor = editors.find(f"run:{label}")
        if editor is not None:
            await editors.close(editor, ask=False)
        self.app.notify(f"{label} is now {gone.relative_to(self.app.root)}", markup=False)
        self.app.watch_workspace.now()
