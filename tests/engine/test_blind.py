"""Blind tests: the order is a fair coin of the seed, verdicts survive, nobody is named before, and the p-value is exact."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import blind
from engine.blind import BlindTest, sign_test
from engine.errors import InputError

MODELS = ("base", "demo-0001")


def made(folder: Path, pairs: int = 4, seed: int = 7) -> BlindTest:
    return BlindTest.create(folder, MODELS, [f"p{n}" for n in range(pairs)], seed)


@given(st.integers(0, 14), st.integers(0, 14))
def test_p_is_the_share_of_all_outcomes_as_uneven(first: int, second: int) -> None:
    """Counted over every sequence of n fair coins: the ones whose heads are at least as far from n / 2."""
    n = first + second
    far = abs(2 * first - n)
    share = sum(Fraction(comb(n, k), 2**n) for k in range(n + 1) if abs(2 * k - n) >= far)
    assert sign_test(first, second) == pytest.approx(float(share), rel=1e-12)
    assert sign_test(first, second) == sign_test(second, first)


def test_p_of_a_table() -> None:
    """Of 10 pairs 9 to 1: 22 / 1024. Of 1,000 the numbers do not overflow."""
    assert sign_test(9, 1) == 22 / 1024 and sign_test(0, 0) == 1.0 and 0 < sign_test(400, 600) < 1e-9


def test_the_order_is_of_the_seed_and_fair(tmp_path: Path) -> None:
    first, again = (made(tmp_path, 400, seed=3) for _ in range(2))
    sides = [first.sides(i, ("x", "y")) for i in range(400)]
    assert sides == [again.sides(i, ("x", "y")) for i in range(400)] and first.path != again.path
    assert 150 < sum(s == ("x", "y") for s in sides) < 250
    assert sides != [made(tmp_path, 400, seed=4).sides(i, ("x", "y")) for i in range(400)]


@given(st.lists(st.sampled_from(["a", "b", "="]), min_size=1, max_size=12), st.integers(0, 99))
def test_a_tally_counts_models_not_sides(
    tmp_path_factory: pytest.TempPathFactory, verdicts: list[blind.Verdict], seed: int
) -> None:
    """Opened again after every verdict; what a verdict is for is what stood on that side."""
    test = made(tmp_path_factory.mktemp("run"), len(verdicts), seed)
    won = []
    for number, verdict in enumerate(verdicts):
        test = BlindTest.open(test.path)
        assert test.next == number
        a, b = test.sides(number, ("of base", "of demo"))
        said = test.judge(number, verdict, ("of base", "of demo"))
        chosen = {"a": a, "b": b, "=": None}[verdict]
        assert said.winner == {"of base": "base", "of demo": "demo-0001", None: None}[chosen]
        assert {said.a, said.b} == set(MODELS) and (said.a == "base") == (a == "of base")
        won.append(said.winner)
    for each in (test, BlindTest.open(test.path)):
        tally = each.tally()
        assert (tally.first, tally.second, tally.equal) == tuple(won.count(m) for m in (*MODELS, None))
        assert tally.p == sign_test(tally.first, tally.second) and tally.judged == len(verdicts)
        assert each.next is None and [j.winner for j in each.judged] == won


def test_nothing_on_disk_says_who_is_who_before_the_verdict(tmp_path: Path) -> None:
    """Two tests whose orders differ have the same file but for seed and time, until a verdict is given."""
    tests = [made(tmp_path, 1, seed) for seed in range(20)]
    assert len({t.sides(0, ("x", "y")) for t in tests}) == 2
    plans = {t.path.read_text().replace(f'"seed":{t.plan.seed}', "").split('"t":')[0] for t in tests}
    assert len(plans) == 1


def test_a_second_verdict_is_refused_whoever_gave_the_first(tmp_path: Path) -> None:
    test = made(tmp_path)
    other = BlindTest.open(test.path)
    other.judge(0, "a", ("x", "y"))
    with pytest.raises(InputError, match="pair 1 has its verdict"):
        test.judge(0, "b", ("x", "y"))
    assert test.next == 1 and test.tally() == other.tally()
    with pytest.raises(InputError, match="a verdict is"):
        test.judge(1, "c", ("x", "y"))  # type: ignore[arg-type]


def test_a_torn_verdict_is_asked_for_again(tmp_path: Path) -> None:
    test = made(tmp_path)
    test.judge(0, "a", ("x", "y"))
    test.judge(1, "=", ("x", "y"))
    test.path.write_bytes(test.path.read_bytes()[:-9])
    again = BlindTest.open(test.path)
    assert again.next == 1
    again.judge(1, "b", ("x", "\ud800"))
    assert BlindTest.open(test.path).next == 2 and BlindTest.open(test.path).judged[1].verdict == "b"


def test_tests_are_numbered_and_what_is_none_is_refused(tmp_path: Path) -> None:
    paths = [made(tmp_path).path for _ in range(3)]
    assert blind.tests_of(tmp_path) == paths and [p.name for p in paths] == ["0001.jsonl", "0002.jsonl", "0003.jsonl"]
    paths[1].write_text('{"seed": 1}\n')
    for path in (paths[1], tmp_path / "nothing.jsonl"):
        with pytest.raises(InputError, match="no blind test"):
            BlindTest.open(path)
    for models, prompts in itertools.product((("base", "base"), MODELS), ([], ["p"])):
        if models != MODELS or not prompts:
            with pytest.raises(InputError, match="needs"):
                BlindTest.create(tmp_path, models, prompts, 1)
