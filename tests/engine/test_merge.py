"""Merging against PEFT, against float64 and against bitsandbytes, and what is written and said beside the weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine import adapters, files
from engine.events import Event, Note, Stage
from engine.merging import deltas, plan, stream
from engine.merging.merge import NOTHING, merge
from engine.merging.plan import plan_outputs
from engine.merging.stream import MergeStream
from engine.models.layout import Layout
from engine.models.nf4 import FourBit
from engine.safetensors_io import INDEX, SINGLE, Checkpoint, Entry
from tests.engine import tiny
from tests.engine.merging import assert_same_function, rewrite, train_adapter

EMBEDDING = {"gpt2": "wte", "gpt_neox": "embed_in"}
ATTENTION = {"gpt2": "c_attn", "gpt_neox": "query_key_value", "phi3": "qkv_proj"}
HEAD = {"gpt_neox": "embed_out"}


@pytest.fixture
def plain(base_of: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """An untied Llama, and LoRA on its q_proj."""
    return base_of("llama"), train_adapter(base_of("llama"), tmp_path / "adapter", target_modules=["q_proj"])


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f in ("llama", "gpt2") else pytest.mark.slow) for f in tiny.FAMILIES]
)
def test_all_linear_layers_of_every_family(base_of, tmp_path: Path, family: str) -> None:
    base = base_of(family)
    adapter = train_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    report = merge(base, adapter, tmp_path / "out")
    assert_same_function(base, adapter, tmp_path / "out")
    assert report.merged == report.changed == adapters.inspect(adapter).modules
    assert report.rounded == 0
    assert not report.untied
    assert report.sha256 == {SINGLE: files.sha256(tmp_path / "out" / SINGLE)}
    assert json.loads((base / "config.json").read_text()) == json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize(
    ("family", "targets", "saved", "tying", "untied"),
    [
        ("llama", ["embedding", "attention", "head"], None, False, False),
        ("llama", ["attention"], ["embedding", "head"], False, False),
        ("qwen2", ["embedding", "attention"], None, False, True),
        ("qwen2", ["attention", "head"], None, False, True),
        ("qwen2", ["embedding", "head"], None, False, True),
        ("qwen2", ["attention"], ["embedding"], False, True),
        ("qwen2", ["attention"], ["head"], False, True),
        ("qwen2", ["embedding", "attention"], None, True, False),
        ("qwen2", ["attention"], ["embedding"], True, False),
        ("gpt2", ["embedding", "attention"], None, False, True),
        ("gpt2", ["attention"], ["head"], False, True),
        ("gemma2", ["embedding", "attention"], None, False, True),
    ],
)
def test_head_and_embedding(
    base_of, tmp_path: Path, family: str, targets: list[str], saved: list[str] | None, tying: bool, untied: bool
) -> None:
    """LoRA on them, or stored in full; tied ones are parted only when the adapter makes them differ."""
    real = {"embedding": EMBEDDING.get(family, "embed_tokens"), "head": HEAD.get(family, "lm_head")}
    real["attention"] = ATTENTION.get(family, "q_proj")
    base, names = base_of(family), [real[t] for t in targets]
    modules_to_save = [real[s] for s in saved] if saved else None
    adapter = train_adapter(
        base, tmp_path / "a", target_modules=names, modules_to_save=modules_to_save, ensure_weight_tying=tying
    )
    report = merge(base, adapter, tmp_path / "out")
    assert_same_function(base, adapter, tmp_path / "out")
    assert report.untied == untied
    was = json.loads((base / "config.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == ({**was, "tie_word_embeddings": False} if untied else was)
    assert len(load_file(tmp_path / "out" / SINGLE)) == len(load_file(base / SINGLE)) + untied


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"target_modules": "all-linear", "use_dora": True}),
        ("qwen2", {"target_modules": ["q_proj", "v_proj"], "lora_bias": True, "lora_alpha": 32}),
        ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
        (
            "llama",
            {
                "target_modules": "all-linear",
                "use_rslora": True,
                "rank_pattern": {r"layers.0.*.q_proj": 8, "^model.layers.1.mlp.up_proj": 2},
                "alpha_pattern": {"k_proj": 1, "down_proj|up_proj": 2},
            },
        ),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["layers.0.mlp", "norm"]}),
    ],
)
def test_variants(base_of, tmp_path: Path, family: str, config: dict[str, Any]) -> None:
    base = base_of(family)
    adapter = train_adapter(base, tmp_path / "adapter", **config)
    merge(base, adapter, tmp_path / "out")
    assert_same_function(base, adapter, tmp_path / "out")


def test_a_gpt2_file_without_the_models_prefix(base_of, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_bytes((base_of("gpt2") / "config.json").read_bytes())
    stored = {k.removeprefix("transformer."): v for k, v in load_file(base_of("gpt2") / SINGLE).items()}
    save_file(stored, base / SINGLE, metadata={"format": "pt"})
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["c_attn", "c_proj", "wte"])
    merge(base, adapter, tmp_path / "out")
    assert load_file(tmp_path / "out" / SINGLE).keys() == stored.keys() | {"lm_head.weight"}
    assert_same_function(base, adapter, tmp_path / "out")


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_base_whose_file_holds_both(base_of, tmp_path: Path, equal: bool) -> None:
    """Old files hold head and embedding twice. transformers ties them if they are equal and does not if they differ."""
    base = Path(shutil.copytree(base_of("qwen2"), tmp_path / "base"))
    stored = load_file(base / SINGLE)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"] * (1.0 if equal else 0.5)
    save_file(stored, base / SINGLE, metadata={"format": "pt"})
    for name, target in (("adapter", "q_proj"), ("head", "lm_head")):
        adapter = train_adapter(base, tmp_path / name, target_modules=[target])
        report = merge(base, adapter, tmp_path / f"{name}-out")
        assert_same_function(base, adapter, tmp_path / f"{name}-out")
        assert report.untied == (equal and target == "lm_head")
        assert report.tensors == len(stored)


def test_shards_in_and_out(base_of, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(base_of("llama")).save_pretrained(base, max_shard_size="150KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    adapter = train_adapter(base, tmp_path / "adapter", target_modules="all-linear")
    one = merge(base, adapter, tmp_path / "one")
    many = merge(base, adapter, tmp_path / "many", max_shard_bytes=60_000)
    assert_same_function(base, adapter, tmp_path / "many")
    index = json.loads((tmp_path / "many" / INDEX).read_text())
    tensors = {}
    for file, digest in many.sha256.items():
        assert digest == files.sha256(tmp_path / "many" / file)
        shard = load_file(tmp_path / "many" / file)
        assert all(index["weight_map"][name] == file for name in shard)
        assert len(shard) == 1 or sum(t.nbytes for t in shard.values()) <= 60_000
        tensors |= shard
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values()) == many.bytes == one.bytes
    whole = load_file(tmp_path / "one" / SINGLE)
    assert whole.keys() == tensors.keys() == index["weight_map"].keys()
    assert all(torch.equal(whole[name], tensors[name]) for name in whole)


# Exactness: every element is the float64 result, rounded once.


def place(folder: Path, kind: str, weight: torch.Tensor, factors: dict[str, torch.Tensor], config: dict) -> Any:
    """The plan and stream of one weight `w.weight`, without a model around it."""
    save_file({"w.weight": weight}, folder / SINGLE)
    save_file({f"{adapters.PREFIX}w.lora_{part}": t for part, t in factors.items()}, folder / adapters.WEIGHTS)
    layout = Layout({"w": kind}, {"w.weight": tuple(weight.shape)}, {"w.weight": "w.weight"}, (), frozenset())  # type: ignore[dict-item]
    base, adapter = Checkpoint([folder / SINGLE]), Checkpoint([folder / adapters.WEIGHTS])
    changes = deltas.plan(config, adapter.entries, layout, "here")
    outputs, _ = plan_outputs(base, adapter, layout, changes, "auto")
    return MergeStream(base, adapter, None, lambda event: None, outputs[0].planned.size), outputs


def steps_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How many representable numbers apart (0: the same bits, apart from the sign of zero)."""
    bits = {2: torch.int16, 4: torch.int32}[a.element_size()]

    def order(x: torch.Tensor) -> torch.Tensor:
        i = x.view(bits).long()
        return torch.where(i < 0, -(i + 2 ** (8 * x.element_size() - 1)), i)

    return (order(a) - order(b)).abs()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["linear", "conv1d", "embedding"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    adapter_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    r=st.integers(1, 24),
    alpha=st.integers(1, 64),
    rslora=st.booleans(),
    own_rank=st.booleans(),
    own_alpha=st.booleans(),
    dora=st.booleans(),
    block=st.integers(1, 500),
    seed=st.integers(0, 2**31),
)
def test_every_element_is_the_float64_result_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype, adapter_dtype: torch.dtype,
    rows: int, columns: int, r: int, alpha: int, rslora: bool, own_rank: bool, own_alpha: bool, dora: bool,
    block: int, seed: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(stream, "BLOCK", block)
    torch.manual_seed(seed)
    weight = torch.randn(rows, columns).to(dtype)
    out, into = (rows, columns) if kind == "linear" else (columns, rows)
    a, b = torch.randn(r, into).to(adapter_dtype), (torch.randn(out, r) / 8).to(adapter_dtype)
    factors = {"embedding_A": a, "embedding_B": b} if kind == "embedding" else {"A.weight": a, "B.weight": b}
    config: dict[str, Any] = {"r": r, "lora_alpha": alpha, "use_rslora": rslora}
    if own_rank:
        config |= {"r": r + 1, "rank_pattern": {"w": r}}
    if own_alpha:
        config |= {"lora_alpha": alpha + 1, "alpha_pattern": {"w": alpha}}
    update = (alpha / math.sqrt(r) if rslora else alpha / r) * (b.double() @ a.double())
    exact = weight.double() + (update if kind == "linear" else update.T)
    if dora and kind == "linear":
        config["use_dora"] = True
        factors["magnitude_vector"] = torch.rand(out) + 0.5
        exact = exact / exact.norm(dim=1, keepdim=True) * factors["magnitude_vector"].double()[:, None]

    writer, outputs = place(tmp_path, kind, weight, factors, config)
    (tmp_path / "out").mkdir(exist_ok=True)
    writer.write(outputs, tmp_path / "out", 10**9)
    merged = load_file(tmp_path / "out" / SINGLE)["w.weight"]
    assert merged.dtype == dtype
    assert int(steps_between(merged, exact.to(dtype)).max()) <= 1
    expected = float((exact - weight.double()).norm() / weight.double().norm())
    assert writer.largest[0] == pytest.approx(expected, rel=1e-9)


def test_nothing_larger_than_a_block_is_read_at_once(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peak memory is a few blocks, whatever the model's size: changed, cast and copied tensors alike."""
    base, adapter = plain
    largest = [0]
    read = Checkpoint.read_into

    def counted(self: Checkpoint, entry: Entry, offset: int, buffer: bytearray | memoryview) -> None:
        if entry.file.name == SINGLE:
            largest[0] = max(largest[0], len(buffer))
        read(self, entry, offset, buffer)

    monkeypatch.setattr(Checkpoint, "read_into", counted)
    monkeypatch.setattr(stream, "BLOCK", 256)
    monkeypatch.setattr(plan, "CHUNK", 1024)
    merge(base, adapter, tmp_path / "out")
    merge(base, adapter, tmp_path / "half", dtype="bfloat16")
    assert largest == [1024]


# Through four bits.


@pytest.mark.parametrize(
    ("family", "code", "double", "dtype"),
    [
        ("llama", "nf4", True, "bfloat16"),
        ("llama", "fp4", False, "float32"),
        ("gpt2", "nf4", True, "bfloat16"),
        pytest.param("qwen2", "nf4", False, "float16", marks=pytest.mark.slow),
    ],
)
def test_the_rounded_base_is_bit_for_bit_what_a_fresh_4_bit_model_holds(
    base_of, tmp_path: Path, family: str, code: Any, double: bool, dtype: Any
) -> None:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = base_of(family)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=code, bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        base, quantization_config=quantization, dtype=getattr(torch, dtype), device_map={"": "cpu"}
    )
    held = {
        f"{name}.weight": dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=[ATTENTION.get(family, "q_proj")])
    zero = {k: v * ("lora_A" in k) for k, v in load_file(adapter / adapters.WEIGHTS).items()}
    save_file(zero, adapter / adapters.WEIGHTS)
    report = merge(base, adapter, tmp_path / "out", base_weights="nf4", four_bit=FourBit(code, double, dtype))
    assert report.rounded == len(held) > 0
    assert report.changed == 0  # the update is zero: only the rounding shows
    before, after = load_file(base / SINGLE), load_file(tmp_path / "out" / SINGLE)
    for name, value in after.items():
        expected = before[name]
        if name in held:
            expected = (held[name].T if family == "gpt2" else held[name]).to(value.dtype)
            assert not torch.equal(expected, before[name])
        assert torch.equal(value, expected), name


def test_an_update_on_the_rounded_base(plain, tmp_path: Path) -> None:
    base, adapter = plain
    kept = FourBit(dtype="float32", skip_modules=("lm_head", "model.layers.1"))
    merge(base, adapter, tmp_path / "out", base_weights="nf4", four_bit=kept)
    before, after = load_file(base / SINGLE), load_file(tmp_path / "out" / SINGLE)
    factors = load_file(adapter / adapters.WEIGHTS)
    for layer in (0, 1):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = (factors[f"{adapters.PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        off = (after[f"{name}.weight"] - before[f"{name}.weight"] - 2 * b @ a).norm() / before[f"{name}.weight"].norm()
        assert (0.05 < off < 0.15) if layer == 0 else off < 1e-6  # NF4 moves a weight by about a tenth


# What it writes beside the weights, and what it says.


def test_companions_and_dtype(plain, tmp_path: Path) -> None:
    base, adapter = plain
    merge(base, adapter, tmp_path / "whole")
    assert (tmp_path / "whole/tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (tmp_path / "whole/chat_template.jinja").exists()
    assert (tmp_path / "whole/generation_config.json").exists()
    assert not list((tmp_path / "whole").glob("adapter*"))
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(adapter)
    (adapter / "chat_template.jinja").unlink()
    merge(base, adapter, tmp_path / "half", dtype="bfloat16")
    assert (tmp_path / "half/tokenizer.json").read_bytes() == (adapter / "tokenizer.json").read_bytes()
    assert not (tmp_path / "half/chat_template.jinja").exists()  # the adapter's tokenizer whole, not a mixture
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    whole, half = (load_file(tmp_path / name / SINGLE) for name in ("whole", "half"))
    assert all(torch.equal(half[name], whole[name].to(torch.bfloat16)) for name in whole)


def test_progress_and_the_note_of_an_adapter_that_does_nothing(plain, tmp_path: Path) -> None:
    base, adapter = plain
    rewrite(adapter, lambda t: [v.zero_() for k, v in t.items() if "lora_B" in k])
    events: list[Event] = []
    report = merge(base, adapter, tmp_path / "out", emit=events.append)
    stages = [e for e in events if isinstance(e, Stage)]
    assert {(e.name, e.unit, e.total) for e in stages} == {("merge", "bytes", report.bytes)}
    assert [e.done for e in stages] == sorted(e.done for e in stages)
    assert stages[-1].done == report.bytes
    assert len(stages) <= 2 + 10 * report.seconds
    assert [(e.text, e.level) for e in events if isinstance(e, Note)] == [(NOTHING, "warning")]
    assert NOTHING in report.notes
    assert (report.changed, report.largest_change) == (0, 0.0)
    assert report.sha256 == {SINGLE: files.sha256(tmp_path / "out" / SINGLE)}
    same, merged = load_file(base / SINGLE), load_file(tmp_path / "out" / SINGLE)
    assert all(torch.equal(same[name], merged[name]) for name in same)
