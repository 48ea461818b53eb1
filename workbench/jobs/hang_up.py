"""What happens when the terminal hangs up or the process is told to end: unsaved text is kept, then it ends as it was told.

Python runs the handler in the main thread even while that waits for a terminal which no longer takes anything, where
nothing that the event loop is asked for would be done any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable


def before_the_end(keep: Callable[[], object]) -> None:
    """Call `keep` on SIGHUP and SIGTERM; to be called in the main thread."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        with contextlib.suppress(Exception):  # there is nobody left to tell
            keep()
        os.kill(os.getpid(), number)

    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, end)
