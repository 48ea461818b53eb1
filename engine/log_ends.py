"""The first and the last events of a log, found without reading all of it: what a list of runs asks every second.

Comes from: an event log, however long, that may be growing or cut while it is read (so nothing is mapped into memory).
Goes to: `store.Run.state`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

from engine import events
from engine.events import AnyEvent, Event

E = TypeVar("E", bound=Event)
CHUNK_BYTES = 1 << 18


class LogEnds:
    """An open event log, as long as it was when it was opened; a torn last line does not count.

    Raises:
        FileNotFoundError: there is no log.
    """

    def __init__(self, path: Path, chunk: int = CHUNK_BYTES) -> None:
        self._fd, self._chunk = os.open(path, os.O_RDONLY | os.O_CLOEXEC), chunk
        end = os.fstat(self._fd).st_size
        self.end = self._rfind(b"\n", end) + 1

    def __enter__(self) -> LogEnds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def last(self, kind: type[E]) -> E | None:
        """The newest event of a kind; `Event` itself: the newest event."""
        lines = self._lines_backward() if kind is Event else self._lines_naming(kind)
        for line in lines:
            if isinstance(event := events.decode(line), kind):
                return cast(E, event)
        return None

    def first(self) -> AnyEvent | None:
        """The oldest event."""
        begin = 0
        while begin < self.end:
            end = self._find(b"\n", begin) + 1
            event = events.decode(self._read(begin, end)) if end - begin > 1 else None
            if event is not None:
                return event
            begin = end
        return None

    def _lines_backward(self) -> Iterator[bytes]:
        end = self.end
        while end > 0:
            begin = self._rfind(b"\n", end - 1) + 1
            if end - begin > 1:
                yield self._read(begin, end)
            end = begin

    def _lines_naming(self, kind: type[Event]) -> Iterator[bytes]:
        """Lines that could be of this kind, the newest first. Within a JSON text its name would have no plain quotes."""
        name = f'"{kind.__struct_config__.tag}"'.encode()
        end = self.end
        while (at := self._rfind(name, end)) >= 0:
            begin = self._rfind(b"\n", at) + 1
            yield self._read(begin, self._find(b"\n", at) + 1)
            end = begin

    def _rfind(self, what: bytes, end: int) -> int:
        """Where `what` is the last time before byte `end`, -1 where it is not."""
        over = len(what) - 1
        while end > over:
            begin = max(0, end - self._chunk - over)
            found = self._read(begin, end).rfind(what)
            if found >= 0:
                return begin + found
            end = begin + over if begin else 0
        return -1

    def _find(self, what: bytes, begin: int) -> int:
        """Where the byte `what` is the first time from `begin` on; the end of the last line where it is not."""
        while begin < self.end:
            found = (data := self._read(begin, min(begin + self._chunk, self.end))).find(what)
            if found >= 0:
                return begin + found
            if not data:
                break  # the log was cut meanwhile
            begin += len(data)
        return self.end - 1

    def _read(self, begin: int, end: int) -> bytes:
        return os.pread(self._fd, end - begin, begin)
