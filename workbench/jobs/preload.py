"""What will probably be opened first, imported in a thread after the first paint, so that opening it does not wait."""

from __future__ import annotations

import contextlib
from importlib import import_module

SOON = ("workbench.jobs.tail", "workbench.editors.run_view", "workbench.commands.runs")


def preload() -> None:
    """Import them; what cannot be imported is told when it is opened."""
    for name in SOON:
        with contextlib.suppress(Exception):
            import_module(name)
