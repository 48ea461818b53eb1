"""The peers' clock counts what their models were given, however they lay it out; grouped rows lose little to padding."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.peers.common import EOS, Clock, Job, Row

ROWS = [Row([7, 8, 9, EOS], 2, "", ""), Row([5, 6, EOS], 1, "", ""), Row([7, 9, EOS], 1, "", "")]
ONE, TWO, THREE = ROWS


def facts(*steps: tuple[list[list[int]], list[list[int]]]) -> dict[str, Any]:
    clock = Clock()
    for number, (ids, labels) in enumerate(steps):
        clock.saw(ids, labels, 2.0 + number)
        clock.tick()
    return clock.facts(ROWS)


def test_padding_and_packs_count_alike() -> None:
    padded = facts(
        ([ONE.ids, [*TWO.ids, EOS]], [ONE.labels, [*TWO.labels, -100]]),
        ([[0, *THREE.ids]], [[-100, *THREE.labels]]),
        ([], []),
    )
    packed = facts(([[*ONE.ids, *TWO.ids]], [[*ONE.labels, *TWO.labels]]), ([THREE.ids], [THREE.labels]), ([], []))
    for told in (padded, packed):
        assert (told["tokens"], told["supervised"], told["whole rows"]) == (10, 6, 3)
        assert told["first rows"] == [0, 1] and told["first loss"] == 2.0
        assert told["mean loss"] == pytest.approx((2.0 * 4 + 3.0 * 2) / 6)
    assert (padded["slots"], packed["slots"]) == (12, 10)


def test_a_row_that_a_pack_cuts_is_counted_but_not_whole() -> None:
    stream, labels = [*ONE.ids, *TWO.ids], [*ONE.labels, *TWO.labels]
    told = facts(([stream[:5]], [labels[:5]]), ([stream[5:]], [labels[5:]]), ([], []))
    assert told["tokens"] == 7 and told["supervised"] == 4 and told["whole rows"] == 1
    assert told["first rows"] == []


def test_the_parts_of_a_step_weigh_what_they_supervise() -> None:
    clock = Clock()
    clock.saw([ONE.ids], [ONE.labels], 1.0)
    clock.saw([TWO.ids, THREE.ids], [TWO.labels, THREE.labels], 4.0)
    for _ in range(3):
        clock.tick()
        clock.saw([ONE.ids], [[-100] * 4], 0.0)
    clock.seen.pop()
    clock.losses.pop()
    assert clock.facts(ROWS)["first loss"] == pytest.approx((1.0 * 2 + 4.0 * 4) / 6)


def test_batches_of_like_length_hold_every_row_once() -> None:
    rows = [Row([5] * n + [EOS], 1, "", "") for n in (9, 2, 8, 3, 6, 5)]
    job = Job("", "float32", False, 1, 2, 16, 1, [*range(6)], rows)
    grouped = job.grouped
    assert sorted(len(r.ids) for r in grouped) == sorted(len(r.ids) for r in rows)
    assert all(abs(len(a.ids) - len(b.ids)) == 1 for a, b in zip(grouped[::2], grouped[1::2], strict=True))
