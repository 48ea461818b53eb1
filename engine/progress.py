"""Output that may vanish and lines that change: what `console` is built of.

Comes from: `console`. Goes to: stdout and stderr, which may be a terminal, a pipe, a file, or gone.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from dataclasses import dataclass
from typing import TextIO

from engine.text import cut, duration, one_line, size

PIPE_SECONDS = 5.0
"""Between two progress lines on a pipe."""
FRAME_SECONDS = 0.1
"""Between two on a terminal."""


class Pipe:
    """A stream that may go away: after that, what is written to it is lost and nothing else happens."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def is_terminal(self) -> bool:
        with contextlib.suppress(ValueError):  # closed
            return self.stream is not None and self.stream.isatty() and os.environ.get("TERM") != "dumb"
        return False

    def write(self, text: str) -> None:
        if self.stream is None:
            return
        try:
            self.stream.write(text)
            self.stream.flush()
        except UnicodeEncodeError as error:
            self.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        except (OSError, ValueError):  # the reader is gone, the terminal hung up, or the stream was closed
            self._drop(self.stream)

    def _drop(self, stream: TextIO) -> None:
        self.stream = None
        # Python flushes at exit and would complain; what is left goes to the null device.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


class LiveLine:
    """A line that changes: rewritten in place on a terminal, repeated every `PIPE_SECONDS` on a pipe."""

    def __init__(self, out: Pipe, tty: bool) -> None:
        self.out, self.tty = out, tty
        self.text: str | None = None  # what stands there, or, on a pipe, was not yet worth a line
        self.drawn = -math.inf

    def show(self, text: str, *, now: bool = False) -> None:
        """Show `text` unless something was shown a moment ago (`now`: in any case)."""
        self.text = text
        if now or time.monotonic() - self.drawn >= (FRAME_SECONDS if self.tty else PIPE_SECONDS):
            self._draw()

    def _draw(self) -> None:
        if self.text is None:
            return
        line = one_line(self.text)
        if self.tty:
            self.out.write("\r" + cut(line, shutil.get_terminal_size().columns - 1) + "\x1b[K")
        else:
            self.out.write(line + "\n")
            self.text = None
        self.drawn = time.monotonic()

    def keep(self) -> None:
        """Let the newest text stand, and go on below it."""
        if self.text is not None:
            self._draw()
            if self.tty:
                self.out.write("\n")
        self.text, self.drawn = None, self.drawn if not self.tty else -math.inf

    def erase(self) -> None:
        """Take the line away."""
        if self.text is not None and self.tty:
            self.out.write("\r\x1b[K")
        self.forget()

    def forget(self) -> None:
        """Let the next text, drawn at once, take the place of this one."""
        self.text, self.drawn = None, -math.inf


@dataclass
class StageProgress:
    """A stage that is going on: since when (seconds since the epoch; `shown`: since when on this screen)."""

    name: str
    begun: float
    shown: float
    done: float = 0.0
    total: float | None = None
    unit: str = ""

    def progress(self, at: float) -> str:
        passed = at - self.begun
        if not self.done:
            return f"{self.name} ..." + (f" {duration(passed)}" if passed >= 1 else "")
        if not self.total:
            return f"{self.name}: {self._amount()}, {duration(passed)}"
        left = passed / self.done * (self.total - self.done)
        return f"{self.name}: {self._amount()}, {self.done / self.total:.0%}, {duration(left)} left"

    def end(self, at: float) -> str:
        what = f"{self._amount()} in " if self.unit else ""
        return f"{self.name}: {what}{duration(at - self.begun)}"

    def _amount(self) -> str:
        if self.unit == "bytes":
            done, total = size(self.done), None if self.total is None else size(self.total)
            return done if total in (None, done) else f"{done} of {total}"
        total = "" if self.total is None or self.done >= self.total else f" of {self.total:,.0f}"
        return f"{self.done:,.0f}{total} {self.unit}".rstrip()
