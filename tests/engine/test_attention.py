"""One token of each row, on a CPU: the queries of a key-value head in one call, with what transformers' own attention gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.models import attention


def called(monkeypatch: pytest.MonkeyPatch, *tensors: torch.Tensor, mask: torch.Tensor | None = None) -> bool:
    """Whether `_packed` answers this call, whose answer is transformers' own."""
    seen: list[int] = []
    packed = attention._packed
    monkeypatch.setattr(attention, "_packed", lambda *given: seen.append(1) or packed(*given))
    module: Any = SimpleNamespace(num_key_value_groups=tensors[0].shape[1] // tensors[1].shape[1], is_causal=True)
    mine, _ = attention.varlen_attention(module, *tensors, mask)
    theirs, _ = sdpa_attention_forward(module, *tensors, mask)
    assert mine.shape == theirs.shape
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    return bool(seen)


def tensors(rows: int, heads: int, shared: int, queries: int, keys: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(keys)
    shapes = ((heads, queries), (shared, keys), (shared, keys))
    return [torch.randn(rows, count, length, 8, generator=generator) for count, length in shapes]


def test_it_is_for_one_token_of_shared_heads_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.arange(5)[None, None, None] > torch.tensor([0, 2, 1])[:, None, None, None]
    assert called(monkeypatch, *tensors(3, 4, 2, 1, 5))
    assert not called(monkeypatch, *tensors(3, 4, 2, 1, 5), mask=mask)
    assert not called(monkeypatch, *tensors(3, 4, 4, 1, 5))
    assert not called(monkeypatch, *tensors(3, 4, 2, 5, 5))


@given(rows=st.integers(1, 4), shared=st.integers(1, 3), group=st.integers(2, 4), keys=st.integers(1, 40),
       scaling=st.sampled_from([None, 0.5]))  # fmt: skip
def test_it_is_the_attention_of_each_head(rows: int, shared: int, group: int, keys: int, scaling: float | None) -> None:
    """Also of keys that are part of a larger store, as those of a cache are."""
    query, key, value = tensors(rows, shared * group, shared, 1, keys + 3)
    key, value = key[:, :, 2:-1], value[:, :, 2:-1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    found = attention._packed(query, key, value, scaling)
    for head in range(shared * group):
        weights = torch.softmax(query[:, head] @ key[:, head // group].mT * scale, dim=-1)
        torch.testing.assert_close(found[:, :, head], weights @ value[:, head // group], rtol=1e-5, atol=1e-6)
