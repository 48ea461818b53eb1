"""A log's first and last events by looking at its ends: the same as by reading all of it, for any log and any chunk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import events
from engine.log_ends import LogEnds
from engine.store import Run


def step(number: int, loss: float = 2.0) -> events.Step:
    return events.Step(
        step=number, steps=10, loss=loss, learning_rate=1e-4, gradient_norm=1.0, tokens=1, supervised_tokens=1,
        seconds=1.0, tokens_per_second=1.0, memory_bytes=0, epoch=0.1, seq=number,
    )  # fmt: skip


def started(step: int | None = None) -> events.Started:
    return events.Started(verb="train", pid=1, pid_started=0.0, project='x"started"', device="", resumed_from_step=step)


texts = st.sampled_from(['"started"', '\\"step\\"', "started", "é" * 9, "a\nb", "x" * 300]) | st.text(max_size=8)
said = st.one_of(
    st.builds(lambda t: events.encode(events.Note(text=t)), texts),
    st.builds(lambda t, s: events.encode(events.Sample(model="m", prompt=t, text=t, step=s)), texts, st.integers(0, 3)),
    st.builds(lambda n: events.encode(step(n)), st.integers(1, 5)),
    st.builds(lambda n: events.encode(step(n, float("nan"))), st.integers(1, 5)),
    st.builds(lambda n: events.encode(started(n)), st.integers(0, 5)),
    st.just(events.encode(events.Finished(reason="stopped"))),
    st.sampled_from(
        [b"\n", b"not json\n", b'{"kind":"step","step":1}\n', b'{"kind": "started", "v": 1, "seq": 2}\n',
         b'{"kind":"step","st{"kind":"started"}\n', b'{"kind":"later","v":1,"seq":5,"of":"started"}\n', b"\xff\xfe\n"]
    ),
)  # fmt: skip


def by_reading_all(path: Path) -> tuple[Any, ...]:
    seen = events.read(path)[0]
    last = lambda kind: next((e for e in reversed(seen) if isinstance(e, kind)), None)  # noqa: E731
    return seen[0] if seen else None, last(events.Event), last(events.Started), last(events.Step)


@settings(max_examples=300)
@given(
    lines=st.lists(said, max_size=12), torn=st.sampled_from([b"", b'{"kind":"started"', b"x"]), chunk=st.integers(1, 90)
)
@example(lines=[], torn=b"", chunk=1)
def test_the_ends_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], torn: bytes, chunk: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "ends.jsonl"
    path.write_bytes(b"".join(lines) + torn)
    with LogEnds(path, chunk) as log:
        found = (log.first(), log.last(events.Event), log.last(events.Started), log.last(events.Step))
    assert repr(found) == repr(by_reading_all(path))  # NaN is not equal to itself


def test_the_state_of_a_long_log_is_found_quickly(tmp_path: Path) -> None:
    """200,000 steps (50 MB): reading them takes seconds."""
    run = Run(tmp_path / "starter" / "runs" / "0001")
    run.path.mkdir(parents=True)
    line = events.encode(step(7))
    run.events.write_bytes(events.encode(started()) + line * 200_000)
    begun = time.perf_counter()
    state = run.state()
    assert (state.state, state.step, state.loss) == ("killed", 7, 2.0)
    assert time.perf_counter() - begun < 0.5


def test_a_log_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(events.encode(started()) + events.encode(step(1)) * 5)
    with LogEnds(path, 64) as log:
        path.write_bytes(b"")
        assert log.first() is None
        assert log.last(events.Step) is None
