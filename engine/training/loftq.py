"""LoftQ's start: the adapter carries the part of the weights that 4 bits lost (Li et al. 2023, arXiv:2310.08659).

Comes from: the base's files, and the adapter that PEFT has put on the quantized base. Goes to: `lora`. With W the
weight of the file and Q what its 4 bits stand for, s B A is the best approximation of W - Q of the adapter's rank (one
step of the paper's alternation, which is what the base's fixed weights allow). PEFT's own function needs a GPU and
leaves out s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import InputError
from engine.models.layout import read_layout
from engine.models.loaded import Loaded
from engine.models.nf4 import FourBit, rounded
from engine.safetensors_io import Checkpoint, read_json


@torch.no_grad()
def start(loaded: Loaded, adapter: str) -> None:
    """Set the first A and B of `adapter` on every 4-bit layer.

    Raises:
        InputError: nothing here is in 4 bits, the base is not a folder, or its files do not hold a layer's weight.
    """
    folder = Path(loaded.location)
    layers = _layers(loaded, adapter)
    if not layers:
        raise InputError('lora.init = "loftq" needs a base in 4 bits', remedy='set model.quantization = "nf4"')
    if not folder.is_dir():
        raise InputError('lora.init = "loftq" reads the base\'s files', remedy="give model.base as a folder")
    dtype: Any = str(loaded.dtype).removeprefix("torch.")
    with Checkpoint.open(folder) as base:
        places = read_layout(read_json(folder / "config.json"), folder, base.entries)
        for name, layer in layers.items():
            stored = places.tensor_of(f"{name}.weight")
            if stored is None:
                problem = f'lora.init = "loftq": the base\'s files do not hold {name} as one tensor'
                raise InputError(problem, where=str(folder))
            weight = base.tensor(stored)
            weight = weight.T if places.kinds[name] == "conv1d" else weight
            state = layer.get_base_layer().weight.quant_state
            how = FourBit(state.quant_type, state.nested, dtype)
            lost = weight.float() - rounded(weight, how).float()
            a, b = (layer.lora_A[adapter].weight, layer.lora_B[adapter].weight)
            left, values, right = torch.linalg.svd(lost, full_matrices=False)
            rank = a.shape[0]
            share = (values[:rank] / layer.scaling[adapter]).sqrt()
            a.zero_()[: len(share)].copy_(share[:, None] * right[:rank])
            b.zero_()[:, : len(share)].copy_(left[:, :rank] * share)


def _layers(loaded: Loaded, adapter: str) -> dict[str, Any]:
    """The adapter's layers on 4-bit weights, by their name in the base."""
    from peft.tuners.lora import Linear4bit

    return {
        name: module
        for name, module in loaded.causal.named_modules()
        if isinstance(module, Linear4bit) and adapter in module.lora_A
    }
