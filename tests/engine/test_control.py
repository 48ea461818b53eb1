"""The first signal asks, the second insists."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from engine.control import SIGNALS, StopRequest, stop_requests


@pytest.fixture(autouse=True)
def _same_handlers_afterwards() -> Iterator[None]:
    before = [signal.getsignal(s) for s in SIGNALS]
    yield
    assert [signal.getsignal(s) for s in SIGNALS] == before


def test_a_request_is_false_until_asked() -> None:
    request = StopRequest()
    assert not request
    request.asked = True
    assert request


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
def test_the_first_signal_asks_and_the_second_insists(first: signal.Signals, second: signal.Signals) -> None:
    with stop_requests() as request:
        assert not request
        os.kill(os.getpid(), first)
        assert request
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), second)


def test_the_handlers_that_were_there_come_back_after_a_failure() -> None:
    def own(number: int, frame: object) -> None:
        """Not to be lost."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(ZeroDivisionError), stop_requests():
            _ = 1 / (signal.getsignal(signal.SIGTERM) is own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_a_thread_no_handler_is_set() -> None:
    """Python allows handlers in the main thread only; a request can still be made by hand."""
    seen: list[StopRequest] = []

    def work() -> None:
        with stop_requests() as request:
            assert [signal.getsignal(s) for s in SIGNALS] == before
            request.asked = True
            seen.append(request)

    before = [signal.getsignal(s) for s in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
    assert seen[0]


JOB = """
import sys, time
from engine.control import stop_requests
with stop_requests() as request:
    print("ready", flush=True)
    try:
        while True:
            time.sleep(0.005)
            if request:
                print("saving", flush=True)
                time.sleep(float(sys.argv[1]))
                sys.exit(130)
    except KeyboardInterrupt:
        print("at once", flush=True)
        sys.exit(1)
"""


@pytest.mark.parametrize(("saving_seconds", "insist", "code"), [(0.01, False, 130), (60.0, True, 1)])
def test_a_process_stops_in_order_or_at_once(saving_seconds: float, insist: bool, code: int) -> None:
    job = subprocess.Popen([sys.executable, "-c", JOB, str(saving_seconds)], stdout=subprocess.PIPE, text=True)
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    assert job.stdout.readline() == "saving\n"
    if insist:
        job.send_signal(signal.SIGINT)
        assert job.stdout.readline() == "at once\n"
    assert job.wait(10) == code
    job.stdout.close()
