"""Keeping the unsaved text of one editor in its swap file: a second after a change, and when it or the process goes."""

from __future__ import annotations

import contextlib
import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError
from workbench.jobs.files import Swap

if TYPE_CHECKING:
    from workbench.editors.held import HeldEditor

KEEP_SECONDS = 1.0
"""After a change, until the unsaved text is in the swap file."""


class Keeper:
    """Writes what the editor holds; all disks are waited for in threads, but where the process ends.

    Attributes:
        number: of the newest text that was given to be written.
        over: nothing more is to be kept from here.
    """

    def __init__(self, editor: HeldEditor, swap: Swap) -> None:
        self.editor, self.swap = editor, swap
        self.number, self.over = 0, False
        self._waiting = self._failed = False

    def soon(self) -> None:
        """The text has changed, or is what the file holds again."""
        if not self._waiting:
            self._waiting = True
            self.editor.set_timer(KEEP_SECONDS, self._keep)

    def _keep(self) -> None:
        self._waiting = False
        self.number += 1
        if self.editor.dirty:
            self._work(self._write, self.editor.file_text, self.editor.disk.sha, self.number)
        else:
            self._work(self.swap.clear, self.number)

    def _write(self, text: str, base: str, number: int) -> None:
        try:
            self.swap.write(text, base, number)
            self._failed = False
        except (EngineError, OSError) as error:
            if not self._failed:
                self._failed = True
                text = f"{error}\nunsaved text cannot be kept: save it soon, or elsewhere"
                app = self.editor.app
                app.call_from_thread(app.notify, text, severity="warning", markup=False)

    def now(self) -> None:
        """Write in this thread: the process is about to end."""
        if self.editor.loaded and self.editor.dirty and not self.over:
            self.number += 1
            self._last(self.editor.file_text, self.editor.disk.sha, self.number)

    def gone(self) -> None:
        """The editor has gone, with the workbench in whatever way: keep the newest, in a thread that is waited for."""
        if self.editor.loaded and self.editor.dirty and not self.over:
            newest = self.editor.file_text, self.editor.disk.sha, self.number + 1
            threading.Thread(target=self._last, args=newest).start()

    def _last(self, text: str, base: str, number: int) -> None:
        with contextlib.suppress(EngineError, OSError):
            self.swap.write(text, base, number)

    def end(self) -> None:
        """What is kept stays, and another editor goes on with it."""
        self.over = True
        self.swap.close()

    def discard(self) -> None:
        """The unsaved text is not wanted."""
        self.end()
        self.number += 1
        self._work(self.swap.clear, self.number)

    def forget(self, path: Path) -> None:
        """Remove what another process has kept."""
        self._work(functools.partial(path.unlink, missing_ok=True))

    def _work(self, work, *given) -> None:
        self.editor.run_worker(functools.partial(work, *given), thread=True, exit_on_error=False, group="swap")
