"""The last layer's MLP at the positions that are asked: the same loss and gradient, and less of it computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.generation.decoding import Rows, inference
from engine.models import ending
from engine.models.loaded import Loaded
from engine.tokens.examples import collate
from engine.training import lora
from tests.engine.test_together import PROMPT
from tests.engine.tiny import FAMILIES
from tests.engine.training import examples_of, gradient_of, project_of, relative, shake


def watch(loaded: Loaded) -> list[int]:
    """How many positions each call of the last MLP's first linear layer gets, from now on."""
    seen: list[int] = []
    mlp: Any = ending.last_mlp(loaded.decoder)
    inner = next(m for m in mlp.modules() if m is not mlp and not list(m.children()))
    inner.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_the_whole_layer(load: Callable[..., Loaded], family: str) -> None:
    loaded = load(family, dtype="float32")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    shake(loaded)
    loaded.causal.eval()
    assert loaded.last_mlp is not None
    batch, found, seen = collate(examples_of(5)), [], watch(loaded)
    for mlp in (loaded.last_mlp, None):
        loaded.last_mlp = mlp
        seen.clear()
        share = loaded.summed(batch)
        share.backward()
        asked = batch.supervised if mlp is not None and loaded.route == "varlen" else None
        assert asked is None or seen == [asked], "the MLP was computed elsewhere, too"
        found.append((float(share.detach()), gradient_of(loaded)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert relative(found[0][1], found[1][1]) < 1e-5


def test_what_is_recomputed_is_computed_whole(load: Callable[..., Loaded]) -> None:
    loaded = load("llama", dtype="float32")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    shake(loaded)
    loaded.causal.train()
    batch, seen = collate(examples_of(5)), watch(loaded)
    loaded.summed(batch).backward()
    expected = gradient_of(loaded)
    loaded.recompute_activations()
    seen.clear()
    loaded.summed(batch).backward()
    assert seen == [len(batch.ids)] * 2
    assert relative(gradient_of(loaded), expected) < 1e-5


@pytest.mark.parametrize("weights", [0.0, 1.0])
def test_nothing_or_all_asked(load: Callable[..., Loaded], weights: float) -> None:
    loaded = load("llama", dtype="float32")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    examples = examples_of(3)
    for example in examples:
        example.weights[:] = weights
    share = loaded.summed(collate(examples))
    share.backward()
    assert (float(share.detach()) == 0.0) == (weights == 0.0)
    assert share.requires_grad


def test_a_prompt_goes_through_the_last_mlp_with_its_last_token(load: Callable[..., Loaded]) -> None:
    loaded = load("llama", dtype="float32")
    seen = watch(loaded)
    with inference(loaded):
        whole = loaded.decoder(input_ids=torch.tensor([PROMPT]), use_cache=False).last_hidden_state[0, -1]
        seen.clear()
        found = Rows(loaded).enter([PROMPT, PROMPT[:3]])
    assert seen == [2]
    assert relative(found[0], whole) < 1e-5


def test_a_module_that_mixes_positions_is_no_such_mlp(load: Callable[..., Loaded]) -> None:
    from engine.models import proof

    class Mixing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.cumsum(1)

    loaded = load("llama", dtype="float32")
    ids = np.arange(5, 23)
    with torch.no_grad():
        alone, _ = proof._ordinary(loaded, ids)
        assert proof._last_mlp(loaded, ids, alone) is not None
        loaded.decoder.layers[-1].mlp = Mixing()  # type: ignore[index,union-attr]
        alone, _ = proof._ordinary(loaded, ids)
        assert proof._last_mlp(loaded, ids, alone) is None
