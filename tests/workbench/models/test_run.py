"""A run folded from events: the same for any cut of the log, honest about kills, repeats, gaps and what is unknown."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import events
from tests.workbench.conftest import started, steps
from workbench.models.run import KEPT_LINES, RunModel


def numbered(*said: events.Event, first: int = 0, t: float = 1000.0) -> list[events.Event]:
    """With the numbers and times that a log gives them, a second apart."""
    for number, event in enumerate(said, first):
        event.seq, event.t = number, t + number
    return list(said)


def scored(step: int, loss: float) -> events.Scored:
    nll = loss * 100
    return events.Scored(
        model="adapter", split="test", scope="completion", nll=nll, tokens=100, perplexity=math.exp(loss), step=step
    )


def folded(*said: events.Event, **given: object) -> RunModel:
    run = RunModel("demo/0001", **given)  # type: ignore[arg-type]
    run.fold(numbered(*said))
    return run


def test_states_and_what_to_do() -> None:
    assert folded().state == "empty"
    assert folded(started()).state == "running"
    assert folded(started()).ending() is None
    done = folded(started(), *steps(3), events.Finished(reason="done", seconds=75.0))
    assert done.state == "done"
    assert done.ending().text == "done in 1 min 15 s"  # type: ignore[union-attr]
    early = folded(started(), events.Finished(reason="early stopping")).ending()
    assert early is not None and "no longer fell" in early.text
    saved = events.Saved(what="checkpoint", path="p", bytes=1, step=2)
    stopped = folded(started(), *steps(3, of=9), saved, events.Finished(reason="stopped")).ending()
    assert stopped is not None
    assert stopped.text == "stopped after step 3 of 9; its checkpoint is written"
    assert "after step 2" in stopped.remedy
    failed = folded(started(), events.Failed(problem="no memory", where="a:1", remedy="less")).ending()
    assert failed == ("failed: no memory", "a:1", "less") or (failed.text, failed.where, failed.remedy) == (  # type: ignore[union-attr]
        "failed: no memory", "a:1", "less"
    )  # fmt: skip


def test_a_killed_run_says_so_and_what_to_do() -> None:
    run = folded(started(pid=77), *steps(5))
    run.alive = False
    ending = run.ending()
    assert run.state == "killed" and ending is not None
    assert "killed after step 5: process 77 is gone without a word" in ending.text
    assert "Resume begins at step 1" in ending.remedy


def test_steps_that_a_kill_undid_are_replaced_by_their_repetition() -> None:
    sample = events.Sample(model="adapter", prompt="p", text="lost", step=8)
    run = folded(
        started(), *steps(6), scored(5, 9.0), *steps(3, first=7), sample, scored(8, 8.0),
        started(), *steps(4, first=6, of=12), scored(8, 1.0), events.Sample(model="adapter", prompt="p", text="new", step=8),
    )  # fmt: skip
    assert list(run.curves["loss"].x) == list(range(1, 10))
    assert (list(run.curves["unseen"].x), list(run.curves["unseen"].y)) == ([5, 8], [9.0, 1.0])
    assert (run.repeated, run.starts, [s.text for s in run.samples]) == (4, 2, ["new"])
    # and where nothing stands between the old steps and the new ones
    again = RunModel("demo/0002")
    again.fold(numbered(*steps(6), *steps(4, first=3)))
    assert list(again.curves["loss"].x) == [1, 2, 3, 4, 5, 6]
    assert again.repeated == 4


def test_missing_numbers_are_said_in_words() -> None:
    run = RunModel("demo/0001")
    run.fold(numbered(started(), *steps(3)))
    assert run.gaps.text() == ""
    run.fold(numbered(*steps(2, first=4), first=6))
    assert run.gaps.text().startswith("2 events are missing before event 6: lost, or of a kind")
    run.fold(numbered(*steps(1, first=6), first=9))
    assert run.gaps.text().startswith("3 events are missing in 2 places")
    from_samples = RunModel("demo/0001", preview=True)
    from_samples.fold(numbered(*steps(2), first=50))
    assert not from_samples.gaps.places


def test_a_loss_that_is_not_a_number_is_no_point_but_is_kept() -> None:
    said = steps(4)
    said[2].loss = math.nan  # type: ignore[attr-defined]
    run = folded(started(), *said)
    assert list(run.curves["loss"].x) == [1, 2, 4]
    assert list(run.curves["loss"].bad) == [3]
    assert list(run.curves["learning_rate"].x) == [1, 2, 3, 4]


def test_time_left_is_from_the_pace_of_this_process() -> None:
    run = RunModel("demo/0001")
    run.fold(numbered(started(), *steps(5, of=100), t=0.0))
    run.fold(numbered(started(), first=6, t=50_000.0))
    assert run.eta() is None
    run.fold(numbered(*steps(3, first=6, of=20), first=7, t=60_000.0))
    now = run.seen
    assert now is not None
    assert run.eta(now) == pytest.approx(12.0)
    assert run.eta(now + 0.5) == pytest.approx(11.5)
    assert run.eta(now + 500) == pytest.approx(11.0)
    assert run.quiet(now + 5) is None
    assert run.quiet(now + 120) == pytest.approx(120)


def test_stages_come_and_go() -> None:
    run = folded(started(), events.Stage(name="tokenise", done=10, total=100, unit="rows"))
    assert run.stage is not None and "10%" in run.stage.progress(run.seen or 0)
    run.fold(numbered(events.Stage(name="tokenise", done=100, total=100, unit="rows"), first=2))
    assert run.stage is None
    assert any(line.text.startswith("tokenise: 100 rows in") for line in run.lines)


def test_texts_are_one_line_without_control_codes_and_the_oldest_go() -> None:
    run = folded(started(), *[events.Note(text=f"\x1b[31m[red]{i}\nx", level="warning") for i in range(KEPT_LINES)])
    assert len(run.lines) == KEPT_LINES and run.dropped > 0
    assert all(line.text.isprintable() for line in run.lines)


kinds = st.one_of(
    st.builds(lambda: started()),
    st.builds(lambda first, count: steps(count, first=first, of=40), st.integers(1, 20), st.integers(1, 8)),
    st.builds(lambda s, v: scored(s, v), st.integers(1, 20), st.floats(0, 9)),
    st.builds(lambda t: events.Note(text=t), st.text(max_size=5)),
    st.just(events.Finished(reason="stopped")),
    st.builds(lambda d: events.Stage(name="s", done=d, total=3), st.integers(0, 3)),
)


@settings(max_examples=100)
@given(parts=st.lists(kinds, max_size=12), cuts=st.lists(st.integers(0, 90), max_size=6))
def test_any_cut_of_the_log_folds_to_the_same(parts: list, cuts: list[int]) -> None:
    import copy

    said = [copy.copy(e) for part in parts for e in (part if isinstance(part, list) else [part])]
    numbered(*said)
    whole, pieces, single = RunModel("a/1"), RunModel("a/1"), RunModel("a/1")
    whole.fold(said)
    for begin, end in pairwise(sorted({0, *(min(c, len(said)) for c in cuts), len(said)})):
        pieces.fold(said[begin:end])
    for event in said:
        single.fold([event])
    for other in (pieces, single):
        for name, curve in whole.curves.items():
            assert (curve.x, curve.y, curve.bad) == (other.curves[name].x, other.curves[name].y, other.curves[name].bad)
            assert all(a < b for a, b in pairwise(curve.x))
        assert (whole.state, whole.repeated, whole.count, whole.gaps) == (
            other.state, other.repeated, other.count, other.gaps
        )  # fmt: skip
        assert [line.text for line in whole.lines] == [line.text for line in other.lines]
