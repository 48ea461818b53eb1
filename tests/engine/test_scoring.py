"""Scores against a naive scorer (one forward a token) and lm-eval; each token once, however it is batched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import WorkFailed
from engine.evaluation import scoring
from engine.models.loaded import Loaded
from engine.models.loss import Head
from engine.tokens.examples import Encoder, Example, Segment
from tests.engine import tiny

TEXTS = [
    "The train leaves at seven.",
    "x",
    "Anna has 12 apples and buys 30 more, so she has 42; the señor has 3 ☕ and a 👩‍🚀.",
    "She said that the house was old, that the garden was small, and that the roof would have to be mended.\n" * 2,
    "price of the red chair: 85 dollars",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return tiny.tiny_loaded(tiny.save_tiny(tmp_path_factory.mktemp("llama"), "llama"))


def examples_of(loaded: Loaded, texts: list[str] = TEXTS) -> list[Example]:
    """Each text with a prompt before it and the EOS behind it."""
    encoder, made = Encoder(loaded.tokenizer), []
    for line, text in enumerate(texts, 1):
        segments = [
            Segment("Question: why?\nAnswer:", 0.0, True),
            Segment(" " + text, 1.0, True),
            Segment(tiny.EOS, 1.0),
        ]
        ids, weights = encoder.encode(segments)
        made.append(Example(np.array(ids, np.int32), np.array(weights, np.float32), f"rows.jsonl:{line}", text))
    return made


def score(loaded: Loaded, examples: list[Example], scope: str = "all", **how: Any) -> list[Any]:
    return scoring.score(loaded, examples, scope=scope, **{"window": 0, "batch_tokens": 8192, **how})


@torch.no_grad()
def naive(loaded: Loaded, ids: list[int], target: int) -> float:
    """-log p of ids[target] after ids[:target], by a forward pass of its own through the whole model."""
    logits = loaded.causal(input_ids=torch.tensor([ids[:target]]), use_cache=False).logits[0, -1]
    return -float(torch.log_softmax(logits.double(), -1)[ids[target]])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_sums_are_those_of_a_token_by_token_scorer(family, tmp_path):
    loaded = tiny.tiny_loaded(tiny.save_tiny(tmp_path, family))
    examples = examples_of(loaded, TEXTS[:3])
    scores = scoring.score_scopes(loaded, examples, ("completion", "all"), window=0, batch_tokens=64)
    for place, example in enumerate(examples):
        ids = example.ids.tolist()
        each = [naive(loaded, ids, t) for t in range(1, len(ids))]
        supervised = [x for x, weight in zip(each, example.weights[1:], strict=True) if weight > 0]
        for scope, expected in (("all", each), ("completion", supervised)):
            row = scores[scope][place]
            assert row.tokens == len(expected) and row.where == example.where
            assert row.nll == pytest.approx(sum(expected), rel=1e-5)


def test_windows_are_scored_as_the_naive_scorer_scores_them(llama):
    (example,) = examples_of(llama, TEXTS[2:3])
    ids, context = example.ids.tolist(), 10
    expected = 0.0
    for start, first, end in scoring.windows(len(ids), context):
        expected += sum(naive(llama, ids[start:], target - start) for target in range(first, end))
    assert score(llama, [example], window=context)[0].nll == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 300), st.integers(1, 80))
def test_windows_score_every_token_once(length, context):
    made = scoring.windows(length, context)
    assert [t for _, first, end in made for t in range(first, end)] == list(range(1, length))
    for start, first, end in made:
        assert 0 <= start < first < end <= length  # something stands before the first scored token
        assert end - 1 - start <= context  # what goes in fits
        assert end - 1 - start == min(context, length - 1)  # and no window wastes context that there is


@given(st.integers(1, 200), st.integers(1, 60))
def test_windows_are_those_of_lm_eval(length, context):
    utils = pytest.importorskip("lm_eval.utils")
    ids = list(range(length + 1))  # 0 is the BOS
    theirs = [
        (before + scored[:-1], scored)
        for before, scored in map(
            utils.make_disjoint_window,
            utils.get_rolling_token_windows(ids[1:], prefix_token=0, max_seq_len=context, context_len=1),
        )
    ]
    assert theirs == [(ids[s : e - 1], ids[f:e]) for s, f, e in scoring.windows(len(ids), context)]


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 16])
def test_sums_are_those_of_lm_eval(window, tmp_path):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance")
    loaded = tiny.tiny_loaded(tiny.save_tiny(tmp_path, "llama"))
    encoder = Encoder(loaded.tokenizer)
    examples = []
    for text in TEXTS:
        ids, weights = encoder.encode([Segment(text, 1.0, True)])
        examples.append(Example(np.array(ids, np.int32), np.array(weights, np.float32)))
    # Without add_bos_token=False lm-eval's BOS prefix is followed by the tokenizer's own BOS, which it then scores.
    options: dict[str, Any] = {"max_length": window or None, "add_bos_token": False}
    theirs = huggingface.HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=2, **options)
    requests = [instance.Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(TEXTS)]
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert [-row.nll for row in score(loaded, examples, window=window)] == pytest.approx(expected, rel=1e-6)


def test_a_text_of_one_token_more_than_the_limit_still_goes_in_one_window(tmp_path):
    loaded = tiny.tiny_loaded(tiny.save_tiny(tmp_path, "gpt2", n_positions=20))
    ids = np.arange(10, 31).astype(np.int32)
    for length in (20, 21):
        assert len(scoring.windows(length, loaded.limit or 0)) == 1
        row = score(loaded, [Example(ids[:length], np.ones(length, np.float32))])[0]
        assert row.tokens == length - 1 and math.isfinite(row.nll)


def test_a_window_beyond_the_models_limit_is_the_limit(llama):
    assert scoring.context_length(llama, 0) == scoring.context_length(llama, 10**6) == 256
    assert scoring.context_length(llama, 40) == 40


@pytest.mark.parametrize("scope", ["completion", "all"])
@pytest.mark.parametrize("window", [0, 12])
def test_batches_and_order_do_not_change_the_sums(llama, scope, window):
    examples = examples_of(llama)
    expected = score(llama, examples, scope, window=window)
    for batch_tokens in (1, 30, 100):
        rows = score(llama, examples, scope, window=window, batch_tokens=batch_tokens)
        assert [r.nll for r in rows] == pytest.approx([r.nll for r in expected], rel=1e-5)
    assert score(llama, examples, scope, window=window) == expected
    backwards = score(llama, examples[::-1], scope, window=window)
    assert [r.where for r in backwards[::-1]] == [r.where for r in expected]
    assert [r.nll for r in backwards[::-1]] == pytest.approx([r.nll for r in expected], rel=1e-5)


@pytest.mark.parametrize("window", [0, 12])
def test_both_scopes_in_one_pass_equal_each_alone(llama, window, monkeypatch):
    examples, tokens, hidden = examples_of(llama), [], llama.hidden
    monkeypatch.setattr(llama, "hidden", lambda batch: tokens.append(len(batch.ids)) or hidden(batch))
    both = scoring.score_scopes(llama, examples, ("completion", "all"), window=window, batch_tokens=100)
    for_both, tokens[:] = sum(tokens), []
    alone = {"all": score(llama, examples, "all", window=window, batch_tokens=100)}
    assert for_both == sum(tokens)
    alone["completion"] = score(llama, examples, "completion", window=window, batch_tokens=100)
    for scope, rows in alone.items():
        assert [r.nll for r in both[scope]] == pytest.approx([r.nll for r in rows], rel=1e-5)
        assert [(r.tokens, r.nbytes) for r in both[scope]] == [(r.tokens, r.nbytes) for r in rows]


def test_logits_of_unsupervised_positions_are_never_built(llama, monkeypatch):
    examples, rows, batches, head = examples_of(llama), [], [], llama.head
    hidden = llama.hidden
    monkeypatch.setattr(llama, "head", Head(lambda h: rows.append(len(h)) or head(h), head.vocabulary))
    monkeypatch.setattr(llama, "hidden", lambda batch: batches.append(batch) or hidden(batch))
    scores = score(llama, examples, "completion")
    supervised = sum(e.supervised for e in examples)
    assert sum(r.tokens for r in scores) == supervised
    assert sum(rows) == supervised < sum(len(batch.ids) for batch in batches)


def test_windows_without_a_supervised_token_do_not_run(llama, monkeypatch):
    (example,) = examples_of(llama, TEXTS[3:4])
    weights = np.zeros(len(example), np.float32)
    weights[-3:] = 1
    late, tokens, hidden = Example(example.ids, weights), [], llama.hidden
    monkeypatch.setattr(llama, "hidden", lambda batch: tokens.append(len(batch.ids)) or hidden(batch))
    assert score(llama, [late], "completion", window=16)[0].tokens == 3
    assert sum(tokens) <= 32


def test_bytes_are_those_of_the_text(llama):
    encoder = Encoder(llama.tokenizer)
    for text in ["plain", "señor ☕ 👩‍🚀 x", "  two  spaces", "�", "\n\ttab"]:
        ids, weights = encoder.encode([Segment("Ask:", 0.0, True), Segment(text, 1.0, True), Segment(tiny.EOS, 1.0)])
        example = Example(np.array(ids, np.int32), np.array(weights, np.float32))
        assert score(llama, [example], "all")[0].nbytes == len(("Ask:" + text).encode())
        assert score(llama, [example], "completion")[0].nbytes == len(text.encode())


@given(st.text(max_size=20), st.data())
def test_bytes_of_stretches_add_up_to_the_text(text, data):
    tokenizer = tiny.tiny_tokenizer()
    ids = np.array(tokenizer(text, add_special_tokens=False).input_ids, np.int32)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))), bool)
    example = Example(ids, np.ones(len(ids), np.float32))
    parts = scoring._text_bytes(tokenizer, [example, example], [mask, ~mask])
    whole = scoring._text_bytes(tokenizer, [example], [np.ones(len(ids), bool)])
    assert sum(parts) == whole[0] == len(text.encode()) and min(parts) >= 0


def test_nothing_to_score_is_zero_not_a_guess(llama):
    assert score(llama, []) == []
    one = Example(np.array([1], np.int32), np.ones(1, np.float32), "a:1")
    none = Example(np.arange(1, 9).astype(np.int32), np.zeros(8, np.float32), "a:2")
    assert [(r.nll, r.tokens, r.nbytes) for r in score(llama, [one, none], "completion")] == [(0.0, 0, 0)] * 2
    assert [r.tokens for r in score(llama, [one, none])] == [0, 7]


def test_a_model_that_predicts_nan_is_reported_with_the_rows(llama, monkeypatch):
    examples, head = examples_of(llama), llama.head
    monkeypatch.setattr(llama, "head", Head(lambda h: head(h) * float("nan"), head.vocabulary))
    with pytest.raises(WorkFailed, match="NaN") as caught:
        score(llama, examples)
    assert caught.value.where is not None and caught.value.where.startswith("rows.jsonl:1")


def test_too_little_memory_halves_the_batch_and_changes_no_sum(llama, monkeypatch):
    examples, hidden, sizes = examples_of(llama), llama.hidden, []
    expected = score(llama, examples)

    def small(batch: Any) -> torch.Tensor:
        sizes.append(len(batch.segments))
        if len(batch.segments) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(batch)

    monkeypatch.setattr(llama, "hidden", small)
    monkeypatch.setattr(scoring.memory, "release", lambda device: None)  # seconds, with all that a test run holds
    done: list[tuple[int, int]] = []
    rows = score(llama, examples, progress=lambda *at: done.append(at))
    assert [r.nll for r in rows] == pytest.approx([r.nll for r in expected], rel=1e-5)
    assert sizes[0] == len(examples) and sizes.count(1) == len(examples)
    assert done[-1][0] == done[-1][1] == sum(len(e) - 1 for e in examples)


def test_one_text_that_does_not_fit_into_memory_is_an_error(llama, monkeypatch):
    def none(batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(llama, "hidden", none)
    monkeypatch.setattr(scoring.memory, "release", lambda device: None)  # seconds, with all that a test run holds
    with pytest.raises(WorkFailed, match="does not fit"):
        score(llama, examples_of(llama))


def test_another_error_of_the_model_is_not_taken_for_one_of_memory(llama, monkeypatch):
    def broken(batch: Any) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(llama, "hidden", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        score(llama, examples_of(llama))


def test_progress_counts_tokens_up_to_the_end(llama):
    examples, done = examples_of(llama), []
    score(llama, examples, batch_tokens=60, progress=lambda *at: done.append(at))
    total = sum(len(e) - 1 for e in examples)
    assert len(done) > 2 and done[-1] == (total, total)
    assert [d for d, _ in done] == sorted(d for d, _ in done)


@pytest.mark.parametrize("training", [True, False])
def test_the_modes_of_the_modules_are_as_before(llama, training):
    llama.causal.train(training)
    odd = next(m for m in llama.causal.modules() if isinstance(m, torch.nn.Linear))
    odd.training = not training
    try:
        score(llama, examples_of(llama))
        assert odd.training is not training
        assert all(m.training is training for m in llama.causal.modules() if m is not odd)
    finally:
        llama.causal.eval()


def test_scoring_disturbs_neither_random_state_nor_autograd(llama):
    state = torch.get_rng_state()
    llama.causal.train()
    try:
        score(llama, examples_of(llama))
        assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()
    finally:
        llama.causal.eval()
