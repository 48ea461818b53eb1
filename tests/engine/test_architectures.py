"""Every architecture through the whole work: 4 bits, two steps, saved, reloaded in plain PEFT, merged both ways, compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import InputError
from engine.merging.merge import merge
from engine.models import loading
from engine.models.loaded import Loaded
from engine.models.nf4 import FourBit
from engine.tokens.examples import Example, collate
from engine.training import lora
from tests.engine import tiny
from tests.engine.merging import IDS, assert_same_function, logits
from tests.engine.training import examples_of, project_of, training_of


@torch.no_grad()
def our_logits(loaded: Loaded) -> torch.Tensor:
    loaded.causal.eval()
    ids = IDS[0].numpy()
    return loaded.head(loaded.hidden(collate([Example(ids, np.ones(len(ids), np.float32))])))


@torch.no_grad()
def plain_logits(base: Path, adapter: Path | None) -> torch.Tensor:
    """What a fresh base in 4 bits by transformers gives, with the adapter by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    causal = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bit, dtype=torch.float32)
    loading.keep_quantized_weights_still(causal)  # else it computes in bf16 on some CPUs
    model = PeftModel.from_pretrained(causal, str(adapter)) if adapter else causal
    return model.eval()(IDS).logits[0]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest, relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_from_four_bits_to_a_merged_model(
    base_of: Callable[..., Path], load: Callable[..., Loaded], tmp_path: Path, family: str
) -> None:
    base, adapter = base_of(family), tmp_path / "adapter"
    loaded = load(family, quantization="nf4")
    project = project_of(steps=2, examples_per_step=4, learning_rate=2e-2, schedule="constant", warmup=0.0)
    training = training_of(loaded, project, examples_of(8), tmp_path)
    training.run()
    lora.save_adapter(adapter, loaded, {}, "card")
    ours = our_logits(loaded)

    assert difference(plain_logits(base, None), ours) > 1e-2  # two steps have changed something
    assert difference(plain_logits(base, adapter), ours) < 1e-5

    merge(base, adapter, tmp_path / "original")
    assert_same_function(base, adapter, tmp_path / "original")
    merge(base, adapter, tmp_path / "rounded", base_weights="nf4", four_bit=FourBit("nf4", True, "float32"))
    assert difference(logits(tmp_path / "rounded")[0], ours) < 1e-5
    assert difference(logits(tmp_path / "original")[0], ours) > 1e-3  # 4 bits have rounded something


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_fused_experts_are_refused_in_words(tmp_path: Path, family: str) -> None:
    """LoRA on "all-linear" would leave the experts out; what the remedy names is trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=tiny.VOCABULARY, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_experts=2, num_local_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=64, shared_expert_intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "base")
    loaded = tiny.tiny_loaded(tmp_path / "base", quantization="nf4")
    with pytest.raises(InputError, match="fuses its experts into one tensor") as caught:
        training_of(loaded, project_of(), examples_of(4), tmp_path)
    assert "q_proj" in str(caught.value.remedy)
    training = training_of(
        loaded, project_of(steps=1, lora_target_modules=["q_proj", "v_proj"]), examples_of(4), tmp_path
    )
    assert training.run() == "done"
