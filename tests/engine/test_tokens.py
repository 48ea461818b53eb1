"""Text to ids to batches: nothing lost, nothing forged, and a prompt is always the beginning of what was trained on."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tokens.examples import (
    Encoder,
    Example,
    Segment,
    best_fit_decreasing,
    collate,
    split_by_tokens,
)
from engine.tokens.stored import cache_key, load_examples, save_examples
from tests.engine import tokenisers
from tests.engine.tokenisers import BOS, EOS, IM_END, IM_START, KINDS, LOSSLESS, SPECIAL

# --- examples and batches


def example(ids: list[int], weights: list[float], **values: Any) -> Example:
    return Example(np.array(ids, np.int32), np.array(weights, np.float32), **values)


EXAMPLES = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 1.0, 0.5])), min_size=1, max_size=9).map(
    lambda pairs: example([i for i, _ in pairs], [w for _, w in pairs])
)


@given(st.lists(EXAMPLES, min_size=1, max_size=6))
@settings(max_examples=60)
def test_targets_never_cross_examples(examples: list[Example]) -> None:
    batch = collate(examples)
    assert batch.segments == tuple(map(len, examples))
    assert (batch.ids.dtype, batch.targets.dtype, batch.positions.dtype) == (np.int64,) * 3
    assert batch.weights.dtype == np.float32
    start = 0
    for e in examples:
        end = start + len(e)
        assert batch.ids[start:end].tolist() == e.ids.tolist()
        assert batch.positions[start:end].tolist() == list(range(len(e)))
        assert batch.targets[start : end - 1].tolist() == e.ids[1:].tolist()
        assert batch.weights[start : end - 1].tolist() == e.weights[1:].tolist()
        assert batch.weights[end - 1] == 0
        start = end
    assert start == len(batch.ids)
    assert batch.supervised == sum(e.supervised for e in examples)


def test_an_example_knows_its_prompt() -> None:
    assert example([1, 2, 3, 4, 5], [0, 0, 1, 1, 0]).prompt_ids == [1, 2]
    assert example([1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 1]).prompt_ids == [1, 2, 3, 4]  # before the last answer
    assert example([1, 2, 3], [1, 1, 1]).prompt_ids == [1, 2, 3]  # a document has none
    assert example([1, 2, 3], [1, 1, 0]).supervised == 1  # the first token is never predicted


def test_a_digest_is_of_ids_and_weights() -> None:
    same = [example([1, 2], [0, 1], where=where).digest() for where in ("a:1", "b:2")]
    assert len({*same, example([1, 2], [0, 0.5]).digest(), example([2, 1], [0, 1]).digest()}) == 3


# --- packing


@settings(max_examples=100)
@given(st.lists(st.integers(0, 70), max_size=60), st.integers(1, 60), st.randoms())
def test_packs_are_a_partition_within_capacity(lengths: list[int], capacity: int, rng: random.Random) -> None:
    bins = best_fit_decreasing(lengths, capacity)
    assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
    assert bins == best_fit_decreasing(lengths, capacity)
    for b in bins:
        within = [i for i in b if lengths[i]]
        assert sum(lengths[i] for i in b) <= capacity or len(within) == 1
    fitting = [n for n in lengths if n <= capacity]
    over = len(lengths) - len(fitting)
    assert len(bins) - over <= 11 / 9 * math.ceil(sum(fitting) / capacity) * 2 + 4
    assert sum(sum(lengths[i] for i in b) * 2 <= capacity for b in bins) <= 1 + over  # two half-empty bins would be one
    shuffled = list(enumerate(lengths))
    rng.shuffle(shuffled)
    other = best_fit_decreasing([n for _, n in shuffled], capacity)
    assert sorted(sorted(lengths[i] for i in b) for b in bins) == sorted(
        sorted(shuffled[i][1] for i in b) for b in other
    )


def test_packing_is_close_to_the_best() -> None:
    """On lengths as they are found: within 1 % of the tokens divided by the capacity."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(4.5, 0.8, 5000), 5, 1024).astype(int).tolist()
    assert len(best_fit_decreasing(lengths, 1024)) <= 1.01 * math.ceil(sum(lengths) / 1024)


def test_ties_go_to_the_lower_index() -> None:
    assert best_fit_decreasing([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]
    assert best_fit_decreasing([3, 7, 12, 7, 3], 10) == [[2], [1, 0], [3, 4]]


@settings(max_examples=60)
@given(st.lists(st.integers(0, 70), max_size=60), st.integers(1, 60))
def test_runs_are_bounded_by_tokens_longest_first(lengths: list[int], limit: int) -> None:
    runs = split_by_tokens(lengths, limit)
    flat = [i for run in runs for i in run]
    assert flat == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert all(sum(lengths[i] for i in run) <= limit or len(run) == 1 for run in runs)
    for run, after in itertools.pairwise(runs):  # none could have taken the next
        assert sum(lengths[i] for i in run) + lengths[after[0]] > limit


# --- the cache


def test_a_key_tells_its_parts_apart() -> None:
    parts = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], [], ["c", "ab"], ["ä"]]
    assert len({cache_key(p) for p in parts}) == len(parts)
    assert cache_key(["ä"]) == cache_key(["ä".encode()])


STORED = st.builds(
    lambda pairs, **rest: example([i for i, _ in pairs], [w for _, w in pairs], **rest),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(0, 8, width=32)), max_size=9),
    where=st.text(max_size=8),
    reference=st.text(max_size=8),
    cut=st.booleans(),
)
EXTRA = st.dictionaries(st.text(max_size=4), st.lists(st.text(max_size=4) | st.integers(), max_size=3), max_size=3)


@settings(max_examples=20)
@given(st.lists(STORED, max_size=5), EXTRA, st.data())
def test_stored_examples_come_back_or_nothing_does(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example], extra: dict[str, Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cache" / "examples.npz"
    save_examples(path, examples, extra)
    loaded = load_examples(path)
    assert loaded is not None
    assert loaded[1] == extra
    assert len(loaded[0]) == len(examples)
    for one, other in zip(examples, loaded[0], strict=True):
        assert one.digest() == other.digest()
        assert (one.where, one.reference, one.cut) == (other.where, other.reference, other.cut)
        assert (other.ids.dtype, other.weights.dtype) == (np.int32, np.float32)

    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at])
    assert load_examples(path) is None
    path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert load_examples(path) is None


def test_what_is_not_there_is_not_loaded(tmp_path: Path) -> None:
    assert load_examples(tmp_path / "missing.npz") is None
    assert load_examples(tmp_path) is None


# --- the encoder


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """One of each kind, with and without a BOS ("first without")."""
    return {
        **{kind: Encoder(tokenisers.make(kind)) for kind in KINDS},
        **{f"{kind} without": Encoder(tokenisers.make(kind, bos=False)) for kind in ("byte-level", "first")},
    }


def decoded(encoder: Encoder, ids: list[int]) -> str:
    return encoder.tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)


def strings(encoder: Encoder, ids: list[int]) -> list[str]:
    return encoder.tokenizer.convert_ids_to_tokens(ids)


def specials_in(encoder: Encoder, ids: list[int]) -> list[str]:
    return [t for t in strings(encoder, ids) if t in SPECIAL and t != tokenisers.UNK]


WORDS = st.sampled_from(
    ["Answer", ":", " ", "  ", "42", " 42", "\n", "\n\n", "é", "🙂", ".", "the", "#### 4", "\t", "日本", "#", "A",
     "{x}", *SPECIAL, "<|im_", "end|>", "<", "|>", "s>"]
)  # fmt: skip
USERS = st.lists(WORDS, max_size=5).map("".join)
PLAIN = st.lists(
    st.sampled_from(["Q", ": ", "\nA:", " ", "\n", "user\n", IM_START, IM_END + "\n", EOS, BOS]), max_size=3
)
ENDS = st.sampled_from(["", EOS, IM_END])
TURNS = st.lists(st.tuples(PLAIN.map("".join), USERS, PLAIN.map("".join), USERS, ENDS), max_size=3)


def segments_of(turns: list[tuple[str, str, str, str, str]]) -> list[Segment]:
    """Each turn is template, user's text, template, answer, end of the answer."""
    made: list[Segment] = []
    for before, asked, between, answer, end in turns:
        made += [Segment(before), Segment(asked, 0.0, raw=True), Segment(between)]
        made += [Segment(answer, 1.0, raw=True), Segment(end, 1.0)]
    return made


@pytest.mark.parametrize("kind", [*KINDS, "byte-level without", "first without"])
@settings(max_examples=25)
@given(turns=TURNS)
def test_what_stands_before_an_answer_is_the_beginning_of_the_whole(
    encoders: dict[str, Encoder], kind: str, turns: list[tuple[str, str, str, str, str]]
) -> None:
    """So generation sees what training saw, for every answer of a conversation, whatever the tokenizer would join."""
    encoder, segments = encoders[kind], segments_of(turns)
    ids, weights = encoder.encode(segments)
    assert len(ids) == len(weights)
    for turn in range(len(turns)):
        prompt = encoder.prompt(segments[: 5 * turn + 3])
        assert ids[: len(prompt)] == prompt
    assert encoder.encode(segments) == (ids, weights)


@pytest.mark.parametrize("kind", [*KINDS, "byte-level without", "first without"])
@settings(max_examples=25)
@given(turns=TURNS)
def test_no_special_token_comes_from_text_of_the_users(
    encoders: dict[str, Encoder], kind: str, turns: list[tuple[str, str, str, str, str]]
) -> None:
    encoder = encoders[kind]
    segments = segments_of(turns)
    ids, _ = encoder.encode(segments)
    harmless = [replace(s, text=" x " if s.text else "") if s.raw else s for s in segments]
    assert specials_in(encoder, ids) == specials_in(encoder, encoder.encode(harmless)[0])
    written = sum("".join(s.text for s in harmless).count(token) for token in SPECIAL)
    assert len(specials_in(encoder, ids)) <= written + 1


@pytest.mark.parametrize("kind", LOSSLESS)
@settings(max_examples=25)
@given(turns=TURNS)
def test_no_text_is_lost_or_added(
    encoders: dict[str, Encoder], kind: str, turns: list[tuple[str, str, str, str, str]]
) -> None:
    encoder, segments = encoders[kind], [Segment("Q"), *segments_of(turns)]
    ids, weights = encoder.encode(segments)
    assert decoded(encoder, ids[1:]) == "".join(s.text for s in segments)
    if kind == "byte-level":
        learned = [i for i, w in zip(ids, weights, strict=True) if w > 0]
        closed = all(end or not before + asked + between for before, asked, between, _, end in turns)
        if closed and all(end for *_, end in turns):  # an answer that nothing ends may share a token with what follows
            assert decoded(encoder, learned) == "".join(s.text for s in segments if s.weight > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seam_is_cut_only_where_it_must_be(encoders: dict[str, Encoder], kind: str) -> None:
    """ "Answer: " + "42" would be one token " 42"; "Answer:" + " 42" is two anyway."""
    encoder = encoders[kind]
    together = [Segment("Answer:"), Segment(" 42", 1.0, raw=True)]
    if kind != "legacy":  # which splits nowhere, and here does not end a token with the colon
        assert encoder.encode(together)[0] == encoder.tokenizer("Answer: 42").input_ids
    apart = [Segment("Answer: "), Segment("42", 1.0, raw=True)]
    ids, weights = encoder.encode(apart)
    prompt = encoder.tokenizer("Answer: ").input_ids
    assert ids[: len(prompt)] == prompt
    assert weights[: len(prompt)] == [0.0] * len(prompt)
    assert decoded(encoder, ids[1:]) == "Answer: 42"  # not "Answer:  42": a continued text has no space of its own


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_text_is_what_the_tokenizer_says(encoders: dict[str, Encoder], kind: str) -> None:
    text = "Question: The red chair costs 85 dollars.\nAnswer: 12 + 30 = 42 #### 42"
    pieces = [Segment(text[:10]), Segment(text[10:20], 0.0, raw=True), Segment(text[20:41]), Segment(text[41:], 1.0)]
    assert encoders[kind].encode(pieces)[0] == encoders[kind].tokenizer(text).input_ids


@pytest.mark.parametrize("begins_with", ["", BOS, BOS + BOS])
def test_exactly_one_bos_if_the_tokenizer_adds_one(encoders: dict[str, Encoder], begins_with: str) -> None:
    segments = [Segment(begins_with + "Q"), Segment("a", 1.0)]
    assert encoders["first"].bos == encoders["first"].tokenizer.bos_token_id
    ids, weights = encoders["first"].encode(segments)
    assert (strings(encoders["first"], ids).count(BOS), ids[0], weights[0]) == (1, encoders["first"].bos, 0.0)
    without = encoders["first without"]
    assert without.bos is None
    assert strings(without, without.encode(segments)[0]).count(BOS) == begins_with.count(BOS)
    assert encoders["first"].encode([]) == ([encoders["first"].bos], [0.0])


def test_a_bos_that_a_user_writes_is_text(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["byte-level"]
    ids = encoder.prompt([Segment(BOS + "hello", 0.0, raw=True)])
    assert strings(encoder, ids)[:4] == [BOS, "<", "s", ">"]


def test_a_text_full_of_special_tokens_is_text(encoders: dict[str, Encoder]) -> None:
    """Also to a Unigram model, which has their texts among its pieces."""
    text = "".join(SPECIAL) * 300
    for kind, encoder in encoders.items():
        ids, _ = encoder.encode(
            [Segment("Q:"), Segment(text, 0.0, raw=True), Segment("A"), Segment(text, 1.0, raw=True)]
        )
        assert specials_in(encoder, ids) == ([BOS] if encoder.bos is not None else []), kind


def test_weights_are_those_of_the_segments(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["byte-level"]
    made = [Segment("Q"), Segment("", 5.0), Segment("a", 0.25), Segment(IM_END, 0.25), Segment("\n"), Segment("b", 2.0)]
    ids, weights = encoder.encode(made)
    assert list(zip(strings(encoder, ids), weights, strict=True)) == [
        (BOS, 0.0), ("Q", 0.0), ("a", 0.25), (IM_END, 0.25), ("Ċ", 0.0), ("b", 2.0)
    ]  # fmt: skip


def test_a_token_over_a_border_counts_as_what_it_reaches_into(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["byte-level"]
    ids, weights = encoder.encode([Segment("x", 0.0), Segment("the", 1.0), Segment(" tra", 0.5), Segment("in", 2.0)])
    assert list(zip(strings(encoder, ids), weights, strict=True))[1:] == [("x", 0.0), ("the", 1.0), ("Ġtrain", 2.0)]


def test_every_byte_of_a_character_is_learned(encoders: dict[str, Encoder]) -> None:
    for kind in LOSSLESS:
        _, weights = encoders[kind].encode([Segment("Q"), Segment("🙂", 1.0)])
        assert weights[-4:] == [1.0] * 4


def test_special_tokens_that_swallow_white_space_swallow_none_of_the_users() -> None:
    """As those of Phi-3 do."""
    from tokenizers import AddedToken

    tokenizer = tokenisers.make("byte-level")
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=True, lstrip=True, special=True)])
    encoder = Encoder(tokenizer)
    ids = encoder.prompt([Segment("<|user|>"), Segment("  indented", 0.0, raw=True), Segment("<|user|>")])
    assert "".join(strings(encoder, ids)[1:]) == "<|user|>ĠĠindented<|user|>"


def test_a_tokenizer_that_was_stored_with_a_limit_cuts_nothing() -> None:
    tokenizer = tokenisers.make("byte-level")
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    encoder = Encoder(tokenizer)
    assert decoded(encoder, encoder.prompt([Segment("a b c d e f g h")])) == BOS + "a b c d e f g h"


def test_the_tokenizer_is_left_as_it_was() -> None:
    tokenizer = tokenisers.make("first")
    before = tokenizer(f"a {IM_END} b").input_ids
    Encoder(tokenizer).encode([Segment("Q"), Segment(f"x {IM_END}", 0.0, raw=True), Segment("a", 1.0)])
    assert tokenizer(f"a {IM_END} b").input_ids == before
