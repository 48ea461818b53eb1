"""Work in a copy of this process: told, killed at the end, and no hold on what its original holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import InputError
from engine.events import Emit, Event, Stage
from engine.jobs import aside
from tests.engine.ranking import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes are not copied")

HOLDER = """
import os, sys, time
from pathlib import Path
from engine.folders import JobFolder
from engine.jobs.aside import aside

folder = Path(sys.argv[1])

def work(emit):
    (folder / "copy").write_text(str(os.getpid()))
    time.sleep(60)

with JobFolder(folder).lock(), aside(work):
    print("locked", flush=True)
    time.sleep(60)
"""


def stage(number: int) -> Stage:
    return Stage(name="count", done=number, total=5000, unit="rows")


def test_what_it_makes_is_there_and_what_it_says_is_told(tmp_path: Path) -> None:
    """Also where that is more than a pipe holds."""

    def work(emit: Emit) -> None:
        for number in range(5000):
            emit(stage(number))
        (tmp_path / "made").write_text(f"{os.getpid()}")

    told: list[Event] = []
    with aside.aside(work) as listen:
        listen(told.append)
        copy = int((tmp_path / "made").read_text())
        assert copy != os.getpid()
    assert told == [stage(number) for number in range(5000)]
    assert not psutil.pid_exists(copy)


def test_its_failure_is_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work(emit: Emit) -> None:
        emit(stage(1))
        print("half")
        raise InputError("a row that is too long")

    told: list[Event] = []
    with aside.aside(work) as listen:
        listen(told.append)
    assert told == [stage(1)]
    assert capfd.readouterr() == ("", "")


def test_it_ends_with_the_block_and_a_signal_to_all_is_not_for_it(tmp_path: Path) -> None:
    def work(emit: Emit) -> None:
        (tmp_path / "copy").write_text(str(os.getpid()))
        time.sleep(60)

    def begun() -> bool:
        return (tmp_path / "copy").is_file() and bool((tmp_path / "copy").read_text())

    def original() -> None:
        with aside.aside(work):
            wait_for(begun)
            copy = int((tmp_path / "copy").read_text())
            os.kill(copy, signal.SIGINT)
            os.kill(copy, signal.SIGTERM)
            time.sleep(0.1)
            assert psutil.Process(copy).status() != psutil.STATUS_ZOMBIE
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        original()
    assert not psutil.pid_exists(int((tmp_path / "copy").read_text()))


def test_a_copy_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "SILENCE_SECONDS", 0.2)
    told: list[Event] = []

    def work(emit: Emit) -> None:
        emit(stage(1))
        time.sleep(60)

    begun = time.monotonic()
    with aside.aside(work) as listen:
        listen(told.append)
    assert told == [stage(1)] and time.monotonic() - begun < 30


def test_a_killed_original_leaves_no_lock(tmp_path: Path) -> None:
    """A copy has the descriptors of its original: with them it would hold the run's lock after it."""
    from engine.folders import JobFolder

    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        wait_for(lambda: (tmp_path / "copy").is_file() and bool((tmp_path / "copy").read_text()))
        holder.kill()
        holder.wait()
        copy = psutil.Process(int((tmp_path / "copy").read_text()))
        try:
            assert copy.is_running()
            with JobFolder(tmp_path).lock():
                pass
        finally:
            copy.kill()
