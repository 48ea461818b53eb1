"""Sums, intervals and tests against closed forms and scipy-free references; extractors against literal tables."""

from __future__ import annotations

import itertools
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation import metrics
from engine.evaluation.metrics import RowScore

GSM8K_FILE = Path(__file__).parents[3] / "shared" / "gsm8k" / "test.jsonl"
SCORES = st.lists(
    st.tuples(st.floats(0, 1e4, allow_nan=False), st.integers(0, 500), st.integers(0, 2000)), min_size=1, max_size=30
)


def rows_of(scores: list[tuple[float, int, int]]) -> list[RowScore]:
    return [RowScore(f"x.jsonl:{i}", *score) for i, score in enumerate(scores)]


# --- sums


def test_perplexity_is_of_the_sums_not_a_mean_of_perplexities():
    sums = metrics.total(rows_of([(10.0, 10, 30), (0.1, 1, 4)]))
    assert sums.perplexity == pytest.approx(math.exp(10.1 / 11))
    assert sums.bits_per_byte == pytest.approx(10.1 / math.log(2) / 34)
    assert sums.perplexity != pytest.approx((math.e + math.exp(0.1)) / 2)


def test_uniform_guessing_over_v_tokens_has_perplexity_v():
    sums = metrics.total([RowScore("", 7 * math.log(4096), 7, 21)])
    assert sums.perplexity == pytest.approx(4096)
    assert sums.bits_per_byte == pytest.approx(12 / 3)


def test_nothing_scored_has_no_perplexity():
    for rows in ([], [RowScore("", 0.0, 0, 0)]):
        sums = metrics.total(rows)
        assert sums.perplexity is None and sums.bits_per_byte is None


def test_a_perplexity_too_large_for_a_float_is_infinite_and_its_sum_is_kept():
    sums = metrics.total([RowScore("", 8000.0, 10, 1)])
    assert sums.perplexity == math.inf and sums.nll == 8000.0


@given(SCORES, st.randoms())
def test_sums_do_not_depend_on_the_order_of_the_rows(scores, random):
    rows = rows_of(scores)
    shuffled = rows[:]
    random.shuffle(shuffled)
    assert metrics.total(rows) == metrics.total(shuffled)


@given(SCORES, st.integers(0, 30))
def test_sums_of_parts_add_up(scores, cut):
    rows = rows_of(scores)
    whole, a, b = metrics.total(rows), metrics.total(rows[:cut]), metrics.total(rows[cut:])
    assert whole.tokens == a.tokens + b.tokens and whole.nbytes == a.nbytes + b.nbytes
    assert whole.nll == pytest.approx(a.nll + b.nll, rel=1e-12)


# --- bootstrap


def test_the_interval_agrees_with_one_computed_row_by_row():
    rng = np.random.default_rng(5)
    tokens = rng.integers(1, 60, 25)
    nll = tokens * rng.uniform(0.5, 2.5, 25)
    low, high = metrics.bootstrap_interval(nll.tolist(), tokens.tolist(), 4000, seed=1) or (0, 0)
    draws = [rng.integers(25, size=25) for _ in range(4000)]
    naive = np.exp(np.quantile([nll[d].sum() / tokens[d].sum() for d in draws], [0.025, 0.975]))
    assert [low, high] == pytest.approx(naive.tolist(), rel=0.03)
    assert low < math.exp(nll.sum() / tokens.sum()) < high


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, covered, trials = math.exp(1.5), 0, 200
    for trial in range(trials):
        low, high = metrics.bootstrap_interval(rng.gamma(3, 0.5, 60).tolist(), [1] * 60, 200, seed=trial) or (0, 0)
        covered += low <= truth <= high
    assert 0.88 <= covered / trials <= 0.99


def test_the_interval_is_a_function_of_the_seed_and_of_nothing_else():
    nll, tokens = [3.0, 9.0, 1.0, 4.0], [2, 3, 1, 5]
    one, again, other = (metrics.bootstrap_interval(nll, tokens, 300, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_rows_without_tokens_do_not_touch_the_interval():
    with_empty = metrics.bootstrap_interval([3.0, 0.0, 9.0, 1.0], [2, 0, 3, 1], 300, 0)
    assert with_empty == metrics.bootstrap_interval([3.0, 9.0, 1.0], [2, 3, 1], 300, 0)


@pytest.mark.parametrize(("nll", "tokens"), [([], []), ([2.0], [1]), ([2.0, 0.0], [1, 0])])
def test_no_interval_from_fewer_than_two_rows(nll, tokens):
    assert metrics.bootstrap_interval(nll, tokens, 100, 0) is None
    assert metrics.paired_test(nll, tokens, nll, tokens, 100, 0) is None


@given(SCORES, st.integers(0, 1000))
@settings(max_examples=30)
def test_an_interval_is_ordered_and_inside_the_rows_own_figures(scores, seed):
    nll, tokens = [s[0] for s in scores], [s[1] for s in scores]
    interval = metrics.bootstrap_interval(nll, tokens, 100, seed)
    if interval is None:
        assert sum(t > 0 for t in tokens) < 2
        return
    means = [n / t for n, t in zip(nll, tokens, strict=True) if t]
    low, high = (metrics.Totals(mean, 1, 1).perplexity or 0.0 for mean in (min(means), max(means)))
    assert low * (1 - 1e-9) <= interval[0] <= interval[1] <= high * (1 + 1e-9)


def test_resampling_in_blocks_is_bounded_and_complete(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metrics, "_BLOCK_ELEMENTS", 50)
    assert list(metrics._blocks(7, 20)) == [2, 2, 2, 1]
    assert list(metrics._blocks(3, 500)) == [1, 1, 1]
    assert metrics.bootstrap_interval([1.0, 2.0, 3.0] * 20, [1] * 60, 101, 0) is not None


# --- paired test


def test_the_permutation_p_agrees_with_all_sign_patterns():
    rng = np.random.default_rng(3)
    tokens = [int(t) for t in rng.integers(5, 40, 10)]
    b = rng.uniform(10, 60, 10)
    a = b - rng.normal(1.0, 2.0, 10)
    difference = a - b
    signs = np.array(list(itertools.product((-1, 1), repeat=10)))
    exact = np.mean(np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12)
    test = metrics.paired_test(a.tolist(), tokens, b.tolist(), tokens, 20_000, seed=0)
    assert test is not None
    assert test.p == pytest.approx(exact, abs=0.015)
    assert test.difference == pytest.approx(difference.sum() / sum(tokens))
    assert test.interval[0] <= test.difference <= test.interval[1]


def test_a_model_compared_with_itself_differs_by_nothing():
    test = metrics.paired_test([3.0, 4.0, 5.5], [2, 3, 4], [3.0, 4.0, 5.5], [2, 3, 4], 500, 0)
    assert test == metrics.Paired(0.0, (0.0, 0.0), 1.0)


def test_p_is_never_zero():
    n = 200
    test = metrics.paired_test([1.0] * n, [1] * n, [2.0] * n, [1] * n, 1000, 0)
    assert test is not None and test.p == 1 / 1001 and test.difference == -1.0


def test_the_two_sides_are_mirrored():
    a, b, tokens = [3.0, 1.0, 2.0, 8.0], [2.5, 2.0, 2.0, 9.5], [4, 2, 3, 9]
    one, other = metrics.paired_test(a, tokens, b, tokens, 400, 7), metrics.paired_test(b, tokens, a, tokens, 400, 7)
    assert one is not None and other is not None
    assert one.p == other.p and one.difference == -other.difference
    assert one.interval == pytest.approx((-other.interval[1], -other.interval[0]))


def test_p_under_no_difference_is_uniform():
    rng = np.random.default_rng(11)
    ps = []
    for seed in range(200):
        a, b = rng.normal(5, 1, (2, 30))
        test = metrics.paired_test(a.tolist(), [1] * 30, b.tolist(), [1] * 30, 200, seed)
        assert test is not None
        ps.append(test.p)
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.11
    assert 0.4 <= np.mean(ps) <= 0.6


def test_sums_of_different_tokens_are_not_compared():
    with pytest.raises(ValueError, match="same tokens"):
        metrics.paired_test([1.0, 2.0], [1, 2], [1.0, 2.0], [1, 3], 100, 0)


# --- proportions


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (8, 2, 0.109375), (10, 0, 0.001953125), (1, 9, 0.021484375)],
)
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b, p):
    a = [True] * only_a + [False] * only_b + [True, False, True]
    b = [False] * only_a + [True] * only_b + [True, False, True]
    test = metrics.mcnemar(a, b)
    assert (test.only_a, test.only_b) == (only_a, only_b)
    assert test.p == pytest.approx(p, rel=1e-12)


def test_mcnemar_takes_thousands_of_items():
    test = metrics.mcnemar([True] * 3000 + [False] * 2900, [False] * 3000 + [True] * 2900)
    assert 0.1 < test.p < 0.3


def test_mcnemar_refuses_different_numbers_of_items():
    with pytest.raises(ValueError, match="zip"):
        metrics.mcnemar([True], [True, False])


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval_against_published_values(hits, n, low, high):
    assert metrics.wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_of_nothing():
    assert metrics.wilson_interval(0, 0) is None


# --- answers

GSM8K = [
    ("She has 3 + 4 = <<3+4=7>>7 apples.\n#### 7", "7"),
    ("#### 18", "18"),
    ("####18", "18"),
    ("#### 1,234", "1234"),
    ("#### 1,450,000", "1450000"),
    ("#### 12,34,567", "1234567"),
    ("#### $1,234.50.", "1234.50"),
    ("#### $ 1,080", "1080"),
    ("#### €5", "5"),
    ("#### 5€", "5"),
    ("#### £3.20 each", "3.20"),
    ("#### +7", "7"),
    ("#### -5", "-5"),
    ("#### −5", "-5"),
    ("#### –5", "-5"),
    ("#### －5", "-5"),
    ("#### -$5", "-5"),
    ("#### $-5", "-5"),
    ("#### - $5", "-5"),
    ("#### - 5 apples", "5"),
    ("#### x=-5", "-5"),
    ("#### 29.00", "29.00"),
    ("#### 18.", "18"),
    ("#### 1,234.", "1234"),
    ("#### .5", "0.5"),
    ("#### -.5", "-0.5"),
    ("#### $.50", "0.50"),
    ("#### ...5", "5"),
    ("#### 50%", "50"),
    ("#### 18 dollars", "18"),
    ("#### 5kg", "5"),
    ("#### The answer is 18", "18"),
    ("#### Q1: 5", "5"),
    ("#### **18**", "18"),
    ("#### \\boxed{18}", "18"),
    ("#### (7)", "7"),
    ("#### 3/4", "3/4"),
    ("#### 5-6", "5"),
    ("#### 10 - $5", "10"),
    ("#### 1,2", "1"),
    ("#### 1,2345", "1"),
    ("#### 007", "007"),
    ("##### 4", "4"),
    ("#### 18\r\n#### 20", "18"),
    ("#### 18\nQuestion: Tom has 5 ...\n#### 5", "18"),  # a text that runs on
    ("#### no idea\n#### 5", None),  # the first line counts, whatever is on it
    ("####\n18", None),
    ("#### ", None),
    ("18", None),
    ("", None),
    ("### 18", None),
    ("#### v1.2.3", None),
]


@pytest.mark.parametrize(("text", "answer"), GSM8K)
def test_gsm8k_answers(text, answer):
    assert metrics.extractor("gsm8k")(text) == answer


@pytest.mark.skipif(not GSM8K_FILE.is_file(), reason="GSM8K is not here")
def test_every_reference_of_gsm8k_is_read_in_full():
    references = [json.loads(line)["answer"] for line in GSM8K_FILE.read_text(encoding="utf-8").splitlines()]
    assert metrics.resolve("auto", references) == "gsm8k"
    read = [metrics.extractor("gsm8k")(reference) for reference in references]
    assert read == [reference.split("#### ")[1].replace(",", "") for reference in references]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So the answer is 18.", "18"),
        ("3 apples and 4 pears make 7 pieces", "7"),
        ("<<3-2=1>>", "1"),
        ("<<5*-3=-15>>-15", "-15"),
        ("is...18", "18"),
        ("costs $1,080!", "1080"),
        ("12-5", "5"),
        ("at 10:30", "30"),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(text, answer):
    assert metrics.extractor("last_number")(text) == answer


@pytest.mark.parametrize(("text", "answer"), [("  a \n\t b ", "a b"), ("a b", "a b"), ("", None), (" \n", None)])
def test_text(text, answer):
    assert metrics.extractor("text")(text) == answer


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (r"category: (\w+)", "category: refund\ncategory: other", "refund"),
        (r"answer (\d+)?", "answer none", None),
        (r"(\d+)", "none", None),
        (r"<(.*?)>|(x)", "x", None),
    ],
)
def test_regex(pattern, text, answer):
    assert metrics.extractor("regex", pattern)(text) == answer


def test_an_unknown_extractor_is_an_error():
    with pytest.raises(ValueError, match="nonsense"):
        metrics.extractor("nonsense")


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("29.00", "29", True),
        ("29.01", "29", False),
        ("007", "7", True),
        ("-0", "0", True),
        ("−5", "-5", True),
        ("0.1", "0.10000000000000000001", False),
        ("100000000000000000001", "100000000000000000002", False),
        ("3/4", "0.75", True),
        ("1/3", "0.333", False),
        ("1/0", "1/0", True),
        ("1.5/3", "0.5", False),
        ("refund", "refund", True),
        ("refund", "Refund", False),
        ("nan", "nan", True),
        ("nan", "NaN", False),
        ("1_0", "10", False),
        ("1e3", "1000", False),
        ("9" * 5000, "9" * 5000, True),
        ("", "", True),
    ],
)
def test_same(a, b, equal):
    assert metrics.same(a, b) is equal and metrics.same(b, a) is equal


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9))
def test_a_number_is_read_back_however_it_is_written(value: Decimal):
    for written in (
        f"{value}",
        f"{value:,}",
        f"{value:+,}",
        f"${value:,}.",
        f"{value} %",
        f"{value}".replace("-", "−"),
    ):
        found = metrics.extractor("gsm8k")(f"so\n#### {written}\n#### 1")
        assert found is not None and Decimal(found) == value
        assert metrics.same(found, str(value))


@given(st.text(alphabet="0123456789.,-−+$€%/#x \n", max_size=40))
def test_whatever_stands_there_is_read_without_a_crash_and_equals_itself(text):
    for kind in ("gsm8k", "last_number", "text"):
        found = metrics.extractor(kind)("#### " + text)
        assert found is None or metrics.same(found, found)


@pytest.mark.parametrize(
    ("references", "kind"),
    [
        (["a\n#### 1", "b\n#### 2", "c"], "gsm8k"),
        (["#### 1", "b"], "none"),
        (["a #### 1", "b #### 2"], "none"),
        (["", "", "", "#### 1"], "gsm8k"),
        (["", ""], "none"),
        ([], "none"),
    ],
)
def test_auto_is_gsm8k_where_most_references_are_in_that_form(references, kind):
    assert metrics.resolve("auto", references) == kind
    assert metrics.resolve("text", references) == "text"
