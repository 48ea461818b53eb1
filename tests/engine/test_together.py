"""Several adapters in one batch say what each says alone; the base lane is the base without any adapter, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine import spec
from engine.generation.answering import Settings, complete, next_logits
from engine.generation.decoding import inference
from engine.generation.together import Column, Together, compare
from engine.models.lanes import cannot_share, lanes
from engine.models.loaded import Loaded
from engine.training import lora
from tests.engine.tiny import FAMILIES, save_tiny, tiny_loaded, tiny_model

PROMPT = [7, 90, 41, 200, 13, 77, 150, 31, 9, 260]
UNTIED: dict[str, dict[str, Any]] = {
    "gemma2": {"tie_word_embeddings": False}, "gpt2": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False}, "qwen3": {"tie_word_embeddings": False},
}  # fmt: skip


def adapter(folder: Path, family: str, seed: int, **config: Any) -> Path:
    """A PEFT adapter of a tiny model whose matrices are random."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    made = get_peft_model(tiny_model(family, **UNTIED.get(family, {})), LoraConfig(**settings))
    for name, parameter in made.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            parameter.data.normal_(std=0.3)
        elif "lora_magnitude" in name or "modules_to_save" in name:
            parameter.data.mul_(1.3)
    made.save_pretrained(str(folder))
    return folder


def with_adapters(folder: Path, family: str, configs: dict[str, dict[str, Any]], **table: Any) -> Loaded:
    loaded = tiny_loaded(save_tiny(folder / "base", family, **UNTIED.get(family, {})), **table)
    for number, (name, config) in enumerate(configs.items()):
        loaded.load_adapter(name, adapter(folder / name, family, number + 1, **config))
    return loaded


THREE: dict[str, dict[str, Any]] = {"a": {}, "b": {"r": 8, "lora_alpha": 32, "use_rslora": True}, "c": {}}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_column_says_what_its_model_says_alone(tmp_path: Path, family: str, quantization: str) -> None:
    three = {
        n: ({**c, "target_modules": ["q_proj"]} if n == "c" and family == "llama" else c) for n, c in THREE.items()
    }
    loaded = with_adapters(tmp_path, family, three, quantization=quantization, dtype="float32")
    models = [None, "a", "b", "c"]
    found = compare(loaded, models, PROMPT, Settings(12), {n: n for n in three})
    for name, said in zip(models, found, strict=True):
        with loaded.using(name):
            alone = complete(loaded, [PROMPT], Settings(12))[0]
            logits = next_logits(loaded, PROMPT)
        assert said.answer == alone, name
        with loaded.using(None):
            base = next_logits(loaded, PROMPT)
        assert said.largest_logit_difference == pytest.approx(float((logits - base).abs().max()), rel=1e-3, abs=1e-6)
    assert len({s.answer.ids for s in found}) == 4  # the adapters differ, or this shows nothing


def test_logits_of_lanes_are_those_of_each_alone(tmp_path: Path) -> None:
    loaded = with_adapters(tmp_path, "llama", THREE)
    ids = torch.tensor([PROMPT] * 4)
    with inference(loaded), lanes(loaded) as assigned:
        assigned.assign([None, "a", "b", "c"])
        together = loaded.head(loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
    for row, name in enumerate([None, "a", "b", "c"]):
        with loaded.using(name):
            assert torch.allclose(together[row], next_logits(loaded, PROMPT), atol=2e-5, rtol=0), name


def test_sampled_columns_draw_their_own_numbers_and_repeat_with_the_seed(tmp_path: Path) -> None:
    loaded = with_adapters(tmp_path, "llama", THREE)
    how, digests = Settings(12, temperature=1.0, seed=5), {n: n for n in THREE}
    first = compare(loaded, [None, "a"], PROMPT, how, digests)
    assert [f.answer for f in compare(loaded, ["a", None], PROMPT, how, digests)][::-1] == [f.answer for f in first]
    with loaded.using("a"):
        assert first[1].answer == complete(loaded, [PROMPT], how)[0]
    assert compare(loaded, ["a"], PROMPT, Settings(12, temperature=1.0, seed=6), digests)[0].answer != first[1].answer


def test_columns_may_have_different_prompts_and_the_same_model_twice(tmp_path: Path) -> None:
    loaded = with_adapters(tmp_path, "llama", THREE)
    columns = [Column(None, tuple(PROMPT)), Column("a", (5, 6, 7)), Column(None, tuple(PROMPT)), Column("a", tuple(PROMPT)),
               Column(None, (5, 6, 7))]  # fmt: skip
    asked = Together(loaded, columns, Settings(8))
    with inference(loaded), lanes(loaded) as assigned:
        while asked.advance(assigned):
            pass
    for column, said in zip(columns, asked.results({"a": "x"}).values(), strict=True):
        with loaded.using(column.model):
            assert said.answer == complete(loaded, [column.prompt], Settings(8))[0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embedding"),
    ],
)
def test_what_cannot_share_a_batch_goes_alone_and_leaves_the_base_lane_untouched(
    tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    plain = tiny_loaded(save_tiny(tmp_path / "base", "llama"))
    base, base_logits = complete(plain, [PROMPT], Settings(10))[0], next_logits(plain, PROMPT)
    loaded = with_adapters(tmp_path, "llama", {"odd": config, "a": {}})
    assert reason in str(cannot_share(loaded, "odd")) and cannot_share(loaded, "a") is None
    found = compare(loaded, [None, "odd", "a"], PROMPT, Settings(10), {"odd": "o", "a": "a"})
    assert found[0].answer == base and found[0].largest_logit_difference == 0.0
    for name, said in zip(("odd", "a"), found[1:], strict=True):
        with loaded.using(name):
            assert said.answer == complete(loaded, [PROMPT], Settings(10))[0]
        assert said.changed and said.kl > 0
    with loaded.using(None):
        assert torch.equal(next_logits(loaded, PROMPT), base_logits)
    with inference(loaded), lanes(loaded):
        ids = torch.tensor([PROMPT])
        logits = loaded.head(loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
        assert torch.equal(logits[0].float(), base_logits)


def test_an_adapter_in_training_answers_from_its_weights_of_the_moment_and_is_left_as_it_was(tmp_path: Path) -> None:
    loaded = tiny_loaded(save_tiny(tmp_path, "llama"), quantization="nf4", dtype="float32")
    table = spec.parse("[lora]\nr = 4\ndropout = 0.5\n").lora
    lora.attach(loaded, table, "tiny", None, seed=1)
    with torch.no_grad():
        for name, parameter in loaded.parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    modes = [m.training for m in loaded.causal.modules()]
    forwards = [vars(m).get("forward") for m in loaded.causal.modules()]
    trainable = [n for n, _ in loaded.parameters()]
    base, trained = compare(loaded, [None, lora.NAME], PROMPT, Settings(10), {lora.NAME: ""})
    assert trained.changed and trained.answer != base.answer
    assert [m.training for m in loaded.causal.modules()] == modes
    assert [n for n, _ in loaded.parameters()] == trainable
    assert [vars(m).get("forward") for m in loaded.causal.modules()] == forwards
    with torch.no_grad():
        for name, parameter in loaded.parameters():
            if "lora_B" in name:
                parameter.zero_()
    idle = compare(loaded, [lora.NAME], PROMPT, Settings(10), {lora.NAME: ""})[0]
    assert idle.answer == base.answer and not idle.changed and idle.kl == 0.0
