"""Cross entropy of supervised positions only, the vocabulary-wide logits built in chunks and never kept.

A model's logits are T x vocabulary numbers; on a 150,000-word vocabulary they outweigh everything else. Only positions
with a weight are projected, a chunk at a time, and a chunk's logits are computed again in the backward pass. The idea
of dropping ignored tokens before the projection is torchtune's LinearCrossEntropyLoss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a model: hidden states (n, width) -> logits (n, vocabulary)."""

    project: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.project(hidden)


CHUNK_ELEMENTS = 2**24
"""Logits held at once: 64 MiB in fp32."""


def token_nll(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    """-log p(target) of each position, in nats, computed in fp32.

    Args:
        hidden: (n, width). targets: (n,) int64.

    Returns:
        (n,) float32; differentiable.
    """
    if len(hidden) == 0:
        return hidden.new_zeros(0, dtype=torch.float32)
    rows = max(1, CHUNK_ELEMENTS // head.vocabulary)
    again = torch.is_grad_enabled() and len(hidden) > rows
    parts = []
    for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
        parts.append(checkpoint(_nll, h, t, head, use_reentrant=False) if again else _nll(h, t, head))
    return torch.cat(parts)


def _nll(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


def summed(hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, head: Head) -> torch.Tensor:
    """Sum over positions of weight * -log p(target): a scalar in nats, 0 with a graph where nothing is supervised.

    Args:
        hidden: (T, width). targets: (T,) int64. weights: (T,) float32; positions of weight 0 are never projected.
    """
    chosen = torch.nonzero(weights, as_tuple=True)[0]
    if len(chosen) == 0:
        return hidden.sum().float() * 0.0
    return (token_nll(hidden[chosen], targets[chosen], head) * weights[chosen]).sum()
