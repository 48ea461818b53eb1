"""Merges that must be refused, or that are interrupted: what is said, and that nothing half-made is left behind."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import adapters, files, safetensors_io
from engine.errors import InputError, WorkFailed
from engine.merging.merge import merge
from engine.safetensors_io import SINGLE
from tests.engine.merging import assert_same_function, rewrite, train_adapter


@pytest.fixture(scope="module")
def q_adapter(base_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_adapter(base_of("llama"), tmp_path_factory.mktemp("q") / "adapter", target_modules=["q_proj"])


@pytest.fixture
def plain(base_of: Callable[..., Path], q_adapter: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An untied Llama, and LoRA on its q_proj in a folder of this test's own."""
    return base_of("llama"), Path(shutil.copytree(q_adapter, tmp_path / "adapter"))


Q = f"{adapters.PREFIX}model.layers.0.self_attn.q_proj.lora_"
REFUSED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no B": (lambda t: t.pop(Q + "B.weight"), r"q_proj \(linear\): lora_B.weight is missing"),
    "no A": (lambda t: t.pop(Q + "A.weight"), r"q_proj \(linear\): lora_A.weight is missing"),
    "prefix": (lambda t: t.update({"q.lora_A.weight": t.pop(Q + "A.weight")}), "tensor q.lora_A.weight: its name"),
    "module": (
        lambda t: t.update({Q.replace(".0.", ".7.") + "A.weight": torch.ones(4, 64)}),
        "layers.7.*not in the base",
    ),
    "norm": (
        lambda t: t.update({f"{adapters.PREFIX}model.norm.lora_A.weight": torch.ones(4, 64)}),
        "tensor .*model.norm.lora_A.weight: module model.norm is not a linear layer",
    ),
    "magnitude": (lambda t: t.update({Q + "magnitude_vector": torch.ones(64)}), "magnitude_vector does not belong"),
    "bias": (lambda t: t.update({Q + "B.bias": torch.ones(64)}), "lora_B.bias does not belong"),
    "rank": (
        lambda t: t.update({Q + "A.weight": torch.ones(5, 64)}),
        r"q_proj.lora_A.weight is \[5, 64\] where \[4, 64\]",
    ),
    "width": (lambda t: t.update({Q + "B.weight": torch.ones(63, 4)}), r"\[63, 4\] where \[64, 4\] is needed"),
    "unknown": (lambda t: t.update({Q + "mystery": torch.ones(3)}), "tensor .*lora_mystery: the base has no"),
    "adapter name": (
        lambda t: t.update({Q + "A.default.weight": t.pop(Q + "A.weight")}),
        "tensor .*lora_A.default.weight: the base has no",
    ),
    "vocabulary": (
        lambda t: t.update({f"{adapters.PREFIX}model.embed_tokens.weight": torch.ones(401, 64)}),
        r"embed_tokens.weight is \[401, 64\] where \[400, 64\]",
    ),
    "twice": (
        lambda t: t.update({f"{adapters.PREFIX}lm_head{x}.weight": torch.ones(400, 64) for x in ("", ".base_layer")}),
        "lm_head.weight.* are both lm_head.weight",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_tensor_without_a_use_is_refused_by_name(plain, tmp_path: Path, what: str) -> None:
    base, adapter = plain
    change, complaint = REFUSED[what]
    rewrite(adapter, change)
    with pytest.raises(InputError, match=complaint):
        merge(base, adapter, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"init_lora_weights": "pissa"}, "pissa initialisation"),
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "magnitude_vector is missing"),
        ({"lora_bias": True}, "lora_B.bias is missing|lora_bias"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
    ],
)
def test_a_config_that_cannot_be_merged(plain, tmp_path: Path, config: dict[str, Any], complaint: str) -> None:
    base, adapter = plain
    file = adapter / adapters.CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    with pytest.raises(InputError, match=complaint):
        merge(base, adapter, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_dora_on_conv1d_and_bias_without_a_bias(base_of, tmp_path: Path) -> None:
    for name, family, config, complaint in (
        ("dora", "gpt2", {"target_modules": ["c_attn"], "use_dora": True}, "DoRA on conv1d"),
        ("bias", "llama", {"target_modules": ["q_proj"], "lora_bias": True}, "the base has no .*q_proj.bias"),
    ):
        adapter = train_adapter(base_of(family), tmp_path / name, **config)
        with pytest.raises(InputError, match=complaint):
            merge(base_of(family), adapter, tmp_path / "out")


def test_fused_experts_are_refused_and_their_bytes_kept(tmp_path: Path) -> None:
    """Mixtral stores one tensor an expert and loads them fused; attention can be merged, experts cannot."""
    from transformers import MixtralConfig, MixtralForCausalLM

    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=64, num_key_value_heads=2, num_local_experts=2, **shape)
    base = tmp_path / "base"
    MixtralForCausalLM(config).save_pretrained(base)
    stored = load_file(base / SINGLE)
    assert any("experts.1.w2" in name for name in stored)
    adapter = train_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    report = merge(base, adapter, tmp_path / "out")
    assert_same_function(base, adapter, tmp_path / "out")
    merged = load_file(tmp_path / "out" / SINGLE)
    assert report.merged == sum(not torch.equal(merged[name], stored[name]) for name in stored) == 1
    fused = f"{adapters.PREFIX}model.layers.0.mlp.experts.down_proj"
    rewrite(adapter, lambda t: t.update({fused: torch.zeros(2, 64, 64)}))
    with pytest.raises(InputError, match=r"experts.down_proj: the base's files do not hold .* as one tensor"):
        merge(base, adapter, tmp_path / "out", replace=True)


def test_where_the_result_may_go(plain, tmp_path: Path) -> None:
    base, adapter = plain
    for wrong in (base, adapter, tmp_path):
        with pytest.raises(InputError, match="would replace what it is made from"):
            merge(base, adapter, wrong, replace=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a model's folder"):
        merge(base, adapter, tmp_path / "mine", replace=True)
    first = merge(base, adapter, tmp_path / "out")
    with pytest.raises(InputError, match="already exists"):
        merge(base, adapter, tmp_path / "out")
    rewrite(adapter, lambda t: [v.mul_(2) for v in t.values()])
    second = merge(base, adapter, tmp_path / "out", replace=True)
    assert first.sha256 != second.sha256 == {SINGLE: files.sha256(tmp_path / "out" / SINGLE)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "mine", "out"]


def test_bases_that_cannot_be_merged_into(plain, tmp_path: Path) -> None:
    good, adapter = plain
    base = tmp_path / "base"
    base.mkdir()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        merge(base, adapter, tmp_path / "out")
    config = json.loads((good / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config))
    (base / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="pickles"):
        merge(base, adapter, tmp_path / "out")
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match="quantized"):
        merge(base, adapter, tmp_path / "out")
    (base / "config.json").write_text(json.dumps({**config, "model_type": "no_such_model"}))
    save_file(load_file(good / SINGLE), base / SINGLE)
    with pytest.raises(InputError, match="cannot build"):
        merge(base, adapter, tmp_path / "out")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_result_that_is_not_finite_is_not_kept(plain, tmp_path: Path, value: float) -> None:
    base, adapter = plain
    rewrite(adapter, lambda t: t[Q + "B.weight"].fill_(value))
    with pytest.raises(WorkFailed, match=r"layers\.0\.self_attn\.q_proj\.weight would hold NaN or infinity"):
        merge(base, adapter, tmp_path / "out", dtype="float16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_a_disk_that_fills_up(plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = plain
    put, room = safetensors_io.ShardWriter._put, [100_000]

    def fills_up(self: safetensors_io.ShardWriter, data: Any) -> None:
        room[0] -= memoryview(data).nbytes
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors_io.ShardWriter, "_put", fills_up)
        with pytest.raises(WorkFailed, match="No space left") as caught:
            merge(base, adapter, tmp_path / "out", max_shard_bytes=60_000)
    assert "free some space" in str(caught.value.remedy)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    merge(base, adapter, tmp_path / "out")
    assert_same_function(base, adapter, tmp_path / "out")


def test_space_is_looked_at_first(plain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = plain
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(WorkFailed, match="not enough disk space"):
        merge(base, adapter, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
