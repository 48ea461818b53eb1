"""Calls made behind: in order, never many undone, errors not lost."""

from __future__ import annotations

import threading
import time

import pytest

from engine.merging.behind import behind


def test_all_are_made_in_order_when_the_block_ends() -> None:
    made: list[tuple[int, bool]] = []

    def call(number: int) -> None:
        time.sleep(0.001)
        made.append((number, threading.current_thread() is threading.main_thread()))

    with behind(call) as put:
        for number in range(50):
            put(number)
    assert made == [(number, False) for number in range(50)]


def test_what_waits_is_bounded() -> None:
    """Memory is a few blocks however slow the disk is."""
    made: list[int] = []

    def call(number: int) -> None:
        time.sleep(0.002)
        made.append(number)

    with behind(call, waiting=3) as put:
        for number in range(40):
            put(number)
            assert number - len(made) <= 3


@pytest.mark.parametrize("at", [0, 20, 39], ids=["the first", "in the middle", "the last"])
def test_an_error_is_raised_and_ends_it(at: int) -> None:
    made: list[int] = []

    def call(number: int) -> None:
        if number == at:
            raise OSError(28, "No space left on device")
        made.append(number)

    def caller() -> None:
        with behind(call, waiting=2) as put:
            for number in range(40):
                put(number)

    with pytest.raises(OSError, match="No space"):
        caller()
    assert made[:at] == list(range(at)) and len(made) <= at + 4


def test_after_an_error_of_the_block_nothing_more_is_called() -> None:
    made: list[int] = []

    def call(number: int) -> None:
        time.sleep(0.05)
        made.append(number)

    def caller() -> None:
        with behind(call) as put:
            for number in range(4):
                put(number)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        caller()
    assert len(made) <= 2
