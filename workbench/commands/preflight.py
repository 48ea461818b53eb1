"""Before a run is started: will it fit? Asks where it probably will not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.text import one_line, pad, size

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.models.preflight import Preflight


async def preflight(app: WorkbenchApp, project: str) -> bool:
    """Whether the run may start. Says nothing where it fits, or where nothing can be said; asks where it does not fit.

    A project file with mistakes may proceed: starting the run tells them better.
    """
    from engine.errors import InputError
    from workbench.models.preflight import assess

    machine = app.gauges.machine
    try:
        found = await asyncio.to_thread(assess, app.root, project, machine)
    except InputError:
        return True
    except Exception as error:  # an estimate is never a reason not to start
        app.log.error(f"preflight: {error!r}")
        return True
    if found.fits is not False:
        return True
    from workbench.modals.confirm import Confirm

    return bool(await app.push_screen_wait(Confirm(question(found), yes="Start anyway", no="Not now")))


def question(found: Preflight) -> str:
    """What is asked where a run does not fit: the parts of the estimate, and what would make it smaller."""
    from engine import smaller

    assert found.estimate is not None and found.free is not None
    parts = [p for p in found.estimate.parts if p.bytes >= 10**6]
    width = max((len(p.name) for p in parts), default=0)
    rows = [f"  {pad(p.name, width)}  {size(p.bytes):>8}" for p in parts]
    short = found.estimate.total - found.free
    return "\n".join(
        [
            f"{one_line(found.project)} needs about {size(found.estimate.total)}, and {size(found.free)} of "
            f"{size(found.total or 0)} is free on {found.place}: {size(short)} too little.",
            "",
            *rows,
            "",
            smaller.words(found.change),
            *found.estimate.unknown,
            "Start the run all the same?",
        ]
    )
