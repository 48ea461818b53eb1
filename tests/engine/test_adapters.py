"""Adapters on disk: what is read from them without torch, and PEFT's rules about ranks and scalings."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import adapters
from engine.errors import InputError

MODULES = [f"model.layers.{i}.{m}" for i in (0, 1, 10) for m in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")]
patterns = st.sampled_from(
    ["q_proj", "k_proj", "proj", "up_proj|q_proj", r".*\.0\..*", "self_attn.q_proj", "^model.layers.1.mlp.up_proj",
     r"layers\.1.*k_proj", r"model\.layers\.\d\.mlp\.up_proj", ".*"]
)  # fmt: skip


def write(folder: Path, modules: list[str] = MODULES[:2], rank: int = 4, dtype: str = "F32", **config: Any) -> Path:
    """An adapter folder with zeros for weights: A (rank, 6), B (5, rank)."""
    width = {"F32": 4, "BF16": 2}[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for module in modules:
        for part, shape in (("A", (rank, 6)), ("B", (5, rank))):
            size = math.prod(shape) * width
            name = f"{adapters.PREFIX}{module}.lora_{part}.weight"
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    (folder / adapters.WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    known = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "base_model_name_or_path": "some/base"}
    (folder / adapters.CONFIG).write_text(json.dumps(known | config))
    return folder


def test_inspect(tmp_path: Path) -> None:
    path = write(
        tmp_path / "ad", modules_to_save=["lm_head"], use_rslora=True, rank_pattern={"k_proj": 2}, dtype="BF16"
    )
    info = adapters.inspect(path)
    assert info.name == "ad"
    assert info.base == "some/base"
    assert info.revision is None
    assert (info.rank, info.alpha, info.scaling) == (4, 8, 4.0)
    assert info.ranks == (2, 4)
    assert (info.targets, info.modules, info.tensors) == (("k_proj", "q_proj"), 2, 4)
    assert info.parameters == 2 * (4 * 6 + 5 * 4)
    assert info.dtype == "BF16"
    assert info.modules_to_save == ("lm_head",)
    assert info.rslora
    assert not info.dora
    assert info.variants == ()
    data = (path / adapters.WEIGHTS).read_bytes()
    assert (info.bytes, info.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert adapters.inspect(path, digest=False).sha256 == ""


def test_no_torch() -> None:
    code = "import sys, engine.adapters; assert not {'torch', 'numpy', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_find_goes_down_and_leaves_out_what_is_being_written(tmp_path: Path) -> None:
    for name in ("runs/0001/adapter", "runs/0002/checkpoints/30", "runs/0003/adapter.part", ".cache/x", "adapter.old"):
        write(tmp_path / name)
    assert [a.path.relative_to(tmp_path).as_posix() for a in adapters.find(tmp_path)] == [
        "runs/0001/adapter",
        "runs/0002/checkpoints/30",
    ]
    (tmp_path / "runs/0001/adapter" / adapters.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(InputError, match="0001"):
        adapters.find(tmp_path)
    broken: list[InputError] = []
    assert len(adapters.find(tmp_path, on_broken=broken.append)) == 1
    assert "0001" in str(broken[0].where)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"peft_type": None}, "only LORA"),
        ({"r": 0}, "at least 1"),
        ({"r": "8"}, "`r` is '8'"),
        ({"r": True}, "`r` is True"),
        ({"lora_alpha": None}, "`lora_alpha` is None"),
        ({"lora_alpha": math.inf}, "`lora_alpha` is inf"),
        ({"rank_pattern": {"q_proj": 0}}, "at least 1"),
        ({"rank_pattern": {"(": 2}}, "not a regular expression"),
        ({"alpha_pattern": [1]}, "`alpha_pattern`"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_with_its_file(tmp_path: Path, change: dict, complaint: str) -> None:
    path = write(tmp_path / "ad", **change)
    with pytest.raises(InputError, match=re.escape(complaint)) as caught:
        adapters.inspect(path)
    assert caught.value.where == str(path / adapters.CONFIG)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    path = write(tmp_path / "ad")
    weights = path / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short"):
        adapters.inspect(path)
    weights.rename(path / "adapter_model.bin")
    with pytest.raises(InputError, match="pickle"):
        adapters.inspect(path)
    (path / adapters.CONFIG).write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json:1:2"):
        adapters.inspect(path)
    (path / adapters.CONFIG).unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        adapters.inspect(path)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4 initialisation"),
        ({"init_lora_weights": "olora"}, "olora initialisation"),
        ({"init_lora_weights": "loftq"}, "loftq initialisation"),
        ({"trainable_token_indices": [3]}, "trainable tokens"),
        ({"alora_invocation_tokens": [1]}, "Activated LoRA"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "fused experts"),
        ({"layer_replication": [[0, 2]]}, "layer replication"),
    ],
)
def test_variants_are_listed_and_not_merged(tmp_path: Path, config: dict, name: str) -> None:
    path = write(tmp_path / "ad", **config)
    assert name in " ".join(adapters.inspect(path).variants)
    with pytest.raises(InputError, match=re.escape(name)):
        adapters.require_mergeable(adapters.read_config(path), path)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal"])
def test_initialisations_that_leave_the_base_alone(init: object) -> None:
    adapters.require_mergeable({"init_lora_weights": init}, Path())


@given(
    st.sampled_from(MODULES),
    st.dictionaries(patterns, st.integers(1, 64), max_size=3),
    st.dictionaries(patterns, st.integers(1, 64), max_size=3),
    st.booleans(),
)
def test_ranks_and_scalings_are_pefts(module: str, ranks: dict, alphas: dict, rslora: bool) -> None:
    """The lines of LoraModel._create_and_replace and LoraLayer.update_layer, with PEFT's own pattern matching."""
    from peft.utils.other import get_pattern_key

    r = ranks.get(get_pattern_key(ranks.keys(), module), 8)
    alpha = alphas.get(get_pattern_key(alphas.keys(), module), 16)
    config = {"r": 8, "lora_alpha": 16, "rank_pattern": ranks, "alpha_pattern": alphas, "use_rslora": rslora}
    assert adapters.rank(config, module) == r
    assert adapters.scaling(config, module) == (alpha / math.sqrt(r) if rslora else alpha / r)
