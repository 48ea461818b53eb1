"""Parts of a model in fewer operations on a GPU: RMS norms and gated MLPs, in place of what transformers spells out.

What the spelled-out operations keep for the backward pass is larger than what the fused ones keep: a norm's input in
fp32, and silu(gate) beside gate. Which modules may be replaced is not looked up by class but tried, each norm and one MLP
of each kind on random numbers (some families multiply by 1 + weight, some not at all, some scale in between); what gives
other results stays as it is. Zhang & Sennrich 2019, arXiv:1910.07467; Shazeer 2020, arXiv:2002.05202.

Comes from: `loading`, once per base.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import rms_norm, silu

from engine.models import kernels

TOLERANCE = 2.0**-6
"""Largest difference, relative to the largest value: a few roundings of bfloat16."""

Gated = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def fuse(model: nn.Module, device: torch.device) -> None:
    """Fuse what can be on this device."""
    fuse_norms(model)
    if kernels.working(device):
        fuse_gates(model, kernels.gated)


def fuse_norms(model: nn.Module) -> int:
    """Let every RMS norm of `model` that gives what torch's own gives be computed by it; returns how many."""
    found = [(module, eps) for module in model.modules() if (eps := _epsilon(module)) is not None]
    fused = 0
    for module, eps in found:
        other, weight = functools.partial(_norm, module, eps), cast(torch.Tensor, module.weight)
        if _same(module, other, len(weight), weight):
            vars(module)["forward"] = other
            fused += 1
    return fused


def _epsilon(module: nn.Module) -> float | None:
    if not type(module).__name__.endswith("RMSNorm"):
        return None
    weight: Any = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return eps if isinstance(weight, torch.Tensor) and weight.ndim == 1 and isinstance(eps, float) else None


def _norm(module: Any, eps: float, x: torch.Tensor) -> torch.Tensor:
    return rms_norm(x, module.weight.shape, module.weight, eps)


def fuse_gates(model: nn.Module, gated: Gated = lambda gate, up: silu(gate) * up) -> int:
    """Let every MLP that is down(silu(gate(x)) * up(x)) compute the middle by `gated`; returns how many."""
    right: dict[type[nn.Module], bool] = {}
    fused, like = 0, next((p for p in model.parameters() if p.is_floating_point() and not p.requires_grad), None)
    for module in model.modules():
        if not all(
            isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj")
        ):
            continue
        other, kind = functools.partial(_mlp, module, gated), type(module)
        if kind not in right:
            right[kind] = like is not None and _same(module, other, module.gate_proj.in_features, like)  # type: ignore[union-attr]
        if right[kind]:
            vars(module)["forward"] = other
            fused += 1
    return fused


def _mlp(module: Any, gated: Gated, x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(gated(module.gate_proj(x), module.up_proj(x)))


@torch.no_grad()
def _same(module: Any, other: Callable[[torch.Tensor], torch.Tensor], width: Any, like: torch.Tensor) -> bool:
    """Whether `other` gives what `module` gives, for `width` numbers of the type of `like`."""
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype) * 3.0
    try:
        expected, found = module(x).float(), other(x).float()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # it wants more than its input
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
