"""Reading, saving and watching the files that an editor holds, and keeping unsaved text from being lost.

Everything here waits for a disk: it is called in threads. Saved text goes through `engine.files.write_atomic`.

    STATE/swap/project-demo.4711.json    what process 4711 has not saved, about a second old; gone when it is saved
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from workbench.models.workspace import data_files

SECONDS = 1.0
"""Between two looks at a file."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file as it was read.

    Attributes:
        text: its text; None where there is no such file.
        sha: of its bytes, "" where there is none.
        lossy: why the text is not the file (not UTF-8), "" where it is.
    """

    text: str | None
    sha: str = ""
    lossy: str = ""


class ChangedOnDiskError(Exception):
    """The file is not what was read or saved last; `now` is what it holds."""

    def __init__(self, now: OnDisk) -> None:
        super().__init__("the file was changed by another program")
        self.now = now


def read(path: Path) -> OnDisk:
    """The file as text; what is not UTF-8 is replaced, and told in `lossy`.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return OnDisk(None)
    sha = hashlib.sha256(data).hexdigest()
    try:
        return OnDisk(data.decode("utf-8"), sha)
    except UnicodeDecodeError as error:
        return OnDisk(data.decode("utf-8", "replace"), sha, f"not UTF-8 (byte {error.start})")


def save(path: Path, text: str, expected_sha: str | None) -> str:
    """Write `text`, and return the SHA-256 of the file.

    Args:
        expected_sha: of what the file should hold ("" for no file); None: whatever it holds is replaced.

    Raises:
        ChangedOnDiskError: it holds something else (and not `text`).
        WorkFailed: the disk is full or the folder cannot be written; the file is as it was.
    """
    from engine.errors import WorkFailed
    from engine.files import write_atomic

    data = text.encode("utf-8")
    new = hashlib.sha256(data).hexdigest()
    if expected_sha is not None:
        now = read(path)
        if now.sha not in (expected_sha, new):
            raise ChangedOnDiskError(now)
    if not path.parent.is_dir():
        remedy = "it was removed or renamed; the text is kept here: copy it, or make the folder again"
        raise WorkFailed("its folder is gone", where=str(path.parent), remedy=remedy)
    write_atomic(path, data)
    return new


class FileWatch:
    """A thread that looks at a file once a second and tells when it holds something else.

    Args:
        sha: of what it is known to hold.
        told: gets an `OnDisk`, in the thread: it posts a message.
    """

    def __init__(self, path: Path, sha: str, told: Callable[[OnDisk], Any]) -> None:
        self.path, self.sha, self.told = path, sha, told
        self._mark: tuple[int, ...] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{path.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()

    def know(self, sha: str) -> None:
        """It was read or written by us, and holds this: the next look compares with that."""
        self.sha, self._mark = sha, None

    def _run(self) -> None:
        while not self._over.wait(SECONDS):
            new = self._look()
            if new == self._mark:
                continue
            with contextlib.suppress(OSError):  # it cannot be read just now: the next look is in a second
                now = read(self.path)
                self._mark = new
                if now.sha != self.sha:
                    self.sha = now.sha
                    self.told(now)

    def _look(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
        except OSError:
            return ()


# --- unsaved text


@dataclass(frozen=True, slots=True)
class Unsaved:
    """Text that was not saved: of which tab, when, and from which state of the file (its SHA-256)."""

    uri: str
    text: str
    time: float
    base: str
    pid: int
    pid_started: float

    @property
    def when(self) -> str:
        """ "18:32:05 today" or "24 Nov 18:32"."""
        moment, now = time.localtime(self.time), time.localtime()
        return time.strftime("%H:%M:%S today" if moment[:3] == now[:3] else "%d %b %H:%M", moment)


class Swap:
    """Where a process keeps the unsaved text of one tab.

    Args:
        folder: the workspace's state folder.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder / "swap", uri
        self.stem = quote(uri, safe="").replace("%3A", "-")[:150]
        self.path = self.folder / f"{self.stem}.{os.getpid()}.json"
        self._lock, self._last, self._over = threading.RLock(), 0, False  # `write` may come in a signal's handler, too

    def write(self, text: str, base: str, number: int) -> None:
        """Keep `text`; a later call of a smaller `number` (from a slower thread) is ignored.

        Raises:
            WorkFailed: it cannot be written.
        """
        from engine.files import write_json
        from engine.store import process_start

        with self._lock:
            if number < self._last or self._over:
                return
            self._last = number
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unsaved = Unsaved(self.uri, text, time.time(), base, os.getpid(), process_start(os.getpid()))
            write_json(self.path, asdict(unsaved))

    def clear(self, number: int) -> None:
        """What is kept from `number` and before is saved, or not wanted."""
        with self._lock:
            if number >= self._last:
                self._last = number
                self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """No more is to be written."""
        with self._lock:
            self._over = True

    def others(self) -> list[tuple[Path, Unsaved, bool]]:
        """What other processes have left of this tab, the newest first; True where the process lives."""
        from engine.store import process_lives

        found = []
        for path in self.folder.glob(f"{self.stem}.*.json"):
            try:
                unsaved = Unsaved(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                continue
            living = process_lives(unsaved.pid, unsaved.pid_started)
            if path != self.path and unsaved.uri == self.uri:
                found.append((path, unsaved, living))
            elif path == self.path and not living:  # ours by number, of a process that had it before us
                found.append((path, unsaved, False))
        return sorted(found, key=lambda item: -item[1].time)


# --- what can be named in a project file


def known_sources(root: Path) -> tuple[str, ...]:
    """Data that `data.train` could name: files of the workspace, their folders, datasets in the Hub's cache."""
    endings = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".ndjson")
    rows = [
        f
        for f in data_files(root)
        if f.endswith(endings) and not f.endswith(("config.json", "tokenizer.json", "build.json"))
    ]
    folders = dict.fromkeys(str(Path(f).parent) for f in rows if Path(f).parent.parts[1:])
    return (*rows, *folders, *(f"hub:{name}" for name in _cached("datasets")))


def known_bases(root: Path) -> tuple[str, ...]:
    """Bases that `model.base` could name: the starter, folders with a model, models in the Hub's cache."""
    found = ["starter"]
    for pattern in ("*/config.json", "data/*/config.json", "models/*/config.json", "projects/*/runs/*/*/config.json"):
        with contextlib.suppress(OSError):
            for path in sorted(root.glob(pattern)):
                if any(path.parent.glob("*.safetensors")):
                    found.append(str(path.parent.relative_to(root)))
    return (*dict.fromkeys(f for f in found if f != "data/starter"), *_cached("models"))


def _cached(kind: str) -> list[str]:
    """Names of what is in the Hub's cache ("models--Qwen--Qwen3-0.6B" -> "Qwen/Qwen3-0.6B")."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    folder = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    try:
        names = sorted(p.name for p in folder.iterdir() if p.name.startswith(f"{kind}--"))
    except OSError:
        return []
    return [n.removeprefix(f"{kind}--").replace("--", "/") for n in names]
