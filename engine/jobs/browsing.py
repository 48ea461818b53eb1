"""Answers a program's questions about a project's data: `loraworkbench browse`, for the workbench's data view.

    stdin    {"id": 1, "do": "rows", "split": "train", "start": 1, "count": 50}
    stdout   {"id": 1, "ok": {"rows": [...], "known": 1000000, "complete": true}}
             {"id": 2, "error": {"problem": "there is no row 9", "where": null, "remedy": null}}
             {"note": "index", "split": "train", "known": 250000, ...}

One JSON object a line, in both directions; answers come in any order. The process ends with its stdin. Questions about
rows as they are (open, rows, find) need neither the whole project file nor a tokenizer, and are answered while the
others (row, ledger, lengths, overlap, marks: `measuring`) are worked on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from engine.errors import EngineError, InputError
from engine.rows.sources import Sources

LONGEST_REQUEST = 1 << 16
"""Bytes of a request; a longer line is refused."""
NOTE_SECONDS = 0.15
"""Time between two notes about progress."""
Send = Callable[[dict[str, Any]], None]
Request = dict[str, Any]


def run(root: Path, project: str) -> None:
    """Serve stdin and stdout until stdin ends; does not return.

    Whatever else is printed in this process goes to stderr.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for who asks
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    lock = threading.Lock()

    def send(document: dict[str, Any]) -> None:
        data = json.dumps(document).encode() + b"\n"  # all ASCII: half a character of a damaged file is "\\ud800"
        with lock:
            while data:
                data = data[os.write(ours, data) :]

    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, Browser(root, project, send))
    os._exit(0)  # threads may be amid a library


def serve(stdin: BinaryIO, browser: Browser) -> None:
    """Hand every line of `stdin` to the browser, until there are no more."""
    while line := stdin.readline(LONGEST_REQUEST):
        if not line.endswith(b"\n") and len(line) == LONGEST_REQUEST:
            while (rest := stdin.readline(LONGEST_REQUEST)) and not rest.endswith(b"\n"):
                pass
            browser.refuse(None, f"a request of more than {LONGEST_REQUEST:,} bytes")
        elif line.strip():
            browser.handle(line)


class Browser:
    """Takes requests, answers through `send` (which threads call, too)."""

    def __init__(self, root: Path, project: str, send: Send) -> None:
        self.send = send
        self.sources = Sources(root, project)
        self._measuring: Any = None
        self._root, self._project = root, project
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()
        self._finding = 0

    # --- requests

    def handle(self, line: bytes) -> None:
        """Answer one line, now or from a thread; never raises for what is in it."""
        id: Any = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise InputError("a request is a JSON object")
            id = request.get("id")
            if isinstance(id, bool) or not (isinstance(id, int) or (isinstance(id, str) and len(id) <= 100)):
                id = None
                raise InputError("a request has an id: a whole number, or a short text")
            do = request.get("do")
            lane = LANES.get(do) if isinstance(do, str) else None
            if lane is None:
                raise InputError(f"there is no request {str(do)[:40]!r}", remedy=f"there are: {', '.join(LANES)}")
        except (ValueError, RecursionError, InputError) as error:
            problem = error.problem if isinstance(error, InputError) else "not a line of JSON"
            self.refuse(id, problem, remedy=error.remedy if isinstance(error, InputError) else None)
            return
        if do == "find":
            self._finding += 1  # one search at a time: an older one gives up
            request["search"] = self._finding
        work = lambda: self._answer(id, request)  # noqa: E731
        if lane:
            self._lane(lane).put(work)
        else:
            work()

    def _answer(self, id: int | str, request: Request) -> None:
        try:
            ok = getattr(self, f"do_{request['do']}")(request)
        except EngineError as error:
            self.refuse(id, error.problem, error.where, error.remedy)
        except Exception as error:  # a mistake of ours ends one request, not the process
            _print_trace()
            self.refuse(id, f"unexpected {type(error).__name__}: {error}")
        else:
            self.send({"id": id, "ok": ok})

    def refuse(self, id: int | str | None, problem: str, where: str | None = None, remedy: str | None = None) -> None:
        self.send({"id": id, "error": {"problem": problem, "where": where, "remedy": remedy}})

    def _lane(self, name: str) -> Lane:
        with self._lock:
            return self._lanes.setdefault(name, Lane(name))

    def wait(self, seconds: float = 60.0) -> None:
        """Until all that was asked is answered and all rows are counted (for tests)."""
        for lane in list(self._lanes.values()):
            lane.join(seconds)

    # --- rows as they are

    def do_open(self, request: Request) -> dict[str, Any]:
        described = self.sources.describe()
        for name in self.sources.names:
            self._lane("index").put(lambda name=name: self._count(name))
        return described

    def _count(self, name: str) -> None:
        """Count the rows of a source, and tell how far it is."""
        table, last = self.sources.table(name), 0.0
        problem: dict[str, Any] | None = None
        try:
            while table.work():
                if time.monotonic() - last >= NOTE_SECONDS:
                    last = time.monotonic()
                    self._note_count(name, None)
        except InputError as error:
            problem = {"problem": error.problem, "where": error.where, "remedy": error.remedy}
        except OSError as error:
            problem = {"problem": f"cannot be read: {error.strerror}", "where": error.filename, "remedy": None}
        self._note_count(name, problem)

    def _note_count(self, name: str, problem: dict[str, Any] | None) -> None:
        table = self.sources.table(name)
        done, size = table.progress
        told = {"known": table.known, "complete": table.complete, "bytes": done, "size": size}
        self.send({"note": "index", "split": name, **told, "error": problem})

    def do_rows(self, request: Request) -> dict[str, Any]:
        split, width = choice(request, "split", ("train", "test")), number(request, "width", 400, 1, 100_000)
        start, count = number(request, "start", 1, 1), number(request, "count", 50, 1, 500)
        if self.sources.shares_rows(split):
            return self.do_unseen(request)
        return self.sources.page(split, start, count, width)

    def do_unseen(self, request: Request) -> dict[str, Any]:
        width = number(request, "width", 400, 1, 100_000)
        return self.measuring.unseen_rows(number(request, "start", 1, 1), number(request, "count", 50, 1, 500), width)

    def do_find(self, request: Request) -> dict[str, Any]:
        split, mine = choice(request, "split", ("train", "test")), request["search"]
        text = request.get("text")
        if not isinstance(text, str) or not text:
            raise InputError("`text` is what to look for")
        last, told = time.monotonic(), 0

        def go_on(at: int, found: list[int]) -> bool:
            nonlocal last, told
            if time.monotonic() - last >= NOTE_SECONDS:
                new, told, last = found[told:], len(found), time.monotonic()
                self.send({"note": "find", "id": request["id"], "at": at, "numbers": new})
            return mine == self._finding

        backward = choice(request, "direction", ("forward", "backward"), "forward") == "backward"
        start, most = number(request, "from", 1, 1), number(request, "most", 1, 1, 10_000)
        return self.sources.find(split, text, request.get("case") is True, start, backward, most, go_on)

    # --- rows as the model will see them

    @property
    def measuring(self) -> Any:
        with self._lock:
            if self._measuring is None:
                from engine.jobs.measuring import Measuring

                self._measuring = Measuring(self._root, self._project, self.sources, self.send)
            return self._measuring

    def do_row(self, request: Request) -> dict[str, Any]:
        return self.measuring.row(choice(request, "split", ("train", "test")), number(request, "number", 1, 1))

    def do_marks(self, request: Request) -> dict[str, Any]:
        numbers = request.get("numbers")
        if not isinstance(numbers, list) or len(numbers) > 500 or not all(type(n) is int and n > 0 for n in numbers):
            raise InputError("`numbers` are those of at most 500 rows, from 1")
        return self.measuring.marks(choice(request, "split", ("train", "test")), numbers)

    def do_ledger(self, request: Request) -> dict[str, Any]:
        return self.measuring.ledger()

    def do_lengths(self, request: Request) -> dict[str, Any]:
        return self.measuring.lengths(number(request, "bins", 20, 1, 200))

    def do_overlap(self, request: Request) -> dict[str, Any]:
        return self.measuring.overlap()


LANES = {
    "open": "index", "rows": "", "find": "find", "row": "row", "marks": "", "unseen": "", "ledger": "survey",
    "lengths": "survey", "overlap": "survey",
}  # fmt: skip
"""The thread that a request is worked on in; "": at once."""


class Lane:
    """A thread that does one thing after the other."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def put(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def join(self, seconds: float) -> None:
        """Until what is waiting now, and what that puts behind it, is done."""
        for _ in range(2):
            done = threading.Event()
            self.put(done.set)
            if not done.wait(seconds):
                raise TimeoutError

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                work()
            except BrokenPipeError:
                os._exit(0)  # nobody listens
            except Exception:
                _print_trace()


def _print_trace() -> None:
    import traceback  # a hundredth of a second that the first rows need not wait for

    traceback.print_exc()


# --- parameters of requests


def number(request: Request, name: str, default: int, least: int, most: int = 2**62) -> int:
    """A whole number of a request.

    Raises:
        InputError: it is none, or out of its bounds.
    """
    value = request.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"`{name}` is a whole number from {least:,} to {most:,}")
    return value


def choice(request: Request, name: str, among: tuple[str, ...], default: str | None = None) -> str:
    """One of several words.

    Raises:
        InputError: it is none of them.
    """
    value = request.get(name, default)
    if not isinstance(value, str) or value not in among:
        raise InputError(f"`{name}` is one of {', '.join(among)}")
    return value


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
