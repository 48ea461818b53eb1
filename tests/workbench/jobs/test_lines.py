"""Lines of files of any size: numbers, contents and matches are those of the whole text, whatever the blocks."""

from __future__ import annotations

import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.jobs import lines
from workbench.jobs.lines import Found, IndexThread, LineIndex, find

WORDS = st.sampled_from([b"ab", b"AB", b"\n", b"\r\n", b"x" * 50, b" ", b"\xff", "é".encode(), b""])
DATA = st.lists(WORDS, max_size=40).map(b"".join)
QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def split(data: bytes) -> list[bytes]:
    whole = data.split(b"\n")
    return whole if whole[-1] else whole[:-1]


@QUICK
@given(DATA, st.sampled_from([1, 7, 64, 1 << 16]), st.integers(0, 45), st.integers(1, 9))
def test_any_lines_are_those_of_the_text(tmp_path: Path, data: bytes, block: int, first: int, count: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        patch.setattr(lines, "LONGEST", 30)
        index = LineIndex(path)
        index.extend()
        wanted = split(data)
        assert (index.count, index.size) == (len(wanted), len(data))
        got = index.read(first, count)
        assert [line.size for line in got] == [len(w) for w in wanted[first : first + count]]
        shown = [w[:30].removesuffix(b"\r").decode("utf-8", "replace") for w in wanted[first : first + count]]
        assert [line.text for line in got] == shown


@QUICK
@given(DATA, st.sampled_from([3, 10, 100]), st.booleans())
def test_matches_are_those_of_the_text(tmp_path: Path, data: bytes, block: int, case: bool) -> None:
    data = data.replace(b"\xff", b"")
    path = tmp_path / "text"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "FIND_BLOCK", block)
        found = [f for lot in find(path, "aB", case) for f in lot]
    wanted = []
    for number, line in enumerate(data.decode().split("\n")):
        line, word = (line, "aB") if case else (line.lower(), "ab")
        wanted += [Found(number, i, 2) for i in range(len(line)) if line.startswith(word, i)]
    assert found == wanted


def test_a_line_of_megabytes_is_searched_without_holding_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"x" * 5000 + b"needle" + b"y" * 5000 + b"\nneedle\n")
    monkeypatch.setattr(lines, "FIND_BLOCK", 100)
    monkeypatch.setattr(lines, "LONG_LINE", 400)
    assert [f for lot in find(path, "needle", True) for f in lot] == [Found(0, 5000, 6), Found(1, 0, 6)]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "What is this?", "completion": "a row"}\n' * 500_000)
    tracemalloc.start()
    index = LineIndex(path)
    index.extend()
    got = index.read(444_444, 50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert index.count == 500_000 and len(got) == 50
    assert peak < 3_000_000  # bytes, for a file of 26 MB


def test_a_file_that_grows_and_one_that_is_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(lines, "LOOK_SECONDS", 0.02)
    path, told, news = tmp_path / "log.txt", [], threading.Event()
    path.write_bytes(b"one\ntw")

    def tell(index: LineIndex, whole: bool, error: OSError | None) -> None:
        told.append((index.count, index.read(0, 9) if not error else [], error))
        news.set()

    def until(holds: Callable[[tuple], bool]) -> None:
        """Wait for it: a write may be told in two parts."""
        while not holds(told[-1] if told else (0, [], None)):
            assert news.wait(10), told
            news.clear()

    thread = IndexThread(path, tell)
    thread.start()
    try:
        until(lambda last: last[0] == 2)
        with path.open("ab") as file:
            file.write(b"o\nthree\n")
        until(lambda last: (last[0], [line.text for line in last[1]]) == (3, ["one", "two", "three"]))
        other = tmp_path / "other"
        other.write_bytes(b"new\n")
        os.replace(other, path)
        until(lambda last: (last[0], [line.text for line in last[1]]) == (1, ["new"]))
        path.unlink()
        until(lambda last: isinstance(last[2], FileNotFoundError))
    finally:
        thread.stop()
