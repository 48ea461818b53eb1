"""What the tests of merging share: adapters made and saved by PEFT, and the functions that models compute."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine import adapters

IDS = torch.arange(5, 45)[None]


def train_adapter(
    base: Path, folder: Path, std: float = 0.1, dtype: torch.dtype = torch.float32, **config: Any
) -> Path:
    """A PEFT adapter with random weights, saved by PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(causal, LoraConfig(**{"r": 4, "task_type": "CAUSAL_LM", **config}))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=std)
    model.to(dtype).save_pretrained(folder)
    return folder


@torch.no_grad()
def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)) if adapter else model
    return model.eval()(IDS).logits


def assert_same_function(base: Path, adapter: Path, out: Path) -> None:
    expected = logits(base, adapter)
    scale = float(expected.abs().max())
    assert float((logits(base) - expected).abs().max()) > 1e-3 * scale, (
        "the adapter does nothing: the test proves nothing"
    )
    assert float((logits(out) - expected).abs().max()) <= 1e-5 * max(1.0, scale)


def rewrite(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the stored tensors of an adapter."""
    tensors = load_file(adapter / adapters.WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / adapters.WEIGHTS)
