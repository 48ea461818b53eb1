"""Starting evaluations and merges, and stopping them: what asks the user. The work is `jobs.detach`, in threads."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.commands import Commands

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.models.adapters import Entry


def evaluation(app: WorkbenchApp) -> EvaluationCommands:
    """The commands on detached jobs."""
    return next(c for c in app.commands if isinstance(c, EvaluationCommands))


class EvaluationCommands(Commands):
    """Views that know which adapters are meant call `evaluate` and `merge` with them."""

    def __init__(self, app: WorkbenchApp) -> None:
        super().__init__(app)
        self._starting: set[tuple[str, str]] = set()

    async def act_eval_start(self) -> None:
        await self.evaluate(self.project)

    async def act_adapters_merge(self) -> None:
        await self.merge(self.project)

    async def evaluate(self, project: str, chosen: Sequence[str] = ()) -> None:
        """Ask what to measure, and start that.

        Args:
            chosen: labels of runs whose adapters are to be preselected; none: the newest.
        """
        from workbench.modals.evaluate import Evaluate

        arguments = await self.app.push_screen_wait(Evaluate(project, await self._adapters(project), tuple(chosen)))
        if arguments is not None:
            self.app.open(f"eval:{project}")
            await self._start(project, "eval", arguments)

    async def merge(self, project: str, chosen: Sequence[str] = ()) -> None:
        """Ask how to merge, and start that.

        Args:
            chosen: labels of runs whose adapters are to be preselected; none: the newest.

        Raises:
            LookupError: there is no adapter.
        """
        from workbench.modals.merge import Merge

        entries = [e for e in await self._adapters(project) if e.info is not None]
        if not entries:
            raise LookupError(f"project {project} has no adapter yet: F5 trains one")
        arguments = await self.app.push_screen_wait(Merge(self.app.root, project, entries, tuple(chosen)))
        if arguments is not None:
            self.app.open(f"adapters:{project}", place="merged")
            await self._start(project, "merge", arguments)

    async def stop(self, label: str) -> None:
        """Stop a job, after asking."""
        from workbench.jobs import launch
        from workbench.modals.confirm import Confirm

        if await self.app.push_screen_wait(Confirm(f"Stop {label}? What it has done so far is lost.", yes="Stop")):
            await asyncio.to_thread(launch.stop, self.app.root, label)
            self.app.notify(f"{label} ends with its next step.", title="Stopping", timeout=4, markup=False)

    async def _adapters(self, project: str) -> list[Entry]:
        from workbench.models import adapters

        return await asyncio.to_thread(adapters.scan, self.app.root, project, {})

    async def _start(self, project: str, verb: str, arguments: Sequence[str]) -> None:
        from workbench.jobs import detach

        if (project, verb) in self._starting:
            return
        self._starting.add((project, verb))
        try:
            what = "merge" if verb == "merge" else "evaluation"
            self.app.notify(f"Starting the {what}: it loads its libraries first.", timeout=6, markup=False)
            await asyncio.to_thread(detach.start, self.app.root, project, verb, arguments)
        finally:
            self._starting.discard((project, verb))
            self.app.watch_workspace.now()
