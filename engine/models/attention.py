"""Attention over several examples laid end to end, without padding and without a mask as large as their square.

A batch is one row of T tokens; `segments` says how many belong to each example. The implementation is registered with
transformers under the name "varlen", so that every architecture that uses its attention interface gains it; the
segment lengths travel as a keyword argument of the forward pass. On a GPU one FlashAttention kernel takes all segments (Dao
2023, arXiv:2307.08691); elsewhere segments of nearly equal length share a batched product. `proof` shows for each loaded
model that examples do not see each other, and falls back to padded rows where they do.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward, use_gqa_in_sdpa
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from engine.models import causal

NAME = "varlen"

_no_mask: ContextVar[bool] = ContextVar("no_mask", default=False)


@dataclass
class Windows:
    """Which local attention a model asks for: the masks it has made, and what its layers tell the implementation.

    Without masks only the second counts. Some architectures have it in their masks alone (Qwen2-MoE, chunks in
    Llama 4); what they need is not known here.
    """

    masked: set[int] = field(default_factory=set)
    attended: set[int] = field(default_factory=set)


_windows: ContextVar[Windows | None] = ContextVar("windows", default=None)


@contextlib.contextmanager
def watch_windows() -> Iterator[Windows]:
    """Collect, from the forward passes of segments in the block, the windows that were asked for."""
    seen = Windows()
    token = _windows.set(seen)
    try:
        yield seen
    finally:
        _windows.reset(token)


@contextlib.contextmanager
def segmented() -> Iterator[None]:
    """While a batch of segments goes through the model: no mask is built, since the segments are the mask."""
    token = _no_mask.set(True)
    try:
        yield
    finally:
        _no_mask.reset(token)


def _mask(*args: Any, local_size: int | None = None, **kwargs: Any) -> torch.Tensor | None:
    if not _no_mask.get():
        return sdpa_mask(*args, local_size=local_size, **kwargs)
    if (windows := _windows.get()) is not None and local_size is not None:
        windows.masked.add(local_size)
    return None


@lru_cache(maxsize=256)
def groups(segments: tuple[int, ...], slack: float = 1.15) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Segments of nearly equal length, to go through one batched product: (start, length) of each, longest group first.

    A group's longest segment is at most `slack` times its shortest; the difference is the padding that is computed.
    """
    starts = [0]
    for length in segments:
        starts.append(starts[-1] + length)
    by_length = sorted(zip(starts[:-1], segments, strict=True), key=lambda s: -s[1])
    made: list[list[tuple[int, int]]] = []
    for start, length in by_length:
        if made and made[-1][0][1] <= length * slack:
            made[-1].append((start, length))
        else:
            made.append([(start, length)])
    return tuple(tuple(group) for group in made)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    segments: tuple[int, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    Args:
        query: (1, heads, T, head width); key and value: (1, key-value heads, T, head width).
        segments: lengths of the examples, sum T; None: an ordinary call (generation), answered with sdpa.
        sliding_window: a token sees this many tokens, itself included.
        softcap: scores become softcap * tanh(scores / softcap) (Gemma 2, arXiv:2408.00118).

    Returns:
        (1, T, heads, head width), and None for the weights.
    """
    if segments is None:
        if softcap is not None:
            return _capped(module, query, key, value, attention_mask, dropout, scaling, softcap), None
        if _packs(query, key, attention_mask, dropout):
            return _packed(query, key, value, scaling), None
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if (windows := _windows.get()) is not None and sliding_window is not None:
        windows.attended.add(sliding_window)
    if softcap is None and _takes_flash(query):
        if len(set(segments)) == 1 and (sliding_window is None or sliding_window >= segments[0]):
            return _equal(query, key, value, len(segments), dropout, scaling), None
        return _flash(query, key, value, segments, dropout, scaling, sliding_window), None
    pieces: list[torch.Tensor] = []
    order: list[tuple[int, int]] = []
    parts = [_split(x, segments) for x in (query, key, value)]
    for group in groups(segments):
        longest = group[0][1]
        q, k, v = (_stack([part[start] for start, _ in group], longest) for part in parts)
        window = sliding_window if sliding_window is not None and sliding_window < longest else None
        mask = None if softcap is None and window is None else _causal(longest, window, q)
        if softcap is None:
            out = _shared(q, k, v, mask, dropout, scaling)
        else:
            out = _softcapped(q, k, v, mask, dropout, scaling, softcap)
        rows = zip(out.unbind(0), group, strict=True)
        pieces += [row if length == longest else row[:, :length] for row, (_, length) in rows]
        order += group
    places = sorted(range(len(order)), key=lambda i: order[i][0])
    return torch.cat([pieces[i] for i in places], dim=1).transpose(0, 1).unsqueeze(0), None


def _takes_flash(query: torch.Tensor) -> bool:
    """Whether torch's own FlashAttention computes this: 16 bits, whole eights up to 256 wide, an Ampere GPU or newer."""
    width = query.shape[-1]
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or width % 8 or width > 256:
        return False
    return _has_flash(query.device)


@lru_cache
def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: tuple[int, ...],
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """All segments in one kernel, which shares key-value heads itself: (1, T, heads, head width).

    The operator is the one under `torch.nn.attention.varlen`, whose own signature changes from version to version.
    """
    ends, longest = _boundaries(segments, query.device), max(segments)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    left = -1 if window is None or window >= longest else window - 1
    out = torch.ops.aten._flash_attention_forward(
        q, k, v, ends, ends, longest, longest, dropout, True, False,
        scale=scaling, window_size_left=left, window_size_right=0,
    )[0]  # fmt: skip
    return out.unsqueeze(0)


def _equal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: int, dropout: float, scaling: float | None
) -> torch.Tensor:
    """Segments of one length are a batch, for which sdpa has faster kernels (cuDNN's, on Hopper twice as fast)."""
    q, k, v = (x[0].unflatten(1, (rows, -1)).transpose(0, 1) for x in (query, key, value))
    return _shared(q, k, v, None, dropout, scaling).transpose(1, 2).flatten(0, 1).unsqueeze(0)


@lru_cache(maxsize=4)
def _boundaries(segments: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where segments begin, and the end of the last: (segments + 1,) int32, made once for all layers of a batch."""
    return torch.tensor([0, *itertools.accumulate(segments)], dtype=torch.int32, device=device)


def _split(x: torch.Tensor, segments: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """(1, H, T, D) as views (H, length, D) of its segments, by where they start.

    One operation for all: the gradient of each slice alone would be a tensor of zeros as large as `x`.
    """
    starts = itertools.accumulate(segments[:-1], initial=0)
    return dict(zip(starts, x[0].split(segments, dim=1), strict=True))


def _stack(parts: list[torch.Tensor], longest: int) -> torch.Tensor:
    """A group's segments as (segments, H, longest, D), zeros at the right of shorter ones."""
    if len(parts) == 1:
        return parts[0].unsqueeze(0)
    return torch.stack([torch.nn.functional.pad(p, (0, 0, 0, longest - p.shape[1])) for p in parts])


def _shared(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Causal where there is no `mask`; sdpa's kernel shares key-value heads where it can, as transformers has it do.

    It adds up the gradients of a shared head in an order of its own: repeated heads would give other last bits.
    """
    own = mask is None and not dropout and causal.takes(query)
    shared = not own and query.shape[1] != key.shape[1] and use_gqa_in_sdpa(mask, key, value)
    if not shared:
        repeat = query.shape[1] // key.shape[1]
        key, value = repeat_kv(key, repeat), repeat_kv(value, repeat)
    if own:
        return causal.attention(query, key, value, scaling)
    return scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=shared
    )


def _causal(length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """(length, length), True where a query may look."""
    place = torch.arange(length, device=like.device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention with capped scores, which sdpa does not offer; `mask` is boolean or additive."""
    repeat = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, repeat), repeat_kv(value, repeat)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh((query @ key.transpose(-1, -2)).float() * scale / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = torch.nn.functional.dropout(torch.softmax(scores, dim=-1).to(query.dtype), dropout)
    return weights @ value


def _packs(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, dropout: float) -> bool:
    """Whether it is one token of each row on a CPU, which sees all of the keys, of heads that queries share."""
    one = query.shape[2] == 1 and query.shape[1] != key.shape[1]
    return one and mask is None and not dropout and query.device.type == "cpu"


def _packed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None) -> torch.Tensor:
    """The queries of a key-value head as if they were tokens of it: (rows, 1, heads, head width).

    transformers does the same where there is a mask. Without one it has sdpa share the heads, whose kernel for that takes
    7 to 13 times as long in bf16, up to twice in fp32 (32 heads on 8, 100 to 1,000 keys).
    """
    rows, heads, _, width = query.shape
    tokens = query.reshape(rows, key.shape[1], -1, width)
    return scaled_dot_product_attention(tokens, key, value, scale=scaling).reshape(rows, 1, heads, -1)


def _capped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """An ordinary (generation) call with capped scores: (batch, T, heads, head width)."""
    if mask is None and query.shape[2] > 1:
        mask = _causal(key.shape[2], None, query)[-query.shape[2] :]
    return _softcapped(query, key, value, mask, dropout, scaling, softcap).transpose(1, 2)


def register() -> None:
    """Make "varlen" known to transformers; harmless when repeated."""
    AttentionInterface.register(NAME, varlen_attention)
    AttentionMaskInterface.register(NAME, _mask)
