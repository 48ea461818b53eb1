"""Blocked weights: the products of a base without gradients, as exact as torch's, of the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from engine.models import blocked
from engine.models.loaded import Loaded
from engine.training import lora
from tests.engine.training import project_of, relative, shake

IDS = torch.tensor([[5, 9, 17, 40, 3, 8, 120, 77]])

pytestmark = pytest.mark.skipif(not blocked.multiplies(torch.float32), reason="this torch has no such products")
bf16 = pytest.param(
    torch.bfloat16, marks=pytest.mark.skipif(not blocked.multiplies(torch.bfloat16), reason="no bf16 here")
)


@pytest.mark.parametrize("shape", [(1, 1, 300), (2, 1, 300), (3, 5, 300), (4, 300), (0, 300), (300,)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, bf16])
def test_a_product_is_the_product_and_equal_rows_are_equal(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype
) -> None:
    """Against float64, or torch's; equal rows to the last bit, or no adapter could be said to do nothing."""
    x, weight = torch.randn(shape).to(dtype), torch.randn(70, 300).to(dtype)
    add = torch.randn(70).to(dtype) if bias else None
    laid_out = blocked.lay_out(weight)
    found = blocked.product(x, laid_out, add)
    assert found.shape == (*shape[:-1], 70)
    if dtype == torch.float32:
        assert torch.allclose(
            found.double(), linear(x.double(), weight.double(), add.double() if bias else None), atol=1e-3
        )  # type: ignore[union-attr]
    else:
        torch.testing.assert_close(found, linear(x, weight, add), rtol=2.0**-7, atol=2.0**-7)  # one rounding
    if x.numel() > 300:
        same = x.reshape(-1, 300)[:1].repeat(5, 1)
        assert len({tuple(row.tolist()) for row in blocked.product(same, laid_out, add)}) == 1
        flipped = blocked.product(x.reshape(-1, 300).flip(0).contiguous(), laid_out, add).flip(0)
        assert torch.equal(flipped, blocked.product(x.reshape(-1, 300), laid_out, add))


def hidden(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return loaded.decoder(input_ids=IDS, use_cache=False).last_hidden_state


def swapped(loaded: Loaded) -> list[nn.Module]:
    """The layers that have another forward pass for the moment."""
    return [m for m in loaded.causal.modules() if isinstance(m, nn.Linear) and "forward" in vars(m)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2"])
@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [("none", "float32"), ("none", "bfloat16"), ("nf4", "float32"), ("nf4", "bfloat16"), ("fp4", "bfloat16")],
)
def test_a_model_says_what_it_says_without(
    load: Callable[..., Loaded], family: str, quantization: str, dtype: str
) -> None:
    loaded = load(family, quantization=quantization, dtype=dtype)
    if not blocked.multiplies(loaded.dtype):
        pytest.skip("no bf16 here")
    plain = hidden(loaded)
    with loaded.multiplying():
        count = len(swapped(loaded))
        found = hidden(loaded)
        with loaded.multiplying():
            assert torch.equal(hidden(loaded), found)
        assert len(swapped(loaded)) == count, "the inner block has undone the outer one"
    assert count >= 2 * 7, "nothing was laid out"
    if dtype == "bfloat16":
        assert torch.equal(found, plain)
    assert relative(found, plain) < 1e-5
    assert not swapped(loaded) and torch.equal(hidden(loaded), plain)


def test_int8_and_short_memory_are_left_alone(load: Callable[..., Loaded]) -> None:
    int8, nf4 = load("llama", quantization="int8", dtype="float32"), load("llama", quantization="nf4", dtype="float32")
    with int8.multiplying():
        assert {type(m) for m in swapped(int8)} <= {nn.Linear}
    with nf4.blocked.multiplying(share=0.0):
        assert not swapped(nf4)


@pytest.mark.parametrize("change", ["in place", "another tensor"])
def test_kept_copies_are_of_the_weights_as_they_are_now(load: Callable[..., Loaded], change: str) -> None:
    loaded = load("llama", dtype="float32")
    layer: Any = next(m for m in loaded.causal.modules() if type(m) is nn.Linear)
    loaded.blocked.keep()
    with loaded.multiplying():
        before = hidden(loaded)
    with torch.no_grad():
        if change == "in place":
            layer.weight.mul_(1.5)
        else:
            layer.weight.data = layer.weight.data * 1.5
    plain = hidden(loaded)
    with loaded.multiplying():
        found = hidden(loaded)
    assert relative(before, plain) > 1e-3 and relative(found, plain) < 1e-5


def test_copies_are_made_once_where_they_are_kept_and_else_gone(load: Callable[..., Loaded]) -> None:
    loaded = load("llama", dtype="float32")
    copies = loaded.blocked._copies
    with loaded.multiplying():
        assert copies
    assert not copies
    loaded.blocked.keep()
    with loaded.multiplying():
        first = list(copies.values())
    with loaded.multiplying():
        pass
    assert first and all(now is made for now, made in zip(copies.values(), first, strict=True))
    loaded.blocked.keep(False)
    assert not copies


def test_what_is_attached_later_is_no_part_of_it(load: Callable[..., Loaded]) -> None:
    """An optimizer of bitsandbytes changes weights without a trace, so no copy of a trained one may be made."""
    loaded = load("llama", dtype="float32")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    shake(loaded)
    with loaded.multiplying():
        names = {id(m): name for name, m in loaded.causal.named_modules()}
        assert not [names[id(m)] for m in swapped(loaded) if ".lora_" in names[id(m)]]
        for _, parameter in loaded.parameters():
            parameter.data.zero_()
        changed = hidden(loaded)
    assert relative(hidden(loaded), changed) < 1e-5
