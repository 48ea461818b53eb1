"""One thread that follows the event logs of all runs that something shows, and folds them into their models.

Comes from: `runs/NNNN/events.jsonl` and `log.txt`, by offset. Goes to: `models.run.RunModel`, and `RunChanged` messages,
at most one a run every 0.1 s. A long log is first shown from samples of it, a moment later from all of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import events
from workbench.jobs.messages import Notice, RunChanged
from workbench.models.log_text import LogText
from workbench.models.run import RunModel

SECONDS = 0.1
CHUNK_BYTES = 1 << 17
"""Read and folded at once: one or two milliseconds, in which nothing is drawn."""
YIELD = 0.5
"""Rest after a piece of a long log, as a share of the time that the piece took: the screen's thread has its turn then."""
FIRST_SECONDS = 0.2
"""Rest after the first picture of a long log, in which it is drawn."""
LONG_BYTES = 1 << 20
"""A log from this size on is first shown from samples."""
SAMPLES = 1200
ENDS_BYTES = 1 << 16
"""Read of both ends of a long log for its first picture."""
LOG_BYTES = 1 << 20
"""Read of the end of a log.txt."""


@dataclass
class _Watched:
    """A run that is followed."""

    label: str
    path: Path
    model: RunModel
    holders: int = 1
    preview: RunModel | None = None
    text: LogText = field(default_factory=LogText)
    offset: int = 0
    inode: int = 0
    log_offset: int = 0
    looked: float = 0.0
    posted: float = 0.0
    dirty: bool = True


class RunTails:
    """Follows runs from `watch` to `unwatch` (counted). Starts its thread with the first one.

    Args:
        root: the workspace. post: `App.post_message`, which may be called from any thread.
    """

    def __init__(self, root: Path, post: Callable[[Any], Any], seconds: float = SECONDS) -> None:
        self.root, self.post, self.seconds = root, post, seconds
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def stop(self) -> None:
        self._over.set()
        self._wake.set()

    def watch(self, label: str) -> None:
        """Follow a run ("starter/0007") or a job ("starter/jobs/0003"); its first `RunChanged` needs no event."""
        with self._lock:
            known = self._watched.get(label)
            if known is not None:
                known.holders += 1
                known.dirty = True
            else:
                path = folder_of(self.root, label)
                self._watched[label] = _Watched(label, path, RunModel(label, reading=0.0))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="run-tails", daemon=True)
                self._thread.start()
        self._wake.set()

    def unwatch(self, label: str) -> None:
        """The opposite of `watch`; the model goes with the last holder, which is told by a `RunChanged`."""
        with self._lock:
            known = self._watched.get(label)
            if known is not None:
                known.holders -= 1
                if known.holders < 1:
                    del self._watched[label]
                    self.post(RunChanged(label))

    def model(self, label: str) -> RunModel | None:
        """What is known of a watched run: from samples while a long log is being read."""
        known = self._watched.get(label)
        return None if known is None else known.preview or known.model

    def text(self, label: str) -> LogText | None:
        """The end of its log.txt."""
        known = self._watched.get(label)
        return None if known is None else known.text

    def now(self) -> None:
        """Look at once."""
        self._wake.set()

    # --- the thread

    def _run(self) -> None:
        failed = ""
        while not self._over.is_set():
            with self._lock:
                watched = list(self._watched.values())
            busy, begun = False, time.perf_counter()
            for run in watched:
                try:
                    busy |= self._look(run)
                except Exception as error:  # a disk that fails, a folder that goes: say so once, look again
                    if str(error) != failed:
                        failed = str(error)
                        self.post(Notice(f"{type(error).__name__}: {error}", run.label, "warning"))
                self._tell(run)
            if busy:
                time.sleep(max(0.0005, YIELD * (time.perf_counter() - begun)))
            else:
                self._wake.wait(self.seconds)
                self._wake.clear()

    def _tell(self, run: _Watched) -> None:
        now = time.monotonic()
        if run.dirty and now - run.posted >= SECONDS:
            run.dirty, run.posted = False, now
            self.post(RunChanged(run.label))

    def _look(self, run: _Watched) -> bool:
        """Read a piece; returns whether there is more."""
        more = self._text(run)
        try:
            status = (run.path / "events.jsonl").stat()
        except OSError:
            gone = not run.path.is_dir()
            run.dirty |= gone != run.model.gone
            run.model.gone = gone
            self._finish(run)
            return more
        run.model.gone = False
        if status.st_size < run.offset or (run.inode and status.st_ino != run.inode):
            self._begin_again(run)
        run.inode = status.st_ino
        if status.st_size == run.offset:
            self._finish(run)
            self._alive(run)
            return more
        if run.offset == 0 and status.st_size >= LONG_BYTES:
            self._preview(run, status.st_size)
        said, offset = events.read(run.path / "events.jsonl", run.offset, CHUNK_BYTES)
        if offset < run.offset:
            self._begin_again(run)
        with run.model.lock:
            run.model.fold(said)
            run.model.reading = min(1.0, offset / status.st_size)
        moved, run.offset = offset != run.offset, offset
        if run.preview is not None:
            run.preview.reading = run.model.reading
        run.dirty |= bool(said)
        if not moved:  # the rest is a line that is still being written, or was never finished
            self._finish(run)
            self._alive(run)
        return more or moved

    def _begin_again(self, run: _Watched) -> None:
        """The log is another one."""
        run.model, run.preview, run.offset, run.dirty = RunModel(run.label), None, 0, True

    def _finish(self, run: _Watched) -> None:
        """All there is has been read."""
        if run.preview is not None or run.model.reading < 1.0:
            run.model.reading, run.preview, run.dirty = 1.0, None, True

    def _alive(self, run: _Watched) -> None:
        """Look whether its process lives, once a second while nothing says that it ended."""
        model, now = run.model, time.monotonic()
        if model.started is None or model.state not in ("running", "killed") or now - run.looked < 1.0:
            return
        from engine.store import process_lives

        run.looked = now
        alive = process_lives(model.started.pid, model.started.pid_started)
        if alive != model.alive:
            # A process that has ended may have said its last words after we read: they come with the next look.
            if not alive and model.alive is None and self._unread(run):
                return
            model.alive, run.dirty = alive, True

    def _unread(self, run: _Watched) -> bool:
        return (run.path / "events.jsonl").stat().st_size != run.offset

    def _preview(self, run: _Watched, size: int) -> None:
        """A first picture of a long log, told at once."""
        from engine.store import process_lives

        preview = RunModel(run.label, preview=True, reading=0.0)
        preview.fold(sampled(run.path / "events.jsonl", size))
        if preview.started is not None:
            preview.alive = process_lives(preview.started.pid, preview.started.pid_started)
        run.preview, run.dirty, run.posted = preview, True, 0.0
        self._tell(run)
        self._over.wait(FIRST_SECONDS)

    def _text(self, run: _Watched) -> bool:
        """Read a piece of log.txt; returns whether there is more."""
        try:
            with (run.path / "log.txt").open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size == run.log_offset:
                    return False
                if size < run.log_offset:
                    run.text, run.log_offset = LogText(), 0
                if run.log_offset == 0 and size > LOG_BYTES:
                    file.seek(size - LOG_BYTES)
                    file.readline()
                    run.log_offset = file.tell()
                    run.text = LogText(run.log_offset)
                file.seek(run.log_offset)
                data = file.read(CHUNK_BYTES)
        except OSError:
            return False
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) < CHUNK_BYTES:
            return False
        data = data[: whole or len(data)]
        run.text.feed(data)
        run.log_offset, run.dirty = run.log_offset + len(data), True
        return len(data) > CHUNK_BYTES // 2


def folder_of(root: Path, label: str) -> Path:
    """The folder of a run ("starter/0007") or a job ("starter/jobs/0003")."""
    project, _, number = label.partition("/")
    return root / "projects" / project / (number if "/" in number else f"runs/{number}")


def sampled(path: Path, size: int, count: int = SAMPLES, ends: int = ENDS_BYTES) -> list[events.AnyEvent]:
    """Events of the beginning and the end of a log, and of about `count` places between, in their order."""
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        head = os.pread(fd, ends, 0)
        begin = head.rfind(b"\n") + 1
        found = list(events.iter_events(head[:begin]))
        tail_at = max(begin, size - ends)
        step = max(1, (tail_at - begin) // count)
        for at in range(begin, tail_at, step):
            piece = os.pread(fd, 2048, at)
            first = piece.find(b"\n") + 1
            last = piece.find(b"\n", first)
            if first and last > 0 and at + last < tail_at and (event := events.decode(piece[first:last])) is not None:
                found.append(event)
        tail = os.pread(fd, size - tail_at, tail_at)
        found += events.iter_events(tail[tail.find(b"\n") + 1 :] if tail_at > begin else tail)
    return found
