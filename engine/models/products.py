"""A frozen linear layer and its adapter as one step of the backward pass: no copy of the input, no sum kept.

    out = x W' + s (x A') B'          kept for the backward pass: x (as the next layer's, too) and x A', r wide

PEFT computes the same as five operations: it copies x to fp32 and keeps the copy, multiplies in fp32, and adds in a
tensor of its own. Here A and B stay fp32 where they are trained and are cast once a micro-batch to what the base
computes in, as autocast would at every use; products add up in fp32, and the gradients of A and B are fp32.

Where the base is whole and in fp32 there is nothing to cast, and training gives the bits of PEFT's: the base's layer stays
a step of its own, and the adapter's is PEFT's operations in their order, in place (`_Added`).

Comes from: a `Loaded` in training. Goes to: `training.loop`, around a micro-batch's forward and backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from engine.models import kernels
from engine.models.loaded import Loaded

FEW_ROWS = 64
"""Up to as many bitsandbytes multiplies by the 4 bits themselves."""


class Products:
    """While in the block, the layers of an adapter that this can compute do so; the others are PEFT's.

    A layer with dropout, DoRA, a bias in its adapter, int8 weights or a module of its own kind is PEFT's.

    Args:
        loaded: with the adapter `name` attached and active.
    """

    def __init__(self, loaded: Loaded, name: str) -> None:
        self._layers: list[tuple[Any, _Layer]] = []
        for module in loaded.causal.modules():
            if _is_plain(module, name):
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
                thin = (torch.empty_like(a, dtype=loaded.dtype), torch.empty_like(b, dtype=loaded.dtype))
                self._layers.append((module, _Layer(module.base_layer, a, b, *thin, module.scaling[name])))

    def __len__(self) -> int:
        return len(self._layers)

    def __enter__(self) -> Products:
        layers = [layer for _, layer in self._layers]
        if layers:
            with torch.no_grad():
                thin = [x for layer in layers for x in (layer.thin_a, layer.thin_b)]
                torch._foreach_copy_(thin, [x for layer in layers for x in (layer.a, layer.b)])
                torch._foreach_mul_(thin, [layer.scaling for layer in layers for _ in range(2)])
        for module, layer in self._layers:
            vars(module)["forward"] = layer
        return self

    def __exit__(self, *how: object) -> None:
        for module, _ in self._layers:
            vars(module).pop("forward", None)


def _is_plain(module: nn.Module, name: str) -> bool:
    """Whether PEFT would compute no more than base_layer(x) + scaling * B A x, with a base this knows the weight of."""
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import LoraLayer

    if not isinstance(module, LoraLayer) or name not in module.lora_A or name in module.lora_variant:
        return False
    base: Any = module.base_layer
    if type(base) is not nn.Linear and not isinstance(base, Linear4bit):
        return False
    plain = isinstance(module.lora_dropout[name], nn.Identity) and module.lora_B[name].bias is None
    plain = plain and module.scaling[name] != 0.0
    return plain and module.active_adapters == [name] and not module.merged


class _Layer:
    """The forward pass of one layer; `thin_a` and `thin_b` are s A and s B in the dtype of the base.

    With both scaled, no product needs to be scaled afterwards: s B A = (s B) (s A) / s, and the division is part of it.
    """

    __slots__ = ("a", "b", "base", "scaling", "thin_a", "thin_b")

    def __init__(
        self, base: Any, a: nn.Parameter, b: nn.Parameter, thin_a: torch.Tensor, thin_b: torch.Tensor, scaling: float
    ) -> None:
        self.base, self.a, self.b, self.thin_a, self.thin_b, self.scaling = base, a, b, thin_a, thin_b, scaling

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        if x.dtype == torch.float32 and type(self.base) is nn.Linear:
            return _Added.apply(self.base(x), x, self.a, self.b, self.scaling)  # type: ignore[return-value]
        return _Product.apply(x, self.a, self.b, self)  # type: ignore[return-value]

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """The frozen weight, (out, in)."""
        weight = self.base.weight
        state = getattr(weight, "quant_state", None)
        if state is None:  # a weight that FSDP2 has gathered has lost it; the layer has not
            state = getattr(self.base, "quant_state", None)
        if state is not None:
            weight = self.dequantize(weight.data, state)
        return weight.to(dtype)

    @property
    def dequantize(self) -> Callable[[torch.Tensor, Any], torch.Tensor]:
        """Of a 4-bit weight: the kernel where it runs, bitsandbytes' own elsewhere; both give the same bits."""
        if kernels.dequantizes(self.a.device):
            return kernels.dequantized
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit

    def of_base(self, flat: torch.Tensor) -> torch.Tensor:
        """The frozen layer's output; on a GPU without bitsandbytes' way there, which takes longer than the kernels run."""
        state = getattr(self.base.weight, "quant_state", None)
        if state is not None and len(flat) > FEW_ROWS and kernels.dequantizes(flat.device):
            return linear(flat, self.weight(flat.dtype), self.base.bias)
        return self.base(flat)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, layer: _Layer) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out, down = layer.of_base(flat), flat @ layer.thin_a.T
        out.addmm_(down, layer.thin_b.T, alpha=1.0 / layer.scaling)
        ctx.save_for_backward(flat, down)
        ctx.layer, ctx.shape = layer, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, upward: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        flat, down = ctx.saved_tensors
        layer: _Layer = ctx.layer
        upward = upward.reshape(-1, upward.shape[-1])
        up = upward @ layer.thin_b
        gradient_a, gradient_b = _in_fp32(up.T, flat), _in_fp32(upward.T, down)
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = upward @ layer.weight(upward.dtype)
            gradient = gradient.addmm_(up, layer.thin_a, alpha=1.0 / layer.scaling).view(ctx.shape)
        return gradient, gradient_a, gradient_b, None


class _Added(torch.autograd.Function):
    """out + s (x A') B', into `out`. A step apart from the base's, so that gradients of x are added up in PEFT's order.

    A scaling that is a power of two changes no digit: then it is applied where a product is r wide.
    """

    @staticmethod
    def forward(
        ctx: Any, out: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down = flat @ a.T
        ctx.save_for_backward(flat, down, a, b)
        ctx.early, ctx.late = (scaling, 1.0) if math.frexp(scaling)[0] == 0.5 else (1.0, scaling)
        ctx.shape = x.shape
        ctx.mark_dirty(out)
        return out.add_(_scaled(_scaled(down, ctx.early) @ b.T, ctx.late).view(out.shape))

    @staticmethod
    def backward(
        ctx: Any, upward: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        flat, down, a, b = ctx.saved_tensors
        scaled = _scaled(upward.reshape(-1, upward.shape[-1]), ctx.late)
        up = _scaled(scaled @ b, ctx.early)
        gradient = (up @ a).view(ctx.shape) if ctx.needs_input_grad[1] else None
        return upward, gradient, up.T @ flat, scaled.T @ _scaled(down, ctx.early), None


def _scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return x if by == 1.0 else x * by


def _in_fp32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right, rounded to nothing less than fp32 where the device offers that."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return (left @ right).float()
