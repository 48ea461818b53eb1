"""A program in a pseudo-terminal: what it writes, when; keys sent to it; a link of limited speed in front of it.

Used by the benchmarks of the workbench and by its end-to-end tests. No terminal is emulated: what is looked for in the
output is plain text that a repaint writes in one piece.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Terminal:
    """A process on its own pseudo-terminal.

    Args:
        command: program and arguments. size: columns, rows.
        bytes_per_second: how fast its output is taken from it, as by a slow link; 0: as fast as it comes.
    """

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int] = (120, 40),
        environment: dict[str, str] | None = None,
        folder: Path | None = None,
        bytes_per_second: int = 0,
    ) -> None:
        self.begun = time.perf_counter()
        self.rate, self._budget, self._refilled = bytes_per_second, 0.0, time.perf_counter()
        self.output = bytearray()
        self.received = 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            # COLUMNS and LINES would be believed before the terminal. A new environment is given rather than this one
            # changed: a library may have set the two where os.environ does not see them, and so cannot unset them.
            inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
            if folder:
                os.chdir(folder)
            os.execvpe(
                command[0],
                list(command),
                {**inherited, "TERM": "xterm-256color", "COLORTERM": "truecolor", **(environment or {})},
            )

    def read(self, seconds: float) -> bytes:
        """Take what is written within `seconds`; ends at once where the program has ended."""
        end, taken = time.perf_counter() + seconds, bytearray()
        while (left := end - time.perf_counter()) > 0:
            most = 65536
            if self.rate:
                now = time.perf_counter()
                self._budget = min(self.rate / 20, self._budget + (now - self._refilled) * self.rate)
                self._refilled = now
                most = int(self._budget)
                if most < 64:
                    time.sleep(min(left, 64 / self.rate))
                    continue
            ready, _, _ = select.select([self.fd], [], [], left)
            if not ready:
                break
            try:
                data = os.read(self.fd, most)
            except OSError:  # the program has ended
                break
            if not data:
                break
            self._budget -= len(data)
            taken += data
            if time.perf_counter() > end or not self.rate:
                break
        self.output += taken
        self.received += len(taken)
        return bytes(taken)

    def wait_for(self, text: str, seconds: float = 30.0) -> float:
        """Seconds since now until `text` has been written.

        Raises:
            TimeoutError: it was not, with the end of the output.
        """
        begun, start = time.perf_counter(), len(self.output)
        wanted = text.encode()
        while time.perf_counter() - begun < seconds:
            self.read(0.2)
            if wanted in _ESCAPES.sub(b"", bytes(self.output[max(0, start - 64) :])):
                return time.perf_counter() - begun
        raise TimeoutError(f"{text!r} was not written; the end: {self.text()[-1500:]}")

    def text(self) -> str:
        """All that was written, without escape sequences."""
        return _ESCAPES.sub(b"", bytes(self.output)).decode("utf-8", "replace")

    def send(self, keys: str | bytes) -> None:
        os.write(self.fd, keys.encode() if isinstance(keys, str) else keys)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.pid)

    def hang_up(self) -> None:
        """Close the terminal under the program, as a dropped connection does."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)

    def close(self) -> None:
        """End the program."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                break
            for _ in range(50):
                done, _ = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    os.close(self.fd)
                    return
                time.sleep(0.02)
