"""Cross entropy of supervised positions only, the vocabulary-wide logits built in chunks and never kept.

A model's logits are T x vocabulary numbers; on a 150,000-word vocabulary they outweigh everything else. Only positions
with a weight are projected, a chunk at a time, and a chunk's logits are computed again in the backward pass. The idea
of dropping ignored tokens before the projection is torchtune's LinearCrossEntropyLoss. Where the head is a frozen
matrix, the gradient of a chunk is taken while its logits are there, so that none is computed twice (as in Liger
Kernel's fused linear cross entropy, arXiv:2410.10989).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from engine.models import kernels


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a model: hidden states (n, width) -> logits (n, vocabulary).

    Attributes:
        matrix: the frozen matrix that is all of it, (vocabulary, width); None where it is more, or is trained.
    """

    project: Callable[[torch.Tensor], torch.Tensor]
    vocabulary: int
    matrix: Callable[[], torch.Tensor | None] = lambda: None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.project(hidden)


CHUNK_ELEMENTS = 2**24
"""Logits held at once: 64 MiB in fp32."""
CHUNK_ELEMENTS_CUDA = 2**25
"""On a GPU, which is idle most of the time in the product of fewer than some 200 rows with a large vocabulary."""


def token_nll(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    """-log p(target) of each position, in nats, computed in fp32.

    Args:
        hidden: (n, width). targets: (n,) int64.

    Returns:
        (n,) float32; differentiable.
    """
    if len(hidden) == 0:
        return hidden.new_zeros(0, dtype=torch.float32)
    rows = max(1, (CHUNK_ELEMENTS_CUDA if hidden.is_cuda else CHUNK_ELEMENTS) // head.vocabulary)
    again = torch.is_grad_enabled() and len(hidden) > rows
    if again and (matrix := head.matrix()) is not None:
        return _ByMatrix.apply(hidden, targets, matrix, rows)
    parts = []
    for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
        parts.append(checkpoint(_nll, h, t, head, use_reentrant=False) if again else _nll(h, t, head))
    return torch.cat(parts)


def _nll(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="none")


class _ByMatrix(torch.autograd.Function):
    """`token_nll` of hidden @ matrix.T, `rows` positions at a time; only the gradient of `hidden` outlives a chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, matrix: torch.Tensor, rows: int) -> torch.Tensor:
        nll, gradient = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device), torch.empty_like(hidden)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            h, t = hidden[part], targets[part, None]
            logits = h @ matrix.T
            if kernels.working(hidden.device):
                nll[part] = kernels.softmax_gradient_(logits, targets[part])
            else:
                nll[part], logits = _softmax_gradient(logits.float(), t)
            torch.mm(logits.to(h.dtype), matrix, out=gradient[part])
        ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    def backward(ctx: Any, upward: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return (gradient * upward[:, None]).to(gradient.dtype), None, None, None


def _softmax_gradient(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log softmax of each row's target, and its gradient, in the place of `logits`; `targets` is (n, 1)."""
    total = logits.logsumexp(-1, keepdim=True)
    nll = (total - logits.gather(1, targets))[:, 0]
    return nll, logits.sub_(total).exp_().scatter_add_(1, targets, torch.full_like(total, -1.0))
