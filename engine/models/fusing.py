"""Parts of a model in fewer operations, in place of what transformers spells out: RMS norms, gated MLPs, rotary positions
on a GPU; rotary positions, and in 16 bits RMS norms, on a CPU.

What the spelled-out operations keep for the backward pass is larger than what the fused ones keep: a norm's input in
fp32, and silu(gate) beside gate. Which modules may be replaced is not looked up by class but tried, each norm and one MLP
of each kind on random numbers (some families multiply by 1 + weight, some not at all, some scale in between); what gives
other results stays as it is. Zhang & Sennrich 2019, arXiv:1910.07467; Shazeer 2020, arXiv:2002.05202; Su et al. 2021,
arXiv:2104.09864.

Comes from: `loading`, once per base.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import rms_norm, silu

from engine.models import kernels

ROUNDINGS, FINEST = 2, 2.0**-16
"""Largest difference, relative to the largest value: as many roundings, and in fp32, where sums differ by their order, this."""

ROTARY = "apply_rotary_pos_emb"
"""What transformers calls the function, and every architecture's module has of its own."""

Normed = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
Gated = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Rotated = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def fuse(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Fuse what can be on this device, of a base that computes in `dtype`.

    Not norms in fp32 on a CPU: there training gives the bits of transformers' Trainer, and norms as one step round otherwise.
    """
    if device.type == "cpu":
        if dtype != torch.float32:
            fuse_norms(model, _Norm.apply)
        fuse_rotary(model, _Rotary.apply)
        return
    if device.type != "cuda":
        return
    fuse_norms(model)
    if kernels.working(device):
        fuse_gates(model, kernels.gated)
    if kernels.rotates(device):
        fuse_rotary(model, kernels.rotated)


def fuse_norms(model: nn.Module, normed: Normed = lambda x, weight, eps: rms_norm(x, weight.shape, weight, eps)) -> int:
    """Let every RMS norm of `model` that gives what `normed` gives be computed by it; returns how many."""
    found = [(module, eps) for module in model.modules() if (eps := _epsilon(module)) is not None]
    fused = 0
    for module, eps in found:
        other, weight = functools.partial(_norm, module, normed, eps), cast(torch.Tensor, module.weight)
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


def _norm(module: Any, normed: Normed, eps: float, x: torch.Tensor) -> torch.Tensor:
    return normed(x, module.weight, eps)


class _Norm(torch.autograd.Function):
    """x / rms(x) * weight, with r = 1 / rms(x) in fp32 and nothing wide in it:

    dx = r (g - x r^2 mean(g x)),  g = dy weight;  dweight = sum(dy x r)
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        root = root.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, root)
        return _times(x, root).mul_(weight)

    @staticmethod
    def backward(ctx: Any, upward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:  # type: ignore[override]
        x, weight, root = ctx.saved_tensors
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = (upward.float() * x * root).flatten(0, -2).sum(0).to(weight.dtype)
        upward = upward * weight
        share = (upward * x).sum(-1, keepdim=True, dtype=torch.float32).mul_(root).mul_(root).div_(-x.shape[-1])
        return _times(upward.addcmul_(x, share.to(x.dtype)), root), to_weight, None


def _times(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """x * by in the type of x, in one pass: as rounded as a product in the wider type is."""
    out = torch.empty_like(x)
    return torch.mul(x, by, out=out)


def fuse_gates(model: nn.Module, gated: Gated = lambda gate, up: silu(gate) * up) -> int:
    """Let every MLP that is down(silu(gate(x)) * up(x)) compute the middle by `gated`; returns how many."""
    right: dict[type[nn.Module], bool] = {}
    fused, like = 0, _like(model)
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


def _like(model: nn.Module) -> torch.Tensor | None:
    """A weight of the device and type that the base computes with."""
    return next((p for p in model.parameters() if p.is_floating_point() and not p.requires_grad), None)


def _mlp(module: Any, gated: Gated, x: torch.Tensor) -> torch.Tensor:
    return module.down_proj(gated(module.gate_proj(x), module.up_proj(x)))


def fuse_rotary(model: nn.Module, rotated: Rotated) -> int:
    """Let every attention that turns queries and keys as `rotated` does have it done by that; returns how many.

    transformers calls the function by its name in each architecture's module: the forward pass of each attention here
    gets a copy of those names in which it is another one. Other models of the process keep theirs.
    """
    made: dict[Any, Callable[..., Any] | None] = {}
    fused, like = 0, _like(model)
    for module in model.modules():
        forward = getattr(type(module), "forward", None)
        if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
            continue
        if forward not in made:
            made[forward] = None if like is None else _with_rotary(forward, rotated, like)
        if (other := made[forward]) is not None:
            vars(module)["forward"] = MethodType(other, module)
            fused += 1
    return fused


def _with_rotary(forward: FunctionType, rotated: Rotated, like: torch.Tensor) -> Callable[..., Any] | None:
    """`forward` with another function for rotary positions; None where that gives other results."""
    spelled_out = forward.__globals__.get(ROTARY)
    if spelled_out is None or not _turns_alike(spelled_out, rotated, like):
        return None

    def turned(
        query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any
    ) -> Any:
        plain = not more and not named and query.ndim == 4 and cos.ndim == 3 and cos.dtype == query.dtype == key.dtype
        if plain and query.shape[-1] == key.shape[-1] == cos.shape[-1] and cos.shape[-1] % 2 == 0:
            return rotated(query, key, cos, sin)
        return spelled_out(query, key, cos, sin, *more, **named)

    other = FunctionType(
        forward.__code__, {**forward.__globals__, ROTARY: turned}, forward.__name__, forward.__defaults__,
        forward.__closure__,
    )  # fmt: skip
    other.__kwdefaults__ = forward.__kwdefaults__
    return other


class _Rotary(torch.autograd.Function):
    """x cos + half(x) sin of queries and keys, half(x) = (-x2, x1), in the layout in memory that they have.

    backwards:  dx = dy cos - half(dy) sin', where sin' has its halves swapped
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        ctx.save_for_backward(cos, sin)
        return _turned(query, cos, sin), _turned(key, cos, sin)

    @staticmethod
    def backward(ctx: Any, of_query: torch.Tensor, of_key: torch.Tensor) -> Any:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        swapped = -sin.roll(sin.shape[-1] // 2, -1)
        return _turned(of_query, cos, swapped), _turned(of_key, cos, swapped), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """(batch, heads, T, width), with cos and sin (batch or 1, T, width)."""
    half, laid = x.shape[-1] // 2, x.transpose(1, 2)
    signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
    shape = (*cos.shape[:2], laid.shape[2], cos.shape[-1])  # of all heads: as wide as x, in one run of memory
    cos, signed = (each[:, :, None].expand(shape).contiguous() for each in (cos, signed))
    return (laid * cos).addcmul_(laid.roll(half, -1), signed).transpose(1, 2)


@torch.no_grad()
def _turns_alike(spelled_out: Callable[..., Any], rotated: Rotated, like: torch.Tensor) -> bool:
    draw = torch.Generator().manual_seed(0)
    shapes = ((1, 4, 6, 16), (1, 2, 6, 16), (1, 6, 8))
    query, key, angles = (torch.randn(shape, generator=draw).to(like.device, like.dtype) for shape in shapes)
    cos, sin = (torch.cat((x, x), -1) for x in (angles.cos(), angles.sin()))
    try:
        expected, found = spelled_out(query, key, cos, sin), rotated(query, key, cos, sin)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    return all(a.shape == b.shape and _near(b, a) for a, b in zip(expected, found, strict=True))


@torch.no_grad()
def _same(module: Any, other: Callable[[torch.Tensor], torch.Tensor], width: Any, like: torch.Tensor) -> bool:
    """Whether `other` gives what `module` gives, for `width` numbers of the type of `like`."""
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype) * 3.0
    try:
        expected, found = module(x), other(x)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # it wants more than its input
    return found.dtype == expected.dtype and _near(found, expected)


def _near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = max(ROUNDINGS * torch.finfo(expected.dtype).eps, FINEST)
    return bool((found.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max())
