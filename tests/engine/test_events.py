"""The event log: what is written is read once, whole, and in order, whatever happens to the writer or the disk."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import events
from engine.errors import WorkFailed

KINDS = get_args(events.AnyEvent)
NOTE = events.Note(text="x")


def step(number: int, **values: Any) -> events.Step:
    given = {
        "step": number, "steps": 100, "loss": 1.5, "learning_rate": 1e-4, "gradient_norm": 0.5, "tokens": 100,
        "supervised_tokens": 40, "seconds": 0.1, "tokens_per_second": 1000.0, "memory_bytes": 0, "epoch": 0.5,
    }  # fmt: skip
    return events.Step(**{**given, **values})


TEXT = st.text(st.characters(codec="utf-8"))
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str | None: st.none() | TEXT,
    int | None: st.none() | st.integers(-(2**63), 2**64 - 1),
    float | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
    dict[str, str]: st.dictionaries(TEXT, TEXT, max_size=3),
}
ANY_EVENT = st.one_of(
    *(st.builds(kind, **{f.name: VALUES[f.type] for f in msgspec.structs.fields(kind)}) for kind in KINDS)
)


@settings(max_examples=100)
@given(ANY_EVENT)
def test_every_kind_comes_back_as_it_was(event: events.AnyEvent) -> None:
    line = events.encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert events.decode(line) == event
    assert json.loads(line) == events.to_builtins(event)
    assert json.loads(line)["kind"] == type(event).__name__.lower()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_null_and_nan_again(value: float) -> None:
    """An event is never lost because one of its numbers is not one."""
    for event in (
        step(1, loss=value, gradient_norm=value),
        events.Scored(model="a", split="b", scope="all", nll=value, tokens=1, perplexity=value, exact_match=value),
    ):
        line = events.encode(event)
        assert b"null" in line
        assert b"NaN" not in line
        back = events.decode(line)
        assert type(back) is type(event)
        for name in ("loss", "gradient_norm", "nll", "perplexity"):
            assert math.isnan(getattr(back, name, math.nan))
        assert getattr(back, "exact_match", None) is None  # a number that may be missing is missing


@example(b'{"kind": "note", "text": "\xff"}')
@example(b'{"kind": ["note"], "text": "a"}')
@example(b'{"kind": "step", "step": null, "loss": null}')
@example(b"[" * 10_000)
@example(b'{"kind": "note", "text": 1}')
@example(b"7")
@given(st.binary(max_size=60))
def test_a_line_that_is_no_event_is_passed_over(line: bytes) -> None:
    assert events.decode(line) is None


def test_unknown_kinds_and_fields_are_ignored() -> None:
    lines = [
        b'{"kind":"note","v":1,"seq":0,"t":1.5,"text":"a","new_field":{"b":[1]}}',
        b'{"kind":"from_the_future","v":1,"seq":1,"t":2.0,"text":"b"}',
        b'{"kind":"note","v":1,"seq":2,"t":3.0,"text":"c"}',
        b"",
    ]
    assert [(e.seq, e.text) for e in events.iter_events(b"\n".join(lines)) if isinstance(e, events.Note)] == [
        (0, "a"),
        (2, "c"),
    ]


def test_a_text_that_utf8_cannot_say_is_escaped(tmp_path: Path) -> None:
    """The name of a file from another system must not stop the event that tells of it."""
    log = events.EventLog(tmp_path / "e.jsonl")
    log(events.Failed(problem="cannot read", where=os.fsdecode(b"/data/caf\xe9.jsonl")))
    (event,), _ = events.read(tmp_path / "e.jsonl")
    assert isinstance(event, events.Failed)
    assert event.where == r"/data/caf\udce9.jsonl"
    assert (event.problem, event.seq) == ("cannot read", 0)


TORN = st.sampled_from([b"", b'{"kind":"no', b"\xc3"])


@settings(max_examples=60)
@given(st.lists(ANY_EVENT, max_size=6), st.lists(st.floats(0, 1), max_size=8), TORN)
def test_any_cut_of_the_stream_gives_each_event_once(
    tmp_path_factory: pytest.TempPathFactory, said: list[events.AnyEvent], cuts: list[float], torn: bytes
) -> None:
    """A reader that looks while the file grows by arbitrary pieces, also in the middle of a character."""
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    data = b"".join(map(events.encode, said)) + torn
    seen: list[events.AnyEvent] = []
    offset = 0
    path.write_bytes(b"")
    for cut in [*sorted(int(c * len(data)) for c in cuts), len(data)]:
        path.write_bytes(data[:cut])
        new, offset = events.read(path, offset)
        assert offset == 0 or data[offset - 1 : offset] == b"\n"
        seen += new
    assert seen == said


def test_the_log_numbers_and_dates_what_it_writes(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "0001" / "events.jsonl"
    log, begun = events.EventLog(path), time.time()
    for _ in range(3):
        log(events.Note(text="x"))
    log.close()
    again = events.EventLog(path)
    again(events.Note(text="y"))
    seen, offset = events.read(path)
    assert [e.seq for e in seen] == [0, 1, 2, 3]
    assert all(begun <= e.t <= time.time() for e in seen)
    assert offset == path.stat().st_size


def test_numbers_go_on_after_kinds_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"kind":"note","v":1,"seq":4,"t":1.0,"text":"a"}\n{"kind":"later","v":1,"seq":5}\nnot json\n')
    events.EventLog(path)(events.Note(text="x"))
    assert json.loads(path.read_bytes().splitlines()[-1])["seq"] == 6


@pytest.mark.parametrize("cut", [1, 20, -2, -1])
def test_a_torn_line_is_ended_and_nothing_merges(tmp_path: Path, cut: int) -> None:
    """`cut` -1: all but the line end was written, so that the event is whole and keeps its number."""
    path = tmp_path / "events.jsonl"
    whole = [events.Note(text=str(i), seq=i) for i in range(2)]
    last = events.encode(events.Note(text="torn", seq=2))
    path.write_bytes(b"".join(map(events.encode, whole)) + last[:cut])
    seen, offset = events.read(path)
    assert len(seen) == 2
    events.EventLog(path)(events.Note(text="new"))
    rest, _ = events.read(path, offset)
    assert [(e.seq, e.text) for e in rest if isinstance(e, events.Note)] == (
        [(2, "torn"), (3, "new")] if cut == -1 else [(2, "new")]
    )


WRITER = """
import sys
from pathlib import Path
from engine import events
log = events.EventLog(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    log(events.Note(text="x" * 5000))
"""


def test_killed_writers_leave_a_log_without_gaps(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for delay in (0.0, 0.003, 0.011):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    events.EventLog(path)(NOTE)
    seen, offset = events.read(path)
    assert [e.seq for e in seen] == list(range(len(seen)))
    assert offset == path.stat().st_size


@pytest.mark.parametrize("kept_bytes", [0, 1, 30])
def test_a_full_disk_is_told_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    """The disk takes some bytes of the line, then none; when there is room again, the log goes on without a gap."""
    path = tmp_path / "events.jsonl"
    log = events.EventLog(path)
    log(events.Note(text="before"))
    real, room = os.write, kept_bytes

    def short_write(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written, room = real(fd, data[:room]), 0
        return written

    with monkeypatch.context() as full:
        full.setattr(os, "write", short_write)
        with pytest.raises(WorkFailed, match="No space left") as failed:
            log(events.Note(text="lost"))
    assert failed.value.where == str(path)
    assert failed.value.remedy
    assert "free some space" in failed.value.remedy
    log(events.Note(text="after"))
    seen, offset = events.read(path)
    assert [(e.seq, e.text) for e in seen if isinstance(e, events.Note)] == [(0, "before"), (1, "after")]
    assert offset == path.stat().st_size


def test_a_log_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkFailed, match="cannot write") as failed:
        events.EventLog(tmp_path / "file" / "events.jsonl")
    assert failed.value.where == str(tmp_path / "file" / "events.jsonl")


def test_a_log_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert events.read(path) == ([], 0)
    path.write_bytes(events.encode(events.Note(text="long" * 20)) * 3)
    _, offset = events.read(path)
    path.write_bytes(events.encode(events.Note(text="new")))  # shorter than the offset
    assert [e.text for e in events.read(path, offset)[0] if isinstance(e, events.Note)] == ["new"]
    path.write_bytes(events.encode(events.Note(text="longer" * 90)))  # the offset is inside a line
    assert len(events.read(path, offset)[0]) == 1
    path.unlink()
    assert events.read(path, offset) == ([], 0)


@settings(max_examples=60)
@given(said=st.lists(st.sampled_from([0, 1, 2, 3]), max_size=30), limit=st.integers(1, 700))
def test_reading_by_pieces_is_reading(tmp_path_factory: pytest.TempPathFactory, said: list[int], limit: int) -> None:
    """Also where kinds that we do not know, null and lines that a kill tore stand between."""
    path = tmp_path_factory.getbasetemp() / "pieces.jsonl"
    lines = [events.encode(step(1)), events.encode(events.Note(text="é" * 40)), b'{"kind":"later","v":1}\n',
             b'{"kind":"note","v":1,"text":"a"}{"kind":"note","v":1,"text":"b"}\n']  # fmt: skip
    data = b"".join(lines[i] for i in said) + b'{"kind":"note"'
    path.write_bytes(data)
    whole, end = events.read(path)
    assert len(whole) == sum(i < 2 for i in said)
    seen: list[events.AnyEvent] = []
    offset = 0
    while offset < end:
        new, after = events.read(path, offset, limit)
        assert after > offset
        seen, offset = seen + new, after
    assert (seen, events.read(path, offset, limit)) == (whole, ([], end))


def collect(path: Path, **arguments: Any) -> tuple[threading.Thread, list[events.AnyEvent]]:
    """Follow in a thread, which ends when `follow` does."""
    seen: list[events.AnyEvent] = []
    follow = events.follow(path, poll_seconds=0.002, **arguments)
    thread = threading.Thread(target=lambda: seen.extend(follow), daemon=True)
    thread.start()
    return thread, seen


@pytest.mark.parametrize("end", [events.Finished(reason="done"), events.Failed(problem="no")])
def test_follow_ends_with_the_last_event(tmp_path: Path, end: events.Event) -> None:
    path = tmp_path / "events.jsonl"
    thread, seen = collect(path, alive=lambda: True)
    log = events.EventLog(path)
    for i in range(20):
        log(step(i))
        time.sleep(0.001)
    log(end)
    thread.join(5)
    assert not thread.is_alive()
    assert [e.seq for e in seen] == list(range(21))


def test_follow_ends_when_the_writer_is_dead_and_all_is_read(tmp_path: Path) -> None:
    """What the writer wrote just before it died is still told; its torn line is not waited for."""
    path = tmp_path / "events.jsonl"
    events.EventLog(path)(NOTE)
    alive = threading.Event()
    alive.set()

    def lives() -> bool:
        if not alive.is_set() and not late:
            late.append(True)
            events.EventLog(path)(events.Note(text="last words"))
            with path.open("ab") as file:
                file.write(b'{"kind":"no')
        return alive.is_set()

    late: list[bool] = []
    thread, seen = collect(path, alive=lives)
    time.sleep(0.02)
    assert thread.is_alive()
    alive.clear()
    thread.join(5)
    assert not thread.is_alive()
    assert [e.text for e in seen if isinstance(e, events.Note)] == ["x", "last words"]


def test_follow_goes_on_past_the_end_of_a_job_that_was_resumed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = events.EventLog(path)
    for event in (step(1), events.Finished(reason="stopped"), step(2), events.Finished(reason="done")):
        log(event)
    assert len(list(events.follow(path, alive=lambda: True))) == 4


def test_fifty_thousand_events_are_replayed_quickly(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(events.encode(step(i, seq=i)) for i in range(50_000)))
    begun = time.process_time()
    seen, _ = events.read(path)
    log = events.EventLog(path)
    assert time.process_time() - begun < 3  # 0.1 s of computing; reading that is quadratic would take minutes
    log(NOTE)
    assert len(seen) == 50_000
    assert json.loads(path.read_bytes().splitlines()[-1])["seq"] == 50_000
