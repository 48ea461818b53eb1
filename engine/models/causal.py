"""Causal attention as batched products, for a CPU that multiplies bf16: there torch's own backward pass takes twice as long.

    P = softmax(s Q K' + mask)    O = P V
    dS = P (dP - sum(dP P)),  dP = dO V'    dQ = s dS K    dK = s dS' Q    dV = P' dO

Queries go in blocks, each with the keys that it may see. What is kept for the backward pass grows as the tokens do: P where
all fit into one block, else Q, K and V, of which P is made again (Dao et al. 2022, arXiv:2205.14135). Products add up in
fp32 and are rounded to bf16, scores and P too: as transformers' own "eager" attention rounds them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

BLOCK = 128
"""Queries that go through a product at once, where there are more than `WHOLE` of them."""
WHOLE = 256
"""Queries that are one block together, and P kept."""


def takes(query: torch.Tensor) -> bool:
    """Whether it is faster here than torch's: by measurement on AVX-512 with bf16, twice below 300 tokens, alike from 2,000.

    In fp32 it would be 1.1 times as fast up to 512 tokens, with a backward pass, and change weights after ten steps by 1e-5.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and _multiplies_bf16()


@lru_cache
def _multiplies_bf16() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """(rows, heads, T, width) of each -> (rows, heads, T, width); a token sees itself and those before it."""
    rows, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    flat = (x.reshape(rows * heads, length, x.shape[-1]) for x in (query, key, value))
    return _Causal.apply(*flat, scale).view(rows, heads, length, -1)  # type: ignore[union-attr]


class _Causal(torch.autograd.Function):
    """Of (n, T, width) each."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        query = query * scale
        blocks = _blocks(query.shape[1])
        outs, kept = [], ()
        for start, end in blocks:
            weights = _weights(query, key, start, end)
            outs.append(torch.bmm(weights, value[:, :end]))
            if len(blocks) == 1:
                kept = (weights,)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scale = scale
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    @staticmethod
    def backward(ctx: Any, upward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        if kept:
            to_query, to_key, to_value = _gradients(kept[0], upward, query, key, value)
            return to_query.mul_(ctx.scale), to_key, to_value, None
        queries = []
        sums = [torch.zeros(x.shape) for x in (key, value)]  # in fp32: of many blocks
        for start, end in _blocks(query.shape[1]):
            weights = _weights(query, key, start, end)
            parts = _gradients(weights, upward[:, start:end], query[:, start:end], key[:, :end], value[:, :end])
            queries.append(parts[0])
            for total, part in zip(sums, parts[1:], strict=True):
                total[:, :end] += part
        to_key, to_value = (total.to(query.dtype) for total in sums)
        return torch.cat(queries, dim=1).mul_(ctx.scale), to_key, to_value, None


def _gradients(
    weights: torch.Tensor, upward: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of a block of queries and the keys and values it sees: dQ / s, dK, dV."""
    scores = torch._softmax_backward_data(torch.bmm(upward, value.mT), weights, -1, weights.dtype)
    return torch.bmm(scores, key), torch.bmm(scores.mT, query), torch.bmm(weights.mT, upward)


def _weights(query: torch.Tensor, key: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """P of the queries from `start` to `end`, (n, end - start, end)."""
    scores = torch.bmm(query[:, start:end], key[:, :end].mT)
    scores[:, :, start:].add_(_later(end - start, scores.dtype))
    return torch.softmax(scores, -1)


def _blocks(length: int) -> list[tuple[int, int]]:
    size = length if length <= WHOLE else BLOCK
    return [(start, min(length, start + size)) for start in range(0, length, size)]


@lru_cache(maxsize=64)
def _later(length: int, dtype: torch.dtype) -> torch.Tensor:
    """-inf where the key comes after the query, else 0: added, which costs a quarter of filling in."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
