"""The promise of 4 bits on a CPU: nothing done between steps moves the base's weights, nor a gradient by a single bit.

bitsandbytes 0.50 repacks its weights at the first forward in eval mode on CPUs with AVX512-BF16; gradients are then
wrong by orders of magnitude, and dequantizing returns garbage (finding 5).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.evaluation import scoring
from engine.generation.answering import Settings, complete
from engine.merging.merge import merge
from engine.models.loaded import Loaded
from engine.models.nf4 import FourBit, rounded
from engine.tokens.examples import collate
from engine.training import checkpoint, lora
from engine.training.loop import Training
from tests.engine import tiny
from tests.engine.training import examples_of, gradient_of, project_of, shake, training_of


def gradient(training: Training) -> torch.Tensor:
    """Of all rows, as the loop computes it."""
    loaded, batch = training.loaded, collate(training.examples)
    loaded.causal.train()
    loaded.summed(batch).backward()
    return gradient_of(loaded)


def base_bits(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in loaded.causal.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gradient_is_the_same_bits_after_all_that_happens_between_steps(
    load: Callable[..., Loaded], base_of: Callable[..., Path], tmp_path: Path, dtype: str
) -> None:
    """Evaluation, generation, checkpoint, saved adapter and merge, of base and adapter, one after the other."""
    loaded = load("llama", quantization="nf4", dtype=dtype)
    examples = examples_of(6)
    training = training_of(loaded, project_of(steps=1), examples, tmp_path)
    shake(loaded)
    prompts = [e.prompt_ids for e in examples[:3]]
    before, weights = gradient(training), base_bits(loaded)

    def evaluate() -> None:
        for name in (None, lora.NAME):
            with loaded.using(name):
                assert scoring.score(loaded, examples, scope="all", window=0, batch_tokens=1000)

    def generate() -> None:
        for name in (None, lora.NAME):
            with loaded.using(name):
                assert len(complete(loaded, prompts, Settings(5))) == len(prompts)

    def save() -> None:
        checkpoint.save(tmp_path / "checkpoints", loaded, training.optimizer, training.progress, {})
        lora.save_adapter(tmp_path / "adapter", loaded, {}, "card")

    def merge_it() -> None:
        how = FourBit("nf4", True, dtype)  # type: ignore[arg-type]
        merge(base_of("llama"), tmp_path / "adapter", tmp_path / "out", base_weights="nf4", four_bit=how)

    for act in (evaluate, generate, save, merge_it):
        act()
        assert torch.equal(gradient(training), before), act.__name__
    assert bool(before.any())
    assert all(torch.equal(value, weights[name]) for name, value in base_bits(loaded).items())
    assert_live_weights_are_those_of_the_file(loaded, base_of("llama"))


def assert_live_weights_are_those_of_the_file(loaded: Loaded, base: Path) -> None:
    """What the model dequantizes after all this is the file's tensor through NF4 and back."""
    from bitsandbytes.functional import dequantize_4bit
    from safetensors.torch import load_file

    name = "model.layers.0.self_attn.q_proj"
    live: Any = loaded.causal.get_submodule(name).base_layer.weight
    how = FourBit("nf4", True, str(loaded.dtype).removeprefix("torch."))  # type: ignore[arg-type]
    expected = rounded(load_file(base / "model.safetensors")[f"{name}.weight"], how)
    assert torch.equal(dequantize_4bit(live.data, live.quant_state), expected)


@pytest.mark.parametrize(("width", "inner"), [(64, 100), (72, 96), (40, 72)])
def test_widths_that_are_no_multiple_of_64(tmp_path: Path, width: int, inner: int) -> None:
    """bitsandbytes' packed kernel crashes on them in eval mode; here they are measured, asked and trained."""
    base = tiny.save_tiny(tmp_path / "base", "llama", hidden_size=width, intermediate_size=inner)
    loaded = tiny.tiny_loaded(base, quantization="nf4", dtype="bfloat16")
    examples = examples_of(4)
    training = training_of(loaded, project_of(steps=1, examples_per_step=4), examples, tmp_path)
    shake(loaded)
    before = gradient(training)
    scores = scoring.score(loaded, examples, scope="all", window=0, batch_tokens=1000)
    assert all(bool(torch.isfinite(torch.tensor(s.nll))) for s in scores)
    assert len(complete(loaded, [e.prompt_ids for e in examples], Settings(4))) == 4
    assert torch.equal(gradient(training), before)
    assert training.run() == "done"


def test_nothing_but_the_adapter_is_upcast(load: Callable[..., Loaded], tmp_path: Path) -> None:
    """Embeddings and head of a large vocabulary in fp32 would be gigabytes (`prepare_model_for_kbit_training`)."""
    loaded = load("llama", quantization="nf4", dtype="bfloat16")
    training_of(loaded, project_of(steps=1), examples_of(2), tmp_path)
    held = {n: p for n, p in loaded.causal.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in held.values()} == {torch.bfloat16, torch.uint8}
    assert any("embed_tokens" in n for n in held) and any("norm" in n for n in held)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_files_of_a_quantized_base_are_let_go_of(tmp_path: Path, quantization: str) -> None:
    """A mapped page counts for the process, and all of a file's stay while one tensor is a part of it."""
    base = tiny.save_tiny(tmp_path / "base", "llama")
    loaded = tiny.tiny_loaded(base, quantization=quantization, dtype="float32")
    assert str(base) not in Path("/proc/self/maps").read_text()
    head = loaded.causal.get_output_embeddings().weight
    assert (head is loaded.causal.get_input_embeddings().weight) == loaded.causal.config.tie_word_embeddings
