"""Several adapters in one batch: each row of a forward pass goes through the adapter of its lane, or through none.

    rows   base | base | a | b        the base's product once, for all rows
    lora            -  | -  | A,B of a | A,B of b      two thin products a lane, added to its own rows

Comes from: a `Loaded` with stored or training adapters attached. Goes to: `generation.together`. PEFT's own way
(`adapter_names`) gathers each adapter's rows by index, in every layer; here the rows of a lane stand next to each other
and are a slice. Where starting a product costs more than a thin one takes, all lanes share one batched product: on a GPU
always, in the type that the base computes in; on a CPU a token at a time, in the adapters' own type and rounded where
PEFT rounds, so that a lane says what its adapter says alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from engine.errors import InputError
from engine.models import switching
from engine.models.loaded import Loaded


def cannot_share(loaded: Loaded, name: str | None) -> str | None:
    """Why an adapter cannot share a batch with others, in words; None where it can.

    Raises:
        KeyError: there is no such adapter.
    """
    if name is None or loaded.peft is None:
        return None
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    key = loaded.names[name]
    for module in loaded.causal.modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            if key in module._adapters:
                return "it replaces whole modules"
        elif isinstance(module, BaseTunerLayer):
            if not isinstance(module, LoraLayer):
                return f"it is no LoRA adapter ({type(module).__name__})"
            if key in module.lora_embedding_A:
                return "it adapts an embedding"
            if key in module.lora_A and key in module.lora_variant:
                return "it is more than two matrices (DoRA or another variant)"
            if key in module.lora_A and getattr(module.base_layer, "weight", torch.empty(0)).ndim > 2:
                return "it adapts a convolution"
    return None


MOST_STACKED = 16
"""Rows whose matrices are laid side by side for a batched product: each has its own copy there."""


class Lanes:
    """Which adapter each row of the next forward passes goes through.

    Attributes:
        long: whether lanes share a batched product also where each has many tokens.
    """

    def __init__(self, names: dict[str, str], long: bool = False) -> None:
        self._names, self.long = names, long
        self.groups: list[tuple[str, slice]] = []
        self._stacks: dict[Any, _Stack | None] = {}

    def assign(self, models: Sequence[str | None]) -> None:
        """Row i of the batch is to go through adapter `models[i]` (None: the base alone).

        Rows of one adapter should stand next to each other: each such group costs two products a layer.

        Raises:
            KeyError: there is no such adapter.
        """
        groups, start = [], 0
        for name, rows in groupby(models):
            end = start + len(list(rows))
            if name is not None:
                groups.append((self._names[name], slice(start, end)))
            start = end
        if groups != self.groups:
            self.groups = groups
            self._stacks.clear()

    def stack(self, layer: Any, x: torch.Tensor) -> _Stack | None:
        """The matrices of all rows of this assignment, or None where `x` is not to be multiplied with them at once."""
        if x.ndim != 3 or not (self.long or x.shape[1] == 1):
            return None
        if layer not in self._stacks:
            self._stacks[layer] = _stack(layer, self.groups, x.dtype if x.is_cuda else None)
        return self._stacks[layer]


@dataclass(frozen=True, slots=True)
class _Stack:
    """The lanes' matrices side by side: `a` (rows, in, r), `b` (rows, r, out) with the scaling in it."""

    rows: slice
    a: torch.Tensor
    b: torch.Tensor


def _stack(layer: Any, groups: Sequence[tuple[str, slice]], dtype: torch.dtype | None) -> _Stack | None:
    """Only where every lane has this layer, in one rank and without a bias, and no base row stands between them.

    Args:
        dtype: of the matrices; None: their own.
    """
    rows = sum(part.stop - part.start for _, part in groups)
    if not groups or rows > MOST_STACKED or rows != groups[-1][1].stop - groups[0][1].start:
        return None
    if not all(key in layer.lora_A for key, _ in groups) or len({layer.lora_A[k].weight.shape for k, _ in groups}) > 1:
        return None
    keys = [key for key, part in groups for _ in range(part.stop - part.start)]
    if any(layer.lora_B[key].bias is not None for key in keys):
        return None
    dtype = dtype or layer.lora_A[keys[0]].weight.dtype
    a = torch.stack([layer.lora_A[key].weight.to(dtype).T for key in keys])
    b = torch.stack([(layer.lora_B[key].weight * layer.scaling[key]).to(dtype).T for key in keys])
    return _Stack(slice(groups[0][1].start, groups[-1][1].stop), a, b)


@contextlib.contextmanager
def lanes(loaded: Loaded) -> Iterator[Lanes]:
    """While in the block forward passes go row by row through the adapters that `Lanes.assign` names.

    Eval mode and no gradients are the caller's (`decoding.inference`). Afterwards all is as it was, training's adapter
    included.

    Raises:
        InputError: an adapter is attached whose initialisation changed the base, so that there is no base lane.
    """
    assigned = Lanes(loaded.names, long=loaded.device.type == "cuda")
    if loaded.peft is None:
        yield assigned
        return
    if loaded.base_changed:
        raise InputError("the base is not there: lora.init has moved a part of it into the adapter")
    from peft.tuners.lora import LoraLayer

    layers: list[Any] = [m for m in loaded.causal.modules() if isinstance(m, LoraLayer) and len(m.lora_A)]
    with switching.using(loaded.peft, None):
        try:
            for layer in layers:
                layer.forward = functools.partial(_forward, layer, _rounds_first(layer), assigned)
            yield assigned
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)


def _rounds_first(layer: Any) -> bool:
    """PEFT's layers on quantized weights round the update to the result's type before they add it; others after."""
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt")


def _forward(
    layer: Any, rounds_first: bool, assigned: Lanes, x: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """(rows, tokens, in) -> (rows, tokens, out)."""
    result = layer.base_layer(x, *args, **kwargs)
    if (stack := assigned.stack(layer, x)) is not None:
        down = torch.bmm(x[stack.rows].to(stack.a.dtype), stack.a)
        if x.is_cuda:
            result[stack.rows].baddbmm_(down, stack.b)
        else:
            _add(result, stack.rows, torch.bmm(down, stack.b), rounds_first)
        return result
    for key, rows in assigned.groups:
        if key in layer.lora_A:
            a, b = layer.lora_A[key], layer.lora_B[key]
            _add(result, rows, b(a(x[rows].to(a.weight.dtype))) * layer.scaling[key], rounds_first)
    return result


def _add(result: torch.Tensor, rows: slice, update: torch.Tensor, rounds_first: bool) -> None:
    result[rows] += update.to(result.dtype) if rounds_first else update
