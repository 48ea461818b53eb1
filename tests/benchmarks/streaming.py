"""What a busy workbench looks at, without a model: a run that says 200 things a second, and a session that answers every
prompt with 50 tokens a second in each column until it is cancelled.

    python tests/benchmarks/streaming.py WORKSPACE        runs until it is ended
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine import events, protocol
from engine.addresses import socket_of
from engine.store import process_start

EVENTS_PER_SECOND, TOKENS_PER_SECOND = 200, 50
WORDS = ("the sum of both is what was asked for and so the answer must be larger than each of them\n").split(" ")  # noqa: SIM905


def log_in(folder: Path, verb: str) -> events.EventLog:
    """A log in which this process has begun."""
    folder.mkdir(parents=True, exist_ok=True)
    log, pid = events.EventLog(folder / "events.jsonl"), os.getpid()
    log(
        events.Started(verb=verb, pid=pid, pid_started=process_start(pid), project="starter", device="CPU", versions={})
    )
    return log


def paced(rate: float) -> Any:
    """Count from 1, `rate` a second."""
    begun = time.perf_counter()
    for number in itertools.count(1):
        yield number
        time.sleep(max(0.0, begun + number / rate - time.perf_counter()))


def train(folder: Path) -> None:
    """Step events, for ever."""
    log = log_in(folder, "train")
    for step in paced(EVENTS_PER_SECOND):
        log(
            events.Step(
                step=step, steps=1_000_000, loss=2 / (1 + step / 500), learning_rate=1e-3, gradient_norm=1.0, tokens=500,
                supervised_tokens=200, seconds=0.005, tokens_per_second=100_000.0, memory_bytes=10**9, epoch=step / 1e4,
            )
        )  # fmt: skip


class Connection:
    """One client of the session."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.lock, self.cancelled = connection, threading.Lock(), set[int]()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        with contextlib.suppress(OSError), self.connection.makefile("rb") as lines:
            for line in lines:
                self.answer(protocol.decode_request(line))

    def say(self, *replies: Any) -> None:
        with self.lock:
            self.connection.sendall(b"".join(map(protocol.encode, replies)))

    def answer(self, request: Any) -> None:
        match request:
            case protocol.Status():
                loaded = [protocol.Loaded("starter-0001", "ab" * 8)]
                self.say(protocol.StatusOf(request.id, 1, os.getpid(), "starter", "starter", "nf4", loaded))
            case protocol.Generate():
                threading.Thread(target=self.generate, args=(request,), daemon=True).start()
            case protocol.Cancel():
                self.cancelled.add(request.target)
                self.say(protocol.Done(request.id))
            case _:
                self.say(protocol.Done(request.id))

    def generate(self, request: protocol.Generate) -> None:
        with contextlib.suppress(OSError):
            for number in paced(TOKENS_PER_SECOND):
                word = WORDS[number % len(WORDS)] + " "
                columns = range(len(request.columns))
                self.say(*(protocol.Text(request.id, c, word, [(word, -0.5)]) for c in columns))
                if request.id in self.cancelled:
                    return self.say(protocol.Done(request.id, cancelled=True))


def session(folder: Path) -> None:
    """Listen as a session of the project does."""
    log_in(folder, "session").close()
    (folder / "job.json").write_text(json.dumps({"verb": "session", "arguments": []}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(socket_of(folder)))
        listening.listen()
        while True:
            Connection(listening.accept()[0])


def main() -> None:
    project = Path(sys.argv[1]) / "projects" / "starter"
    done = log_in(project / "runs" / "0001", "train")
    done(events.Finished(reason="done"))
    done.close()
    (project / "runs" / "0001" / "adapter").mkdir()
    (project / "runs" / "0001" / "adapter" / "adapter_config.json").write_text("{}")
    threading.Thread(target=session, args=(project / "jobs" / "0001",), daemon=True).start()
    train(project / "runs" / "0002")


if __name__ == "__main__":
    main()
