"""The optimizer of a [train] table, and its state as plain tensors (no pickle)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from engine.errors import WorkFailed
from engine.models import memory
from engine.models.loaded import Loaded
from engine.tables import LoraTable, TrainTable
from engine.training import needs

Tensors = dict[str, torch.Tensor]


def build(loaded: Loaded, train: TrainTable, lora: LoraTable) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; the B matrices in a group of their own (LoRA+, Hayou et al. 2024).

    Raises:
        InputError: an optimizer that needs a GPU where there is none.
    """
    named = loaded.parameters()
    is_b = [".lora_B." in n or ".lora_embedding_B." in n for n, _ in named]
    groups: list[dict[str, Any]] = [
        {"params": [p for (_, p), b in zip(named, is_b, strict=True) if not b], "ratio": 1.0},
        {"params": [p for (_, p), b in zip(named, is_b, strict=True) if b], "ratio": lora.lora_plus_ratio},
    ]
    groups = [g for g in groups if g["params"]]
    settings: dict[str, Any] = {
        "lr": train.learning_rate,
        "betas": (train.betas[0], train.betas[1]),
        "eps": train.epsilon,
        "weight_decay": train.weight_decay,
    }
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True, **settings)
    if (problem := needs.optimizer(train, loaded.device.type)) is not None:
        raise problem
    import bitsandbytes.optim as bnb

    kinds = {"adamw_8bit": bnb.AdamW8bit, "paged_adamw": bnb.PagedAdamW32bit, "paged_adamw_8bit": bnb.PagedAdamW8bit}
    return kinds[train.optimizer](groups, **settings)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """`value` for every group, times the group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["ratio"]


def step(optimizer: torch.optim.Optimizer) -> None:
    """Update the parameters. The first call allocates the moments.

    Raises:
        WorkFailed: there is no memory for them.
    """
    if memory.attempt(lambda: (optimizer.step(),)) is None:
        remedy = 'lower lora.r, or set train.optimizer = "paged_adamw_8bit"'
        raise WorkFailed("not enough memory for the optimizer's state", remedy=remedy)


def state_tensors(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """The optimizer's state: tensors by "index.key", and what is not a tensor by the same names."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in _flat(state):
            name = f"{index}.{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = value.detach().cpu().contiguous()
            else:
                plain[name] = value
    return tensors, plain


def _flat(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A parameter's state without the dict that bitsandbytes wraps its 8-bit tensors in; it takes them back either way."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield key, value


def load_state(optimizer: torch.optim.Optimizer, tensors: Tensors, plain: dict[str, Any]) -> None:
    """Put back what `state_tensors` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**plain, **tensors}.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    whole = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
