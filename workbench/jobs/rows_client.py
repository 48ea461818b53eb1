"""Asks the engine about a project's data: its processes, what is asked of them, what they answer.

    client.ask("rows", split="train", start=1, count=50)   from the UI thread; returns at once with a number
    RowsAnswer(number, ...)                                 posted when it is there
    RowsNote({"note": "index", ...})                        how far the engine is, the newest only
    RowsEnded("measure", "...")                             a process ended that nobody stopped
    ProjectChanged()                                        the project's data settings are others than they were

Two processes of `engine.jobs.browsing`, ordinary children that end with the view: one for rows as they lie there, so
that scrolling never waits for the other, which loads the tokenizer and goes through all rows. Each has a thread that
writes, one that reads, one that keeps the end of what it says on stderr. The project file is looked at once a second.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from textual.message import Message

import engine

ROLES = {"open": "rows", "rows": "rows", "find": "rows"}
"""Which process a question goes to; those not named go to "measure"."""
LOOK_SECONDS = 1.0
_TAIL_LINES = 12
_SETTINGS = {"data": None, "model": ("base", "revision", "trust_remote_code"), "train": ("max_length", "overlong")}
"""The tables and keys of project.toml that what is shown depends on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, as the engine says it."""

    problem: str
    where: str | None = None
    remedy: str | None = None

    @property
    def words(self) -> str:
        return "\n".join(p for p in (self.where, self.problem, self.remedy) if p)


class RowsAnswer(Message):
    """The answer to question `number` of a client: `ok` or a `problem`."""

    def __init__(self, client: RowsClient, number: int, do: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.number, self.do, self.asked = client, number, do, asked
        self.ok: dict[str, Any] | None = answer.get("ok")
        error = answer.get("error") or {}
        self.problem = None if self.ok is not None else Problem(**error) if error else Problem("no answer")


class RowsNote(Message):
    """How far the engine is."""

    def __init__(self, client: RowsClient, note: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.note, self.kind = client, note, note.get("note")

    def can_replace(self, message: Message) -> bool:
        if not isinstance(message, RowsNote) or message.client is not self.client or self.kind == "find":
            return False
        return message.kind == self.kind and message.note.get("split") == self.note.get("split")


class RowsEnded(Message):
    """A process ended by itself; `words` are its code and the end of what it said."""

    def __init__(self, client: RowsClient, role: str, words: str) -> None:
        super().__init__()
        self.client, self.role, self.words = client, role, words


class ProjectChanged(Message):
    """The file of the project has other data settings now."""

    def __init__(self, client: RowsClient) -> None:
        super().__init__()
        self.client = client


class RowsClient:
    """Args: post: a widget's `post_message`, which may be called from any thread."""

    def __init__(self, root: Path, project: str, post: Callable[[Message], Any]) -> None:
        self.root, self.project, self.post = root, project, post
        self._children: dict[str, Child] = {}
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="rows-project", daemon=True)
        self._watching.start()

    def ask(self, do: str, **asked: Any) -> int:
        """Put a question; the process is started where it does not run. Returns the question's number."""
        number, role = next(self._numbers), ROLES.get(do, "measure")
        child = self._children.get(role)
        if child is None or child.ended:
            child = self._children[role] = Child(self, role)
        child.put(number, do, asked)
        return number

    def stop(self) -> None:
        """End the processes; what they still say is not told."""
        self._over.set()
        for child in self._children.values():
            child.stop()

    @property
    def stopped(self) -> bool:
        return self._over.is_set()

    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [c.process.pid for c in self._children.values() if c.process is not None and c.process.poll() is None]

    def _watch(self) -> None:
        path = self.root / "projects" / self.project / "project.toml"
        seen, before = _stamp(path), _settings(path)
        while not self._over.wait(LOOK_SECONDS):
            if (now := _stamp(path)) != seen:
                seen, settings = now, _settings(path)
                if settings is not None and settings != before:
                    before = settings
                    self.post(ProjectChanged(self))


class Child:
    """One process."""

    def __init__(self, client: RowsClient, role: str) -> None:
        self.client, self.role = client, role
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = False
        self._asked: dict[int, tuple[str, dict[str, Any]]] = {}
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._said: deque[str] = deque(maxlen=_TAIL_LINES)
        threading.Thread(target=self._write, name=f"rows-{role}-write", daemon=True).start()

    def put(self, number: int, do: str, asked: dict[str, Any]) -> None:
        self._asked[number] = do, asked
        self._queue.put(json.dumps({"id": number, "do": do, **asked}).encode() + b"\n")

    def stop(self) -> None:
        self.ended = True
        self._queue.put(None)

    def _write(self) -> None:
        """Start the process and write to it what is put, until it is to end."""
        source = Path(engine.__file__).parents[1]
        path = os.pathsep.join(filter(None, (str(source), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "engine.jobs.browsing", str(self.client.root.resolve()), self.client.project]
        try:
            process = subprocess.Popen(
                command,
                cwd=source,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip  (in a folder that is not the user's: `-m` looks for modules there first)
        except OSError as error:
            self._end(f"cannot be started: {error.strerror or error}")
            return
        self.process = process
        self._listening = threading.Thread(target=self._listen, name=f"rows-{self.role}-stderr", daemon=True)
        self._listening.start()
        threading.Thread(target=self._read, name=f"rows-{self.role}-read", daemon=True).start()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: the reader says so
            while (line := self._queue.get()) is not None:
                process.stdin.write(line)
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.kill()
        process.wait()

    def _read(self) -> None:
        process = self.process
        assert process is not None and process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                self._tell(json.loads(line))
        code = process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._listening.join(1.0)
        self._end("\n".join([f"the engine's process ended by itself ({how})", *self._said]))
        self._queue.put(None)

    def _tell(self, document: dict[str, Any]) -> None:
        if self.client.stopped:
            return
        if "note" in document:
            self.client.post(RowsNote(self.client, document))
        elif (asked := self._asked.pop(document.get("id", -1), None)) is not None:
            self.client.post(RowsAnswer(self.client, document["id"], *asked, document))

    def _listen(self) -> None:
        assert self.process is not None and self.process.stderr is not None
        for line in self.process.stderr:
            self._said.append(line[:400].decode("utf-8", "replace").rstrip())

    def _end(self, words: str) -> None:
        was, self.ended = self.ended, True
        if not was and not self.client.stopped:
            self.client.post(RowsEnded(self.client, self.role, words))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    except OSError:
        return None


def _settings(path: Path) -> dict[str, Any] | None:
    """What of a project file the view depends on; None where it cannot be read now."""
    import tomli

    try:
        with path.open("rb") as file:
            whole = tomli.load(file)
    except (OSError, ValueError):
        return None
    found: dict[str, Any] = {}
    for table, keys in _SETTINGS.items():
        value = whole.get(table)
        found[table] = value if keys is None or not isinstance(value, dict) else {k: value.get(k) for k in keys}
    return found
