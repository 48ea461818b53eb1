"""RMS norms in one kernel on a GPU, in place of the seven operations that transformers spells them out in.

What those keep for the backward pass is fp32 and twice as large as the input; the kernel keeps the input. Which modules
it may stand in for is not looked up by class but tried: each module on numbers of its own width (Zhang & Sennrich 2019,
arXiv:1910.07467; some families multiply by 1 + weight, some not at all, and those stay as they are).

Comes from: `loading`, once per base.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.nn.functional import rms_norm

TOLERANCE = 2.0**-6
"""Largest difference, relative to the largest value: a few roundings of bfloat16."""


def fuse(model: nn.Module) -> int:
    """Let every RMS norm of `model` that gives what torch's own gives be computed by it; returns how many."""
    fused = [
        (module, eps) for module in model.modules() if (eps := _epsilon(module)) is not None and _same(module, eps)
    ]
    for module, eps in fused:
        vars(module)["forward"] = functools.partial(_forward, module, eps)
    return len(fused)


def _epsilon(module: nn.Module) -> float | None:
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    weight: Any = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return eps if isinstance(weight, torch.Tensor) and weight.ndim == 1 and isinstance(eps, float) else None


@torch.no_grad()
def _same(module: Any, eps: float) -> bool:
    weight = module.weight
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(weight), generator=draw).to(weight.device, weight.dtype) * 3.0
    expected = module(x).float()
    difference = (rms_norm(x, weight.shape, weight, eps).float() - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())


def _forward(module: Any, eps: float, x: torch.Tensor) -> torch.Tensor:
    return rms_norm(x, module.weight.shape, module.weight, eps)
