"""Shapes from headers and configs, and the estimate of memory, against what PEFT, bitsandbytes and torch really hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import architecture, estimate, spec
from engine.architecture import Matrix, adapter_parameters
from engine.errors import InputError
from engine.store import Workspace
from engine.tables import Project
from tests.engine import tiny

BaseOf = Callable[..., Path]
FUSED = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "phi3": "qkv_proj"}


def project(**tables: Any) -> Project:
    return spec.parse(tomlkit.dumps(tables))


# --- shapes


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize(
    "lora",
    [
        {"r": 8},
        {"r": 4, "target_modules": "attention"},
        {"r": 8, "dora": True},
        {"r": 8, "rank_pattern": {"layers.0..*|h.0..*": 3}},
    ],
    ids=["all-linear", "named", "dora", "pattern"],
)
def test_adapters_have_as_many_parameters_as_peft_makes(base_of: BaseOf, family: str, lora: dict[str, Any]) -> None:
    from peft import get_peft_model

    from engine.training.lora import peft_config

    if lora.get("target_modules") == "attention":
        lora = {**lora, "target_modules": [FUSED[family]] if family in FUSED else ["q_proj", "v_proj"]}
    table = project(lora=lora).lora
    real = get_peft_model(tiny.tiny_model(family), peft_config(table, "base", None))
    count = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert adapter_parameters(architecture.read(base_of(family)), table) == count


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_parameters_are_counted_once(base_of: BaseOf, family: str) -> None:
    base = architecture.read(base_of(family))
    assert base.parameters == sum(p.numel() for p in tiny.tiny_model(family).parameters())
    assert base.layers == 2
    assert base.width == 64
    assert base.vocabulary == tiny.VOCABULARY
    assert not base.from_config
    assert {m.role for m in base.layer()} == {"attention in", "attention out", "mlp in", "mlp out"}


def test_modules_saved_in_full_are_counted_as_peft_does(base_of: BaseOf) -> None:
    from peft import get_peft_model

    from engine.training.lora import peft_config

    table = project(lora={"r": 8, "modules_to_save": ["embed_tokens"]}).lora
    real = get_peft_model(tiny.tiny_model("llama"), peft_config(table, "base", None))
    count = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert adapter_parameters(architecture.read(base_of("llama")), table) == count


@pytest.mark.parametrize("family", sorted(architecture.WRITTEN_OUT & set(tiny.FAMILIES)))
def test_shapes_from_the_config_are_those_of_the_headers(base_of: BaseOf, tmp_path: Path, family: str) -> None:
    real = architecture.read(base_of(family))
    (tmp_path / "config.json").write_bytes((base_of(family) / "config.json").read_bytes())
    found = architecture.read(tmp_path)
    assert found.from_config
    assert sorted(found.matrices, key=lambda m: m.name) == sorted(real.matrices, key=lambda m: m.name)
    assert (found.others, sorted(found.norms), found.tied) == (real.others, sorted(real.norms), real.tied)


def test_a_config_of_another_kind_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "falcon"}))
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        architecture.read(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    with pytest.raises(InputError, match="not known"):
        architecture.read(tmp_path)


def test_a_hub_model_is_found_in_the_cache_and_only_there(
    base_of: BaseOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    workspace, table = Workspace(tmp_path), project(model={"base": "someone/model"}).model
    with pytest.raises(InputError, match="not on this machine"):
        architecture.find(table, workspace)
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((base_of("qwen3") / "config.json").read_bytes())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc\n")
    assert architecture.find(table, workspace) == snapshot
    found = estimate.of_project(project(model={"base": "someone/model"}), workspace, "cuda")
    assert any("config" in words for words in found.unknown)
    assert architecture.in_cache("someone/model", "abc") == snapshot
    assert architecture.in_cache("someone/model", "v2") is None
    assert architecture.in_cache("../../etc") is None
    assert architecture.in_cache("a/b/c") is None


# --- the base, as bitsandbytes holds it


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "phi3"])
@pytest.mark.parametrize(
    ("quantization", "double"), [("none", False), ("nf4", False), ("nf4", True), ("fp4", True), ("int8", False)]
)
def test_the_base_takes_what_it_really_takes(base_of: BaseOf, family: str, quantization: str, double: bool) -> None:
    loaded = tiny.tiny_loaded(base_of(family), quantization=quantization, double_quantization=double)
    table = project(model={"quantization": quantization, "double_quantization": double})
    assert estimate.base_bytes(architecture.read(base_of(family)), table, 4) == held(loaded.causal)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_layers_are_divided_among_the_processes_and_nothing_else_is(base_of: BaseOf, quantization: str) -> None:
    base = architecture.read(base_of("llama"))
    whole, parts = (
        estimate.of_base(base, project(model={"quantization": quantization}, launch=launch), "cpu", 200, 60)
        for launch in ({"processes": 4}, {"processes": 2, "machines": 2, "strategy": "fsdp"})
    )
    weights = sum(m.elements for m in base.linear) * (
        0.5 if quantization == "nf4" else estimate.element_bytes("auto", "cpu")
    )
    assert whole.of("base") - parts.of("base") == weights * 3 / 4
    assert parts.of("gathered layers") == 3 * weights / base.layers and whole.of("gathered layers") == 0
    assert "layers divided by 4" in next(p.how for p in parts.parts if p.name == "base")


def held(model: Any) -> int:
    """Bytes of the parameters and of their scales, without the tables of the codes, which all layers share."""
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
            total += sum(t.numel() * t.element_size() for t in scales)
    states = [m.state for m in model.modules() if type(m).__name__ == "Linear8bitLt"]
    return total + sum(s.SCB.numel() * s.SCB.element_size() for s in states)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(["nf4", "fp4", "int8", "none"]), st.booleans())
@settings(max_examples=60)
def test_fewer_bits_take_fewer_bytes(inputs: int, outputs: int, kind: str, double: bool) -> None:
    matrix = Matrix("layers.0.mlp.up_proj", inputs, outputs, "mlp in", 0)
    count = estimate.matrix_bytes(matrix, kind, double, 2)
    bits = {"none": 16, "int8": 8}.get(kind, 4)
    assert math.ceil(matrix.elements * bits / 8) <= count
    head = Matrix("lm_head", inputs, outputs, "head", None)
    assert estimate.matrix_bytes(head, kind, double, 2) == 2 * head.elements
    if inputs * outputs > 10_000 and inputs > 64:
        assert count <= 2.1 * matrix.elements


# --- what comes and goes


def parts_of(base: Path, **tables: Any) -> dict[str, int]:
    found = estimate.of_base(architecture.read(base), project(**tables), "cpu", step_tokens=200, longest=60)
    return {p.name: p.bytes for p in found.parts}


def test_gradients_and_moments_are_those_of_torch(base_of: BaseOf) -> None:
    import torch

    from engine.training import lora, optimizer

    table = project(lora={"r": 8}, model={"quantization": "none"})
    loaded = tiny.tiny_loaded(base_of("llama"))
    lora.attach(loaded, table.lora, "base", None, 0)
    moments = optimizer.build(loaded, table.train, table.lora)
    for _, p in loaded.parameters():
        p.grad = torch.ones_like(p)
    moments.step()
    found = parts_of(base_of("llama"), lora={"r": 8}, model={"quantization": "none"})
    state = [t for s in moments.state.values() for t in s.values() if t.numel() > 1]
    grads = [p.grad for _, p in loaded.parameters() if p.grad is not None]
    assert found["optimizer"] == sum(t.numel() * 4 for t in state)
    assert found["gradients"] == found["adapter"] == sum(t.numel() * 4 for t in grads)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gpt_neox"])
def test_activations_are_about_what_the_backward_pass_keeps(base_of: BaseOf, family: str, dtype: str) -> None:
    """Within a third; what is measured is every distinct storage that autograd saves in the pass that training makes."""
    import numpy as np
    import torch

    from engine.models.products import Products
    from engine.tokens.examples import Example, collate
    from engine.training import lora

    tables = {"lora": {"r": 8}, "model": {"quantization": "none", "dtype": dtype}, "launch": {"device": "cpu"}}
    table = project(**tables)
    loaded = tiny.tiny_loaded(base_of(family), dtype=dtype)
    lora.attach(loaded, table.lora, "base", None, 0)
    products = Products(loaded, lora.NAME)
    weights = {p.untyped_storage().data_ptr() for p in loaded.causal.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    lengths = [60, 50, 40, 30, 20]
    rows = [Example(np.arange(5, 5 + n, dtype=np.int32), np.ones(n, np.float32), "row") for n in lengths]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), products:
        hidden = loaded.hidden(collate(rows))
    assert hidden.requires_grad
    found = parts_of(base_of(family), **tables)
    assert found["activations"] == pytest.approx(sum(saved.values()), rel=0.34)


def test_what_takes_less_is_estimated_to_take_less(base_of: BaseOf) -> None:
    base = architecture.read(base_of("llama"))

    def total(**tables: Any) -> int:
        return estimate.of_base(base, project(**tables), "cuda").total

    plain = total(lora={"r": 64})
    assert total(lora={"r": 8}) < plain
    assert total(lora={"r": 64}, train={"activation_checkpointing": True}) < plain
    assert total(lora={"r": 64}, train={"micro_batch_tokens": 256}) < plain
    assert total(lora={"r": 64, "target_modules": ["q_proj"]}) < plain
    assert total(lora={"r": 64}, train={"optimizer": "adamw_8bit"}) < plain
    assert total(lora={"r": 64, "dropout": 0.1}) > plain
    assert total(lora={"r": 64}, model={"quantization": "none"}) > plain


def test_the_estimate_says_what_it_assumed(base_of: BaseOf) -> None:
    base = architecture.read(base_of("llama"))
    table = project(train={"micro_batch_tokens": 4096, "examples_per_step": 2, "max_length": 100})
    assumed = estimate.of_base(base, table, "cpu")
    assert (assumed.tokens, len(assumed.unknown)) == (200, 1)
    known = estimate.of_base(base, table, "cpu", step_tokens=50, longest=30)
    assert (known.tokens, known.unknown) == (50, ())
    alone = estimate.of_base(base, project(train={"micro_batch_tokens": 10}), "cpu", step_tokens=500, longest=30)
    assert alone.tokens == 30  # one example that is longer than a micro-batch goes alone
    assert all(part.how for part in known.parts)
    assert known.total == sum(part["bytes"] for part in known.to_json()["parts"]) == known.to_json()["bytes"]


def test_the_starter_project_is_estimated_about_as_measured() -> None:
    """754 MB at the peak of a real run with steps of 1,528 tokens (tests/benchmarks/README.md)."""
    table = project(train={"steps": 2, "max_length": 256}, model={"dtype": "float32"})
    found = estimate.of_project(table, Workspace(Path(".")), "cpu", step_tokens=1528)
    assert found.total == pytest.approx(754e6, rel=0.1)


QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": False, "architectures": ["Qwen3ForCausalLM"],
}  # fmt: skip
LLAMA_1B = QWEN3_8B | {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64,
    "vocab_size": 128256, "tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "quantization", "train", "tokens", "measured"),
    [
        (QWEN3_8B, "nf4", {"activation_checkpointing": True}, 1024, 8.473e9),
        (QWEN3_8B, "nf4", {"activation_checkpointing": True, "optimizer": "adamw_8bit"}, 1024, 8.213e9),
        (QWEN3_8B, "nf4", {}, 1024, 13.11e9),
        (QWEN3_8B, "nf4", {}, 4096, 28.42e9),
        (LLAMA_1B, "none", {}, 8192, 13.94e9),
    ],
)
def test_the_estimate_on_a_gpu_is_near_what_an_h100_gave_away(
    tmp_path: Path, config: dict[str, Any], quantization: str, train: dict[str, Any], tokens: int, measured: float
) -> None:
    """Runs of tests/benchmarks/gpu on an NVIDIA H100 80 GB."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    base = architecture.read(tmp_path)
    table = project(lora={"r": 16}, model={"quantization": quantization}, train={"micro_batch_tokens": 16384, **train})
    found = estimate.of_base(base, table, "cuda", step_tokens=tokens, longest=1024)
    assert found.total == pytest.approx(measured, rel=0.06)


# --- the verb


def test_check_says_what_a_run_needs(call: Any, base_of: BaseOf) -> None:
    from tests.engine.commandline import document, pairs, write_project, write_rows

    write_rows(Path("data/rows.jsonl"), pairs(20))
    base = base_of("llama")
    write_project("p", f'[model]\nbase = "{base}"\n[data]\ntrain = "data/rows.jsonl"\ntest_fraction = 0.2\n')
    memory = document(call("check", "p", "--json"))["memory"]
    assert memory["bytes"] == sum(p["bytes"] for p in memory["parts"])
    assert memory["available"] > 0
    assert memory["tokens"] < 4096
    code, out, err = call("check", "p")
    assert code == 0
    assert "needs about" in out + err


def test_it_counts_with_the_numbers_that_the_engine_computes_with() -> None:
    from engine.models import causal, loss

    assert (estimate.WHOLE_ATTENTION, estimate.LOGITS_AT_ONCE) == (causal.WHOLE, loss.CHUNK_ELEMENTS)
