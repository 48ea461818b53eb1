"""The thread that follows event logs: growing, torn, replaced, long, of processes that live and die."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from engine import events
from engine.store import process_start
from tests.workbench.conftest import started, steps, write_run
from workbench.jobs.messages import RunChanged
from workbench.jobs.tail import LONG_BYTES, RunTails, sampled
from workbench.models.run import RunModel


class Post(list):
    """Messages, with the time at which they came."""

    def __call__(self, message: object) -> None:
        self.append((time.monotonic(), message))


@pytest.fixture
def posted() -> Post:
    return Post()


@pytest.fixture
def tails(workspace: Path, posted: Post) -> Iterator[RunTails]:
    made = RunTails(workspace, posted, seconds=0.02)
    yield made
    made.stop()


def eventually(holds: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def known(tails: RunTails, label: str = "demo/0001") -> RunModel:
    model = tails.model(label)
    assert model is not None
    return model


def test_a_log_is_followed_while_it_grows(workspace: Path, tails: RunTails, posted: Post) -> None:
    alive = started(os.getpid(), process_start(os.getpid()))
    folder = write_run(workspace, "demo/0001", [alive, *steps(3)])
    tails.watch("demo/0001")
    eventually(lambda: known(tails).count == 4)
    log = events.EventLog(folder / "events.jsonl")
    for event in steps(40, first=4):
        log(event)
        time.sleep(0.005)
    with (folder / "events.jsonl").open("ab") as file:
        file.write(
            b'{"kind":"later","v":1,"seq":44}\n{"kind":"step","st'
        )  # a kind we do not know, a line being written
    eventually(lambda: known(tails).count == 44)
    eventually(lambda: known(tails).alive and known(tails).reading == 1.0)
    assert (known(tails).state, len(known(tails).curves["loss"])) == ("running", 43)
    times = [t for t, m in posted if isinstance(m, RunChanged)]
    assert all(b - a >= 0.09 for a, b in pairwise(times))


def test_a_run_without_a_log_is_empty_and_found_when_it_comes(workspace: Path, tails: RunTails, posted: Post) -> None:
    (workspace / "projects" / "demo" / "runs" / "0001").mkdir(parents=True)
    tails.watch("demo/0001")
    eventually(lambda: posted)
    assert (known(tails).state, known(tails).reading) == ("empty", 1.0)
    write_run(workspace, "demo/0001", [started()])
    eventually(lambda: known(tails).state == "killed")


def test_a_process_that_dies_without_a_word_was_killed(workspace: Path, tails: RunTails) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_run(workspace, "demo/0001", [started(process.pid, process_start(process.pid)), *steps(2)])
    tails.watch("demo/0001")
    eventually(lambda: known(tails).alive)
    assert known(tails).state == "running"
    process.kill()
    process.wait()
    eventually(lambda: known(tails).state == "killed")


def test_a_log_that_was_replaced_is_read_anew(workspace: Path, tails: RunTails) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(30)])
    tails.watch("demo/0001")
    eventually(lambda: known(tails).count == 31)
    (folder / "events.jsonl").unlink()
    write_run(workspace, "demo/0001", [started(), *steps(2)])
    eventually(lambda: known(tails).count == 3)
    assert len(known(tails).curves["loss"]) == 2


def test_a_folder_that_goes_is_said(workspace: Path, tails: RunTails) -> None:
    import shutil

    folder = write_run(workspace, "demo/0001", [started(), *steps(3)])
    tails.watch("demo/0001")
    eventually(lambda: known(tails).count == 4)
    shutil.rmtree(folder)
    eventually(lambda: known(tails).gone)
    assert len(known(tails).curves["loss"]) == 3


def test_a_model_goes_with_its_last_holder(workspace: Path, tails: RunTails, posted: Post) -> None:
    write_run(workspace, "demo/0001", [started()])
    tails.watch("demo/0001")
    tails.watch("demo/0001")
    tails.unwatch("demo/0001")
    assert tails.model("demo/0001") is not None
    tails.unwatch("demo/0001")
    assert tails.model("demo/0001") is None
    assert isinstance(posted[-1][1], RunChanged)
    tails.unwatch("demo/0001")


def long_log(workspace: Path, count: int) -> Path:
    folder = write_run(workspace, "demo/0001", [started()])
    lines = []
    for number, event in enumerate(steps(count), 1):
        event.seq, event.t = number, 1000.0 + number
        lines.append(events.encode(event))
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b"".join(lines))
    return folder / "events.jsonl"


def test_a_long_log_is_first_shown_from_samples(workspace: Path, tails: RunTails, posted: Post) -> None:
    path = long_log(workspace, 12_000)
    assert path.stat().st_size > LONG_BYTES
    seen: list[tuple[bool, int, object]] = []

    def look(message: object) -> None:
        model = tails.model("demo/0001")
        if model is not None:
            seen.append((model.preview, len(model.curves["loss"]), model.step.step if model.step else None))

    tails.post = look
    tails.watch("demo/0001")
    eventually(lambda: seen and not seen[-1][0])
    assert seen[0][0]
    assert 500 < seen[0][1] < 12_000
    assert seen[0][2] == 12_000
    eventually(lambda: known(tails).count == 12_001)
    assert known(tails).gaps.text() == ""


@pytest.mark.parametrize("ends", [300, 1 << 16])
def test_samples_are_in_order_and_have_both_ends(workspace: Path, ends: int) -> None:
    path = long_log(workspace, 3000)
    found = sampled(path, path.stat().st_size, count=100, ends=ends)
    numbers = [e.step for e in found if isinstance(e, events.Step)]
    assert isinstance(found[0], events.Started)
    assert numbers == sorted(numbers)
    assert numbers[-1] == 3000
    assert len(numbers) >= 80


def test_the_log_of_libraries_is_read_from_its_end(workspace: Path, tails: RunTails) -> None:
    folder = write_run(workspace, "demo/0001", [started()])
    (folder / "log.txt").write_bytes(b"\x1b[31mred\x1b[0m [bold]x[/]\n 10%\r 20%\r\nhalf")
    tails.watch("demo/0001")
    eventually(lambda: (text := tails.text("demo/0001")) and text.total == 2)
    text = tails.text("demo/0001")
    assert text is not None
    assert text.since(0) == ["red [bold]x[/]", " 20%"]
    with (folder / "log.txt").open("ab") as file:
        file.write(b" done\n" + b"\xff\x00\x07\n")
    eventually(lambda: text.total == 4)
    assert text.since(2) == ["half done", "\N{REPLACEMENT CHARACTER}\\x00\\x07"]


def test_only_the_end_of_a_large_log_is_read(workspace: Path, tails: RunTails) -> None:
    folder = write_run(workspace, "demo/0001", [started()])
    (folder / "log.txt").write_bytes(b"".join(b"line %07d\n" % i for i in range(200_000)))
    tails.watch("demo/0001")
    eventually(lambda: (text := tails.text("demo/0001")) and text.since(text.total - 1) == ["line 0199999"])
    text = tails.text("demo/0001")
    assert text is not None
    assert text.skipped > 1_000_000
