"""The last layer's MLP where it is asked for: what it makes of other positions is read by nobody.

    layers 1 .. n-1       attention of layer n      its MLP
    every position   ->   every position      ->    the prompt . . . . the answer   (training: where there is a target)

Attention mixes positions and needs them all; an MLP takes each by itself. A prompt's share of an MLP, of one layer, is a few
percent of a small model's training, and nearly all of that layer's in reading a prompt whose last token alone goes on.

Comes from: `proof`, which tries it on each model. Goes to: `Loaded.nll` and `generation.decoding`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

MOST = 0.9
"""Share of the positions above which choosing them costs more than it saves."""


def last_mlp(decoder: nn.Module) -> nn.Module | None:
    """The module called `mlp` of the last layer; None where there is none."""
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList)]
    layers = max(stacks, key=lambda stack: sum(1 for _ in stack.modules()), default=None)
    return getattr(layers[-1], "mlp", None) if layers is not None and len(layers) else None


@contextlib.contextmanager
def only(mlp: nn.Module | None, places: torch.Tensor, positions: int) -> Iterator[None]:
    """While in the block `mlp` takes `places` of its `positions` alone, and leaves zeros elsewhere.

    Args:
        places: (rows, n) int64, in the positions of all rows end to end, n of each row: what is in a row stays in it, as
            adapters ask who go by rows (`lanes`). mlp: None: nothing is done.
    """
    if mlp is None or not 0 < places.numel() <= MOST * positions:
        yield
        return
    own = vars(mlp).get("forward")
    vars(mlp)["forward"] = functools.partial(_at, mlp.forward, places)
    try:
        yield
    finally:
        vars(mlp).pop("forward")
        if own is not None:
            vars(mlp)["forward"] = own


def _at(whole: Callable[[torch.Tensor], Any], places: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """(rows, T, width) -> the same."""
    flat = x.reshape(-1, x.shape[-1])
    made = whole(flat.index_select(0, places.flatten()).view(*places.shape, -1))
    return torch.zeros_like(flat).index_copy(0, places.flatten(), made.flatten(0, 1)).view(x.shape)
