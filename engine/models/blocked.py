"""Frozen weights of a CPU in the layout that oneDNN multiplies, laid out once instead of at every product.

    weight (out, in), or its 4 bits  ->  blocked, a copy in memory  ->  as many products as texts take

A product of few rows reads its weight and does little else. torch's BLAS packs it first, and oneDNN, given it row by row,
does so, too: laid out before, four rows of a weight that stays in the cache take a third to a half of the time, a hundred rows
a few percent less, and a large model what its weights take to be read. In bf16 the results are those of `linear`, to the
bit on CPUs with instructions for it; in fp32 they are oneDNN's, rounded in another order. Equal rows give equal results.

Comes from: a `Loaded`, which has one of these. Goes to: `generation.decoding` and `evaluation.scoring`, around what runs the
model without gradients.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn.functional import linear

SHARE = 0.25
"""Of the free memory, what the copies may take."""
SMALL = 2**19
"""Elements of an fp32 weight that a single row is multiplied with sooner than oneDNN is called."""


def multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of this type here, and torch a way to them."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available():
        return False
    if not (hasattr(ops, "_linear_pointwise") and hasattr(ops, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())


def lay_out(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) -> the same numbers, blocked: an opaque tensor for `product` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W' + bias, without a gradient, by oneDNN: (..., in) -> (..., out).

    Args:
        weight: blocked, or (out, in) row by row.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@dataclass(frozen=True, slots=True)
class _Copy:
    """A blocked weight; `source` says what it was made of: any change there is another one."""

    source: tuple[int, int]
    matrix: torch.Tensor


class Blocked:
    """The linear layers of a base, and the copies of their weights.

    Only layers that are there when this is made: of what is attached later nobody knows when it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kept = False
        self._layers: list[Any] = [module for module in model.modules() if _dtype(module) is not None]
        self._copies: dict[Any, _Copy] = {}

    @contextlib.contextmanager
    def multiplying(self, share: float = SHARE) -> Iterator[None]:
        """While in the block the layers multiply with blocked weights; 4 bits are dequantized once, not at every call.

        The weights themselves are read, never written. Nothing is done where the copies would take more than `share` of
        the free memory, nor to a layer that another block already does it for.
        """
        layers = [layer for layer in self._layers if "forward" not in vars(layer)]
        missing = [layer for layer in layers if not self._has(layer)]
        if sum(map(_bytes, missing)) > share * psutil.virtual_memory().available:
            layers = [layer for layer in layers if layer not in missing]
        try:
            for layer in layers:
                layer.forward = functools.partial(_forward, layer, self._copy(layer))
            yield
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)
            if not self._kept and layers:
                self._copies.clear()

    def keep(self, kept: bool = True) -> None:
        """Copies stay from one `multiplying` to the next, for who asks often and trains nothing meanwhile; or let go of them."""
        self._kept = kept
        if not kept:
            self._copies.clear()

    def _has(self, layer: Any) -> bool:
        return layer in self._copies and self._copies[layer].source == _source(layer)

    def _copy(self, layer: Any) -> torch.Tensor:
        if not self._has(layer):
            self._copies[layer] = _Copy(_source(layer), lay_out(_dense(layer)))
        return self._copies[layer].matrix


def _dtype(module: Any) -> torch.dtype | None:
    """What a layer on the CPU multiplies in; None where it is none of those that this can do it for."""
    from bitsandbytes.nn import Linear4bit

    if isinstance(module, Linear4bit):
        state = getattr(module.weight, "quant_state", None)
        dtype = module.compute_dtype if state is not None and state.dtype == module.compute_dtype else None
    else:
        dtype = module.weight.dtype if type(module) is nn.Linear else None
    return dtype if dtype is not None and module.weight.device.type == "cpu" and multiplies(dtype) else None


def _source(layer: Any) -> tuple[int, int]:
    return layer.weight.data_ptr(), layer.weight._version


def _bytes(layer: Any) -> int:
    dtype = _dtype(layer)
    return 0 if dtype is None else layer.in_features * layer.out_features * dtype.itemsize


def _dense(layer: Any) -> torch.Tensor:
    """The frozen weight, (out, in)."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        return layer.weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, state)


def _forward(layer: Any, matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What `layer` computes, rounded as it does: `Linear4bit` multiplies in its own type."""
    dtype, weight = matrix.dtype, layer.weight
    bias = None if layer.bias is None else layer.bias.to(dtype)
    if weight.dtype == dtype == torch.float32 and x.numel() <= x.shape[-1] and weight.numel() < SMALL:
        return linear(x, weight, bias)
    return product(x.to(dtype), matrix, bias).to(x.dtype)
