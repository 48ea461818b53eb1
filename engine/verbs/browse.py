"""`loraworkbench browse PROJECT`: for programs. What it asks and answers is told in `engine.jobs.browsing`."""

from __future__ import annotations

from engine.jobs import browsing
from engine.store import Workspace


def run(workspace: Workspace, project: str) -> None:
    """Serve until stdin ends."""
    browsing.run(workspace.root, project)
