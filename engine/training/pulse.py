"""Whether the other ranks of a training still live, and what a rank that failed has to say.

    each rank, every 2 s:   its own pulse into the store;  everybody's pulses out of it

Comes from: the store at which the ranks of torch.distributed meet. Goes to: `ranks`, which asks before it waits on. No
clocks are compared: a rank is lost when what it last wrote has not changed for long by the clock of who looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from typing import Any

from engine.errors import EngineError, WorkFailed

PULSE_SECONDS = 2.0
SILENCE_SECONDS = 45.0
"""A rank that has not been heard of for so long is lost. It may hold Python's lock for seconds while it loads a base."""
BROKEN_SECONDS = 6.0
"""The same where a connection to some rank broke, as it does at once when a process dies."""
LAUNCHER = "LORAWORKBENCH_LAUNCHER"
"""The process that started the ranks of this machine, where that was `loraworkbench train`."""


class RankLost(WorkFailed):
    """A process of the training is gone, or cannot be reached."""


class Pulse(threading.Thread):
    """A thread that writes this rank's pulse, and reads those of the others.

    Args:
        store: a connection of its own to the ranks' store.

    Attributes:
        remedy: what to do when a rank is lost.
    """

    def __init__(self, store: Any, number: int, count: int) -> None:
        super().__init__(name="pulse", daemon=True)
        self.store, self.number, self.count = store, number, count
        self.remedy = "go on with --resume: the weights of the newest checkpoint are kept"
        self._others = [n for n in range(count) if n != number]
        self._heard: dict[int, bytes] = {}
        self._changed = dict.fromkeys(self._others, time.monotonic())
        self._asking: float | None = None
        self._broken: str | None = None
        self._beats = 0
        self._over = threading.Event()
        self._launcher = int(os.environ.get(LAUNCHER, 0))
        self._write({"beat": 0})

    def run(self) -> None:
        while not self._over.wait(PULSE_SECONDS):
            if self._launcher and os.getppid() != self._launcher:
                self._launcher = 0
                os.kill(os.getpid(), signal.SIGTERM)  # as if who started us had asked us to stop
            self._beats += 1
            self._asking = time.monotonic()
            try:
                self._write({"beat": self._beats})
                found = self.store.multi_get([_key(n) for n in self._others])
            except RuntimeError as error:  # all errors of torch's stores are
                self._broken = str(error).splitlines()[0]
                return
            now, self._asking = time.monotonic(), None
            for other, said in zip(self._others, found, strict=True):
                if self._heard.get(other) != said:
                    self._heard[other], self._changed[other] = said, now

    def _write(self, words: dict[str, Any]) -> None:
        self.store.set(_key(self.number), json.dumps(words))

    def check(self, silence: float = SILENCE_SECONDS) -> None:
        """See that the others live.

        Raises:
            RankLost: one is silent, or the store is. WorkFailed: one has failed, in its own words.
        """
        for other in self._others:
            words: dict[str, Any] = json.loads(self._heard.get(other, b"{}"))
            if failed := words.get("failed"):
                told = failed["problem"] if failed.pop("lost") else f"rank {other}: {failed['problem']}"
                raise WorkFailed(told, where=failed["where"], remedy=failed["remedy"])
        now = time.monotonic()
        if self._broken is not None or (self._asking is not None and now - self._asking > silence):
            problem = "rank 0 is lost, or the store at which the ranks meet"
            raise RankLost(f"{problem}: {self._broken or f'no answer for {silence:.0f} s'}", remedy=self.remedy)
        for other in self._others:
            # What was not read in time because this thread had no time says nothing.
            last = self._asking or now
            if last - self._changed[other] > silence and not self._ended(other) and self._beats > 1:
                self._accuse(other, last - self._changed[other])

    def _accuse(self, other: int, silent: float) -> None:
        raise RankLost(f"rank {other} is lost: nothing was heard of it for {silent:.0f} s", remedy=self.remedy)

    def _ended(self, other: int) -> bool:
        return b'"ended"' in self._heard.get(other, b"")

    def after_a_break(self, error: BaseException) -> None:
        """A connection broke: find out whose.

        Raises:
            RankLost, WorkFailed: always.
        """
        begun = time.monotonic()
        while time.monotonic() - begun < SILENCE_SECONDS / 3:
            self.check(BROKEN_SECONDS)
            time.sleep(0.1)
        problem = f"the connection to another rank broke: {str(error).splitlines()[0]}"
        raise RankLost(problem, remedy=self.remedy) from error

    def end(self, error: BaseException | None) -> None:
        """Say the last words of this rank: that it is done, or why it failed."""
        self._over.set()
        if self.ident is not None:  # it was started
            self.join(PULSE_SECONDS)
        words: dict[str, Any] = {"ended": True}
        if isinstance(error, EngineError):
            lost = isinstance(error, RankLost)
            words["failed"] = {"problem": error.problem, "where": error.where, "remedy": error.remedy, "lost": lost}
        elif error is not None:
            problem = f"{type(error).__name__}: {error}".splitlines()[0]
            words["failed"] = {"problem": problem, "where": None, "remedy": None, "lost": False}
        if not self.is_alive():  # else the store does not answer
            with contextlib.suppress(RuntimeError):
                self._write(words)


def _key(number: int) -> str:
    return f"pulse/{number}"
