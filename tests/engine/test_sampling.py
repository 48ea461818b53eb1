"""Choosing tokens against transformers' processors, and text that streams without ever breaking a character."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import WorkFailed
from engine.generation.sampling import TextStream, choose, decode, draws
from tests.engine.tiny import SPECIAL, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def byte_fallback_tokenizer() -> Any:
    """Llama 2's kind: words begin with "▁", the first space is dropped, unknown characters become single bytes."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    pieces += ["▁", "▁a", "▁the", "b", "cd", "é", *string.ascii_letters, "\ufffd"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


BYTES = byte_fallback_tokenizer()


def test_draws_lie_in_reach_and_a_longer_answer_begins_like_a_shorter_one():
    long = draws(seed=3, row=5, count=1000)
    assert (long > 0).all() and (long <= 1).all()
    assert np.array_equal(draws(3, 5, 10), long[:10])
    assert not np.array_equal(draws(3, 6, 10), long[:10])
    assert not np.array_equal(draws(4, 5, 10), long[:10])


def test_greedy_takes_the_likeliest_and_looks_at_no_random_number():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, 5.0]])
    assert choose(logits, 0.0, 0, 1.0, [0.0, 0.0]) == [1, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_numbers_are_a_failure_with_advice(bad: float):
    logits = torch.zeros(3, 8)
    logits[1, 2] = bad
    with pytest.raises(WorkFailed, match="not finite") as caught:
        choose(logits, 1.0, 0, 1.0, [0.5] * 3)
    assert "bfloat16" in (caught.value.remedy or "")


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.2, 3.0),
    st.sampled_from([0, 1, 3, 7, 12, 50]),
    st.sampled_from([1.0, 0.9, 0.5, 0.05]),
)
@settings(max_examples=60)
def test_tokens_come_as_often_as_transformers_processors_say(seed: int, temperature: float, top_k: int, top_p: float):
    """Evenly spaced draws hit every token as often as its probability says, to within one."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)) * 2
    n = 1000
    chosen = choose(logits.expand(n, -1), temperature, top_k, top_p, [(i + 0.5) / n for i in range(n)])
    ids, wanted = torch.zeros(1, 0, dtype=torch.long), TemperatureLogitsWarper(temperature)(None, logits.clone())
    if top_k:
        wanted = TopKLogitsWarper(top_k)(ids, wanted)
    if top_p < 1:
        wanted = TopPLogitsWarper(top_p)(ids, wanted)
    probabilities = torch.softmax(wanted, -1)[0].double().numpy()
    counts = np.bincount(chosen, minlength=12)
    assert (counts[probabilities == 0] == 0).all()
    assert np.abs(counts - n * probabilities).max() <= 1.01


def test_seeded_draws_follow_the_distribution():
    """Chi-square of 20,000 draws over 8 tokens: 7 degrees of freedom, 24.3 is passed once in a thousand."""
    logits = torch.tensor([[2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0]])
    n = 20_000
    chosen = choose(logits.expand(n, -1), 1.3, 0, 1.0, [float(draws(0, row, 1)[0]) for row in range(n)])
    wanted = n * torch.softmax(logits[0].double() / 1.3, -1).numpy()
    counts = np.bincount(chosen, minlength=8)
    assert ((counts - wanted) ** 2 / wanted).sum() < 24.3


@given(st.lists(st.floats(0.0, 1.0, exclude_min=True), min_size=1, max_size=20))
@settings(max_examples=50)
def test_a_token_without_probability_is_never_drawn(uniforms: list[float]):
    logits = torch.full((len(uniforms), 10), float("-inf"))
    logits[:, [2, 7]] = torch.tensor([0.0, -40.0])
    assert set(choose(logits, 1.0, 0, 1.0, uniforms)) <= {2, 7}
    assert set(choose(logits, 1.0, 5, 0.999, uniforms)) <= {2, 7}


def pieces_of(stream: TextStream, ids: list[int]) -> list[str]:
    return [*(stream.push(i) for i in ids), stream.finish()]


@given(st.text())
@settings(max_examples=200)
def test_streamed_text_is_the_decoded_text_without_a_broken_character(text: str):
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    pieces = pieces_of(TextStream(TOKENIZER), ids)
    assert "".join(pieces) == decode(TOKENIZER, ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["byte level", "byte fallback"])
@given(data=st.data())
@settings(max_examples=200)
def test_any_tokens_stream_to_what_they_decode_to(tokenizer: Any, data: st.DataObject):
    """Also half characters, stray bytes, special tokens in the middle, and ids that are no token."""
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 2), max_size=30))
    assert "".join(pieces_of(TextStream(tokenizer), ids)) == decode(tokenizer, ids)


def test_text_comes_as_soon_as_a_character_is_whole():
    ids = TOKENIZER("a😀b", add_special_tokens=False).input_ids
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(i) for i in ids]
    assert pieces[0] == "a" and pieces[-1] == "b"
    assert pieces[1:-1] == [""] * (len(ids) - 3) + ["😀"]


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop text that is complete first, letter by letter."""
    for end in range(1, len(text) + 1):
        met = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: min(met)], True
    return text, False


@given(st.text("ab#\n é", max_size=40), st.lists(st.text("ab#\n é", min_size=1, max_size=4), max_size=3))
@settings(max_examples=300)
def test_a_stream_ends_before_the_first_stop_text_and_never_shows_a_part_of_it(text: str, stops: list[str]):
    stream, shown = TextStream(TOKENIZER, stops), ""
    wanted, stopped = cut(text, stops)
    for token in TOKENIZER(text, add_special_tokens=False).input_ids:
        shown += stream.push(token)
        assert wanted.startswith(shown)
    shown += stream.finish()
    assert (shown, stream.stopped) == (wanted, stopped)
    if stopped:
        assert stream.push(5) == "" and stream.finish() == ""


def test_special_tokens_leave_no_text():
    ids = TOKENIZER("ab<|im_end|>c", add_special_tokens=False).input_ids
    assert SPECIAL.index("<|im_end|>") in ids
    assert "".join(pieces_of(TextStream(TOKENIZER), ids)) == "abc"
