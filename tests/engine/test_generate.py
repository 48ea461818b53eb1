"""The decoding loop against transformers' generate, against itself in other batches, and with training around it."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import spec
from engine.errors import InputError, WorkFailed
from engine.generation import answering, decoding
from engine.generation.answering import Answer, Settings, complete, divergence, next_logits, settings_from
from engine.generation.together import compare
from engine.models.loaded import Loaded
from engine.tables import GenerateTable
from engine.training import lora
from tests.engine.tiny import FAMILIES, SPECIAL, save_tiny, tiny_loaded, tiny_model, tiny_tokenizer

UNTIED = {"gemma2": {"tie_word_embeddings": False}, "gpt2": {"tie_word_embeddings": False}}
"""Random tied models repeat their last token for ever, which would test little."""


@functools.cache
def prompts(count: int = 6) -> list[list[int]]:
    """Prompts of 1 to 30 tokens, longer than the tiny models' sliding window of 8 and shorter, in no order."""
    generator = random.Random(7)
    lengths = [3, 29, 7, 16, 1, 12, 22, 5, 9, 14, 26, 2][:count]
    return [[generator.randrange(len(SPECIAL), 400) for _ in range(n)] for n in lengths]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    """`tiny_loaded` of a family, one for each set of arguments."""

    @functools.cache
    def loaded(family: str, **table: Any) -> Loaded:
        return tiny_loaded(save_tiny(tmp_path_factory.mktemp(family), family, **UNTIED.get(family, {})), **table)

    return loaded


def oracle(loaded: Loaded, prompt: list[int], how: Settings) -> Answer:
    """What transformers' own greedy search says."""
    out = loaded.causal.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=how.max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(how.stop_ids) or None,
        pad_token_id=0,
        use_cache=True,
    )
    ids = out[0, len(prompt) :].tolist()
    stopped = ids[-1] in how.stop_ids
    ids = ids[:-1] if stopped else ids
    return Answer(tuple(ids), loaded.tokenizer.decode(ids, skip_special_tokens=True), stopped)


def with_stops(loaded: Loaded, how: Settings) -> Settings:
    """The same with stop tokens that end some answers, at different places, and two not at all."""
    written = [set(a.ids) for a in complete(loaded, prompts(), how)]
    stops: set[int] = set()
    for token in sorted(set().union(*written)):
        if sum(not ids & (stops | {token}) for ids in written) >= 2:
            stops.add(token)
    return replace(how, stop_ids=frozenset(stops))


@pytest.mark.parametrize(
    ("family", "attention"),
    [*((family, "varlen") for family in FAMILIES), ("llama", "sdpa"), ("mistral", "sdpa"), ("gemma2", "eager")],
)
def test_greedy_equals_transformers_token_for_token(load: Callable[..., Loaded], family: str, attention: str):
    loaded = load(family, attention=attention)
    assert loaded.route == ("varlen" if attention == "varlen" else "padded")
    how = with_stops(loaded, Settings(14))
    answers = complete(loaded, prompts(), how)
    with decoding.inference(loaded):
        assert not decoding.rows_for(loaded).alone
    assert answers == [oracle(loaded, prompt, how) for prompt in prompts()]
    assert {a.stopped for a in answers} == {True, False}
    assert complete(loaded, prompts(), how, batch_tokens=100) == answers  # two or three at a time, entering and leaving
    assert complete(loaded, prompts(), how, batch_tokens=1) == answers  # one by one


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantized_bases_answer_like_transformers(load: Callable[..., Loaded], quantization: str):
    loaded = load("llama", quantization=quantization, dtype="float32")
    how = Settings(10)
    assert complete(loaded, prompts(3), how, batch_tokens=1) == [oracle(loaded, p, how) for p in prompts(3)]


def test_the_same_seed_gives_the_same_text_in_any_batch(load: Callable[..., Loaded]):
    loaded = load("llama")
    how = Settings(12, temperature=1.2, top_k=50, top_p=0.95, seed=11)
    answers = complete(loaded, prompts(), how)
    assert complete(loaded, prompts(), how, batch_tokens=120) == answers
    others = [list(reversed(p)) if i % 2 else p for i, p in enumerate(prompts())]
    mixed = complete(loaded, others, how)
    assert mixed[::2] == answers[::2] and mixed[3] != answers[3]
    assert complete(loaded, prompts(), replace(how, seed=12)) != answers
    assert len({a.ids for a in complete(loaded, [prompts()[0]] * 4, how)}) == 4  # rows draw their own numbers
    shorter = complete(loaded, prompts(), replace(how, max_new_tokens=5))
    assert [a.ids for a in shorter] == [a.ids[:5] for a in answers]


def test_sampled_first_tokens_follow_the_model(load: Callable[..., Loaded]):
    """Chi-square over the ten likeliest tokens and the rest: 10 degrees of freedom, 29.6 once in a thousand."""
    loaded, prompt, n = load("qwen3"), prompts()[0], 3000
    wanted = torch.softmax(next_logits(loaded, prompt).double(), -1)
    top = wanted.topk(10)
    tokens = [a.ids[0] for a in complete(loaded, [prompt] * n, Settings(1, temperature=1.0))]
    counts = torch.tensor([tokens.count(t) for t in top.indices.tolist()], dtype=torch.float64)
    counts = torch.cat([counts, n - counts.sum(0, keepdim=True)])
    expected = n * torch.cat([top.values, 1 - top.values.sum(0, keepdim=True)])
    assert float(((counts - expected) ** 2 / expected).sum()) < 29.6


def test_a_stop_text_ends_the_answer_before_it(load: Callable[..., Loaded]):
    loaded = load("llama")
    free = complete(loaded, prompts(), Settings(14))
    stop = free[1].text[6:9]
    answers = complete(loaded, prompts(), Settings(14, stop_texts=(stop,)))
    assert answers[1].stopped and answers[1].text == free[1].text[: free[1].text.index(stop)]
    assert loaded.tokenizer.decode(answers[1].ids).find(stop) >= 0
    for answer, before in zip(answers, free, strict=True):
        assert answer.text == before.text.split(stop)[0] and answer.stopped == (stop in before.text)


def test_an_answer_ends_where_the_context_is_full(tmp_path: Path):
    loaded = tiny_loaded(save_tiny(tmp_path, "gpt2", n_positions=32))
    answers = complete(loaded, [[7] * 30, [8] * 32, [9] * 40, [10] * 3, [11] * 20], Settings(12))
    assert [len(a.ids) for a in answers] == [2, 0, 0, 12, 12]
    assert [a.full for a in answers] == [True, True, True, False, False]
    assert not any(a.stopped for a in answers)


def test_nothing_to_answer(load: Callable[..., Loaded]):
    assert complete(load("llama"), [], Settings(3)) == []
    with pytest.raises(InputError, match="prompt 2 is empty"):
        complete(load("llama"), [[5], []], Settings(3))


def test_tokens_are_reported_as_they_come_and_progress_as_rows_end(load: Callable[..., Loaded]):
    loaded = load("llama")
    how = with_stops(loaded, Settings(14))
    seen: dict[int, list[int]] = {i: [] for i in range(len(prompts()))}
    done: list[tuple[int, int]] = []
    answers = complete(
        loaded, prompts(), how, lambda *p: done.append(p), lambda row, token: seen[row].append(token), batch_tokens=120
    )
    assert [tuple(ids) for ids in seen.values()] == [a.ids for a in answers]
    assert done[-1] == (6, 6) and [d for d, _ in done] == sorted({d for d, _ in done})


def test_rows_times_width_stay_within_the_bound(load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch):
    loaded, sizes = load("llama"), []
    how = with_stops(loaded, Settings(14))
    step, enter = decoding.Rows.step, decoding.Rows.enter

    def record(rows: decoding.Rows) -> None:
        layer = rows._cache.layers[0]
        assert layer.keys.shape[0] == len(rows) and layer.keys.shape[2] == max(rows.lengths)
        sizes.append((len(rows), len(rows) * max(rows.lengths)))

    def watched_step(self: decoding.Rows, tokens: Any) -> torch.Tensor:
        hidden = step(self, tokens)
        record(self)
        return hidden

    def watched_enter(self: decoding.Rows, prompts: Any) -> torch.Tensor:
        hidden = enter(self, prompts)
        record(self)
        return hidden

    answers = complete(loaded, prompts(12), how)
    monkeypatch.setattr(decoding.Rows, "step", watched_step)
    monkeypatch.setattr(decoding.Rows, "enter", watched_enter)
    assert complete(loaded, prompts(12), how, batch_tokens=160) == answers
    assert max(size for _, size in sizes) <= 160
    assert max(rows for rows, _ in sizes) > 160 // (29 + 14), "shorter rows should have filled the free places"


class CountingRows:
    """Stands for the model: a row's next token is one less than its last, and 0 is the stop token."""

    alone = False

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.largest = 0

    def enter(self, prompts: list[list[int]]) -> torch.Tensor:
        self.lengths += [len(p) for p in prompts]
        self.largest = max(self.largest, len(self.lengths) * max(self.lengths))
        return torch.tensor([p[-1] for p in prompts])

    def step(self, tokens: list[int]) -> torch.Tensor:
        assert len(tokens) == len(self.lengths)
        self.lengths = [n + 1 for n in self.lengths]
        self.largest = max(self.largest, len(self.lengths) * max(self.lengths))
        return torch.tensor(tokens)

    def keep(self, rows: list[int]) -> None:
        self.lengths = [self.lengths[r] for r in rows]


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.lists(st.tuples(st.sampled_from([1, 3, 8, 20, 30]), st.integers(1, 25)), min_size=n, max_size=n)
    ),
    st.sampled_from([1, 4, 20]),
    st.sampled_from([1, 40, 150, 400, 700, 1000]),
    st.none() | st.integers(20, 40),
)
@example([(29, 13)] + [(28, 2)] * 15 + [(3, 25)] * 15, 14, 16 * 43, None)  # one that ends late would widen the next
@settings(max_examples=150)
def test_any_coming_and_going_of_rows_keeps_the_bound_and_gives_each_its_answer(
    made: list[tuple[int, int]], longest: int, batch_tokens: int, limit: int | None
):
    rows = CountingRows()
    loaded: Any = SimpleNamespace(limit=limit, head=lambda hidden: hidden, tokenizer=None, agreed=list)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answering, "inference", contextlib.nullcontext)
        patch.setattr(answering, "rows_for", lambda _: rows)
        patch.setattr(answering, "choose", lambda logits, *_: (logits - 1).tolist())
        patch.setattr(answering, "decode", lambda _, ids: "")
        asked = [[9] * (length - 1) + [last] for length, last in made]
        answers = complete(loaded, asked, Settings(longest, stop_ids=frozenset({0})), batch_tokens=batch_tokens)
    reserves = []
    for (length, last), answer in zip(made, answers, strict=True):
        room = max(0, min(longest, (limit or 1000) - length))
        assert answer.ids == tuple(range(last - 1, 0, -1))[:room]
        assert answer.stopped == (last <= room) and answer.full == (not answer.stopped and room < longest)
        reserves.append(length + room)
    assert rows.largest <= max(batch_tokens, *reserves, 0)


def test_only_last_positions_are_projected(load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch):
    loaded, shapes, head = load("llama"), [], load("llama").head
    monkeypatch.setattr(loaded, "head", lambda hidden: shapes.append(tuple(hidden.shape)) or head(hidden))
    complete(loaded, prompts(), Settings(3))
    assert shapes == [(6, 64)] * 3


def test_too_little_memory_halves_the_batch_and_changes_no_answer(
    load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
):
    loaded = load("mistral")
    how = replace(with_stops(loaded, Settings(14)), temperature=0.7, stop_texts=("zz",))
    answers, reported = complete(loaded, prompts(), how), []
    step = decoding.Rows.step

    def scarce(self: decoding.Rows, tokens: list[int]) -> torch.Tensor:
        if len(tokens) > 2 and max(self.lengths) > 33:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, tokens)

    monkeypatch.setattr(decoding.Rows, "step", scarce)
    assert complete(loaded, prompts(), how, on_token=lambda *token: reported.append(token)) == answers
    assert len(reported) == sum(len(a.ids) for a in answers), "a token was reported twice"

    def none_left(self: decoding.Rows, tokens: list[int]) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decoding.Rows, "step", none_left)
    with pytest.raises(WorkFailed, match="one prompt alone"):
        complete(loaded, prompts(), how)


def test_an_architecture_that_does_not_keep_its_past_is_refused(
    load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch
):
    loaded = load("phi3")
    monkeypatch.setattr(decoding, "_alone", {})
    forgetful = lambda self, ids, positions, mask, cache: loaded.decoder(input_ids=ids).last_hidden_state  # noqa: E731
    monkeypatch.setattr(decoding.Rows, "_forward", forgetful)
    with pytest.raises(InputError, match="Phi3ForCausalLM"):
        complete(loaded, prompts(2), Settings(2))


def test_recurrent_layers_are_continued_one_row_at_a_time(tmp_path: Path):
    """LFM2: a convolution keeps more than keys and values."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, pad_token_id=0,
                        num_attention_heads=4, num_key_value_heads=2, layer_types=["conv", "full_attention"],
                        initializer_range=0.15, max_position_embeddings=256)  # fmt: skip
    torch.manual_seed(0)
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = tiny_loaded(tmp_path)
    how = Settings(6)
    assert complete(loaded, prompts(3), how) == [oracle(loaded, p, how) for p in prompts(3)]
    with decoding.inference(loaded):
        assert decoding.rows_for(loaded).alone


def gradients(loaded: Loaded) -> dict[str, torch.Tensor]:
    """Of the adapter, after one forward and backward pass in training mode (dropout and all) from a fixed seed."""
    torch.manual_seed(5)
    loaded.causal.zero_grad()
    ids = torch.tensor([prompts()[1]])
    loaded.causal(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in loaded.parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gradient_in_4_bits_is_the_same_bit_for_bit_after_generating(tmp_path: Path, checkpointing: bool):
    loaded = tiny_loaded(save_tiny(tmp_path, "qwen2"), quantization="nf4", dtype="bfloat16")
    table = spec.parse("[lora]\nr = 4\ndropout = 0.1\n").lora
    lora.attach(loaded, table, "tiny", None, seed=1)
    with torch.no_grad():
        for name, parameter in loaded.parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    if checkpointing:
        loaded.causal.gradient_checkpointing_enable({"use_reentrant": False})
        loaded.causal.enable_input_require_grads()
    frozen = next(m for m in loaded.causal.modules() if "Dropout" in type(m).__name__)
    frozen.eval()  # one module out of step: it must be left so
    modes = [m.training for m in loaded.causal.modules()]
    before, weights = gradients(loaded), [p.detach().clone() for p in loaded.causal.parameters()]
    random_state = torch.get_rng_state()

    answers = complete(loaded, prompts(), Settings(8, temperature=1.0))
    with loaded.using(None):
        assert complete(loaded, prompts(), Settings(8, temperature=1.0)) != answers

    assert torch.equal(torch.get_rng_state(), random_state)
    assert [m.training for m in loaded.causal.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(weights, loaded.causal.parameters(), strict=True))
    after = gradients(loaded)
    assert before.keys() == after.keys() and len(before) == 2 * 2 * 7
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(bool(g.any()) for g in before.values())


def test_an_interrupted_generation_leaves_the_model_as_it_was(load: Callable[..., Loaded]):
    loaded = load("llama", quantization="nf4", dtype="bfloat16")

    def stop(row: int, token: int) -> None:
        raise KeyboardInterrupt

    loaded.causal.train()
    with pytest.raises(KeyboardInterrupt):
        complete(loaded, prompts(), Settings(5), on_token=stop)
    assert all(m.training for m in loaded.causal.modules())
    assert not any("forward" in vars(m) for m in loaded.causal.modules() if isinstance(m, torch.nn.Linear))
    loaded.causal.eval()


def adapter(folder: Path, scale: float) -> Path:
    """A PEFT adapter whose B matrices are random times `scale`."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(int(scale * 100))
    made = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=1.0).mul_(scale)
    made.save_pretrained(str(folder))
    return folder


def test_compared_models_prove_whose_answers_they_are(tmp_path: Path):
    loaded = tiny_loaded(save_tiny(tmp_path / "base", "llama"))
    alone = complete(loaded, [prompts()[1]], Settings(10))[0]
    before = next_logits(loaded, prompts()[1])
    for name, scale in (("idle", 0.0), ("busy", 0.3)):
        loaded.load_adapter(name, adapter(tmp_path / name, scale))
    streamed: dict[int, list[int]] = {0: [], 1: [], 2: []}
    digests = {"idle": "aaaa", "busy": "bbbb"}
    first, busy, idle = compare(
        loaded, [None, "busy", "idle"], prompts()[1], Settings(10), digests, lambda i, t: streamed[i].append(t)
    )
    assert (first.model, first.answer, first.digest, first.changed, first.kl) == (None, alone, "", False, 0.0)
    assert (idle.answer, idle.digest, idle.changed) == (alone, "aaaa", False)
    assert (idle.largest_logit_difference, idle.kl) == (0.0, 0.0)
    assert busy.changed and busy.answer != alone and busy.digest == "bbbb"
    with loaded.using("busy"):
        assert busy.answer == complete(loaded, [prompts()[1]], Settings(10))[0]
        logits = next_logits(loaded, prompts()[1])
    assert busy.largest_logit_difference == pytest.approx(float((logits - before).abs().max()), rel=1e-6)
    assert busy.kl == pytest.approx(divergence(logits, before)) and busy.kl > 0
    assert [tuple(ids) for ids in streamed.values()] == [first.answer.ids, busy.answer.ids, idle.answer.ids]
    with pytest.raises(KeyError):
        compare(loaded, ["busy"], prompts()[1], Settings(10), {})


def test_divergence_is_torchs_kl():
    p, q = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).unbind()
    wanted = torch.nn.functional.kl_div(
        torch.log_softmax(q, 0), torch.log_softmax(p, 0), log_target=True, reduction="sum"
    )
    assert divergence(p, q) == pytest.approx(float(wanted), rel=1e-5)
    assert divergence(p, p) == 0.0


def test_settings_collect_every_stop(load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch):
    loaded = load("llama")
    end, eos = SPECIAL.index("<|im_end|>"), SPECIAL.index("<|eos|>")
    table = GenerateTable(max_new_tokens=9, temperature=0.5, top_p=0.9, top_k=3, seed=4, stop=["\nQ:", "<|im_start|>"])
    made = settings_from(table, loaded, "<|im_end|>")
    assert made == Settings(9, 0.5, 0.9, 3, 4, frozenset({eos, end, SPECIAL.index("<|im_start|>")}), ("\nQ:",))
    monkeypatch.setattr(loaded.causal.generation_config, "eos_token_id", [eos, 77])
    plain = settings_from(GenerateTable(), loaded, "")
    assert plain.stop_ids == {eos, 77} and plain.stop_texts == ()
    assert settings_from(GenerateTable(), loaded, "</answer>").stop_texts == ("</answer>",)
