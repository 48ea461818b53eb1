"""Work in a copy of this process while this one goes on: a training's rows are tokenised while its base is loaded.

    fork --> the copy: work, what it says --> pipe --+
      |                                              v
      +----> this process: something else, then listen

What the copy makes, it leaves in files. That it fails is no failure here: whoever needs the files makes them then, and
meets the same error. No torch here, and none in the work: a copy has neither the threads nor the card of its original.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from engine import events
from engine.control import SIGNALS
from engine.events import Emit

SILENCE_SECONDS = 60.0
"""How long a copy may say nothing before it is given up: one that was made beside other threads may hang."""


@contextlib.contextmanager
def aside(work: Callable[[Emit], object]) -> Iterator[Callable[[Emit], None]]:
    """`work` goes on in a copy of this process while in the block, at whose end it is killed.

    Gives what waits for its end, and tells a listener what it says. Away from Linux nothing is done and nothing told:
    there a process that has once used its system's libraries cannot be copied.
    """
    if sys.platform != "linux":
        yield lambda emit: None
        return
    out, into = os.pipe()
    copy = os.fork()
    if not copy:
        _work(work, into)
    os.close(into)
    try:
        yield lambda emit: _listen(out, emit)
    finally:
        os.close(out)
        os.kill(copy, signal.SIGKILL)
        os.waitpid(copy, 0)


def _work(work: Callable[[Emit], object], into: int) -> NoReturn:
    """Be the copy: hold none of the original's files and locks, leave signals to it, and run none of its clean-up."""
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        os.closerange(3, into)
        os.closerange(into + 1, os.sysconf("SC_OPEN_MAX"))

        def say(event: events.Event) -> None:
            os.write(into, events.encode(event))

        work(say)
    finally:
        os._exit(0)  # nobody asks how it ended


def _listen(out: int, emit: Emit) -> None:
    """Tell what is said until nobody is left who could say something, or nothing was said for a long time."""
    torn = b""
    while select.select([out], [], [], SILENCE_SECONDS)[0] and (more := os.read(out, 1 << 16)):
        *lines, torn = (torn + more).split(b"\n")
        for line in lines:
            if (event := events.decode(line)) is not None:
                emit(event)
