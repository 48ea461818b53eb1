"""Causal attention as batched products: torch's own in fp32, to the rounding of bf16, in any number of blocks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from engine.models import attention, causal


def tensors(rows: int, heads: int, length: int, width: int, value_width: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    widths = (width, width, value_width, value_width)
    return [torch.randn(rows, heads, length, w, generator=generator).to(dtype) for w in widths]


def both(dtype: torch.dtype, scaling: float | None, *shape: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and the three gradients: ours, and sdpa's of the same numbers in fp32."""
    *given, upward = tensors(*shape, dtype)
    found = []
    for inputs, weight, call in (
        (given, upward, lambda *x: causal.attention(*x, scaling)),
        ([x.float() for x in given], upward.float(), lambda *x: sdpa(*x, is_causal=True, scale=scaling)),
    ):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out = call(*leaves)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, weight)])
    return found[0], found[1]


@pytest.mark.parametrize("length", [1, 2, 127, causal.WHOLE, causal.WHOLE + 1, 3 * causal.BLOCK])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_it_is_torchs_attention(length: int, dtype: torch.dtype, tolerance: float) -> None:
    for scaling, value_width in ((None, 16), (0.3, 8)):
        for mine, theirs in zip(*both(dtype, scaling, 2, 3, length, 16, value_width), strict=True):
            assert mine.dtype == dtype and mine.shape == theirs.shape
            assert float((mine.float() - theirs).norm()) <= tolerance * float(theirs.norm()) + 1e-6


@pytest.mark.parametrize("length", [40, causal.WHOLE + 40])
def test_nothing_is_seen_of_what_comes_later(length: int) -> None:
    query, key, value, _ = tensors(1, 2, length, 8, 8, torch.bfloat16)
    out = causal.attention(query, key, value, None)
    key[:, :, 20:], value[:, :, 20:] = 7.0, float("1e4")
    changed = causal.attention(query, key, value, None)
    assert torch.equal(out[:, :, :20], changed[:, :, :20]) and not torch.equal(out, changed)


def test_segments_go_through_it_where_the_cpu_multiplies_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """With shared key-value heads, and segments that share a product though one is shorter."""
    seen: list[torch.Size] = []
    monkeypatch.setattr(causal, "takes", lambda query: seen.append(query.shape) is None)
    segments, generator = (5, 30, 28), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(segments), 8, generator=generator) for heads in (4, 2, 2))
    module = SimpleNamespace(num_key_value_groups=2, training=True)
    mine, _ = attention.varlen_attention(module, query, key, value, None, segments=segments)  # type: ignore[arg-type]
    monkeypatch.setattr(causal, "takes", lambda query: False)
    theirs, _ = attention.varlen_attention(module, query, key, value, None, segments=segments)  # type: ignore[arg-type]
    assert len(seen) == 2
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_fp32_is_torchs_own() -> None:
    assert not causal.takes(torch.zeros(1, 1, 2, 8))
