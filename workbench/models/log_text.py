"""The last lines of a run's log.txt, made fit for a screen: what libraries print has colours, progress bars, anything."""

from __future__ import annotations

import re
from collections import deque
from itertools import islice

from engine.text import printable

KEPT_LINES = 20_000
LONGEST = 4000
"""Characters of a line that are kept."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class LogText:
    """Lines as they come; the oldest are dropped.

    Attributes:
        total: lines that there were; the kept ones are the last of them.
        skipped: bytes before the first line that was read.
    """

    def __init__(self, skipped: int = 0) -> None:
        self.total, self.skipped = 0, skipped
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)

    def feed(self, data: bytes) -> None:
        """Take whole lines in."""
        lines = data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n")
        self._kept.extend(map(shown, lines))
        self.total += len(lines)

    def since(self, number: int) -> list[str]:
        """Kept lines from line `number` (0, 1, ...) on."""
        behind = self.total - number
        return list(islice(self._kept, max(0, len(self._kept) - behind), None)) if behind > 0 else []


def shown(line: bytes) -> str:
    """A line as a terminal would be left with it: after the last carriage return, without colours."""
    text = _ESCAPES.sub("", line.decode("utf-8", "replace"))
    text = next((part for part in reversed(text.split("\r")) if part), "")
    text = printable(text).expandtabs(4)
    return text if len(text) <= LONGEST else text[:LONGEST] + f"… ({len(text) - LONGEST:,} more characters)"
