"""The optimizer's state as plain tensors: what comes back is what was kept, also where bitsandbytes wraps it."""

from __future__ import annotations

import json
from typing import Any

import bitsandbytes.optim as bnb
import pytest
import torch

from engine.training.optimizer import load_state, state_tensors


def of(make: Any) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in ((64, 256), (8, 4))]
    return parameters, make(parameters, lr=1e-2)


def steps(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        draw = torch.Generator().manual_seed(number)
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()


@pytest.mark.parametrize("make", [torch.optim.AdamW, bnb.AdamW8bit])
def test_a_restored_optimizer_goes_on_as_the_other_would_have(make: Any) -> None:
    whole, through = of(make)
    steps(whole, through, range(6))
    first, stopped = of(make)
    steps(first, stopped, range(3))
    tensors, plain = state_tensors(stopped)
    assert all(isinstance(t, torch.Tensor) and t.device.type == "cpu" for t in tensors.values())
    if make is bnb.AdamW8bit:
        assert any(t.dtype == torch.uint8 for t in tensors.values())
    second, resumed = of(make)
    for p, stored in zip(second, first, strict=True):
        p.data.copy_(stored.data)
    load_state(resumed, tensors, json.loads(json.dumps(plain)))
    steps(second, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
