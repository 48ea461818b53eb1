"""A thread that looks at the workspace once a second and posts a snapshot where it differs from the last one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.jobs.messages import Notice, WorkspaceChanged

SECONDS = 1.0


class WorkspaceWatch:
    """Looks until stopped; `now` makes it look at once.

    Args:
        post: `App.post_message`, which may be called from any thread.
    """

    def __init__(self, root: Path, post: Callable[[Any], Any]) -> None:
        self.root, self.post = root, post
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="workspace-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._wake.set()

    def now(self) -> None:
        self._wake.set()

    def _run(self) -> None:
        from workbench.models.workspace import Scanner, glimpse

        self.post(WorkspaceChanged(glimpse(self.root)))
        scanner, last, failed = Scanner(self.root), None, ""  # its first scan imports pydantic
        while not self._over.is_set():
            try:
                snapshot = scanner.scan()
                failed = ""
                if snapshot != last:
                    last = snapshot
                    self.post(WorkspaceChanged(snapshot))
            except Exception as error:  # a folder that vanishes while it is read: look again
                if str(error) != failed:
                    failed = str(error)
                    self.post(Notice(f"{type(error).__name__}: {error}", "Workspace", "warning"))
            self._wake.wait(SECONDS)
            self._wake.clear()
