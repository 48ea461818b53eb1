"""What a GPU computes in fewer operations is what the plain operations say: adapters, loss, norms, lanes, attention.

Nothing here needs a GPU: the same code runs on the CPU, where it is not used of itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.generation.decoding import inference
from engine.models import fusing, kernels, loss
from engine.models.lanes import lanes
from engine.models.loaded import Loaded
from engine.models.products import Products
from engine.tokens.examples import collate
from engine.training import lora
from tests.engine.test_together import PROMPT, with_adapters
from tests.engine.tiny import FAMILIES, tiny_model
from tests.engine.training import examples_of, gradient_of, project_of, relative, shake


def gradient(loaded: Loaded, products: Products | None = None) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)  # for the dropout of a base that has some
    batch = collate(examples_of(5))
    with products or torch.enable_grad():
        share = loaded.summed(batch)
        share.backward()
    return float(share.detach()), gradient_of(loaded)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_product_gives_loss_and_gradient_of_pefts_five(
    load: Callable[..., Loaded], family: str, quantization: str, checkpointing: bool
) -> None:
    loaded = load(family, quantization=quantization, dtype="float32")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    shake(loaded)
    if checkpointing:
        loaded.recompute_activations()
    expected_loss, expected = gradient(loaded)
    products = Products(loaded, lora.NAME)
    assert len(products) == (
        0 if family == "gpt2" and quantization == "none" else sum(".lora_A." in n for n, _ in loaded.parameters())
    )
    found_loss, found = gradient(loaded, products)
    assert found_loss == pytest.approx(expected_loss, rel=1e-5)
    assert relative(found, expected) < 1e-5
    if quantization == "none":
        assert found_loss == expected_loss and torch.equal(found, expected)
    again_loss, again = gradient(loaded)
    assert again_loss == expected_loss and torch.equal(again, expected)  # nothing of it is left


def test_in_16_bits_it_is_as_near_to_fp32_as_pefts(load: Callable[..., Loaded]) -> None:
    loaded = load("llama", dtype="bfloat16")
    lora.attach(loaded, project_of(lora_r=4).lora, "base", None, 0)
    shake(loaded)
    _, plain = gradient(loaded)
    _, ours = gradient(loaded, Products(loaded, lora.NAME))
    whole = load("llama", dtype="float32")
    lora.attach(whole, project_of(lora_r=4).lora, "base", None, 0)
    shake(whole)
    _, exact = gradient(whole)
    assert relative(ours, exact) < 1.3 * relative(plain, exact)
    assert ours.dtype == torch.float32


@pytest.mark.parametrize("extra", [{"lora_dropout": 0.3}, {"lora_dora": True}])
def test_what_it_does_not_know_is_left_to_peft(load: Callable[..., Loaded], extra: dict[str, Any]) -> None:
    loaded = load("llama")
    lora.attach(loaded, project_of(**extra).lora, "base", None, 0)
    assert len(Products(loaded, lora.NAME)) == 0


@pytest.mark.parametrize("vocabulary", [7, 400])
def test_a_gradient_taken_with_the_logits_is_the_one_of_cross_entropy(
    vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", vocabulary * 5)
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(vocabulary, 16, generator=draw)
    hidden = torch.randn(23, 16, generator=draw).requires_grad_()
    targets, weights = torch.randint(vocabulary, (23,), generator=draw), torch.rand(23, generator=draw)
    weights[::3] = 0.0
    taken: list[int] = []

    def frozen() -> torch.Tensor:
        taken.append(1)
        return matrix

    heads = [loss.Head(lambda h: h @ matrix.T, vocabulary, m) for m in (frozen, lambda: None)]
    found = []
    for head in heads:
        value = (loss.token_nll(hidden, targets, head) * weights).sum()
        value.backward()
        assert hidden.grad is not None
        found.append((float(value.detach()), hidden.grad))
        hidden.grad = None
    assert taken
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert relative(found[0][1], found[1][1]) < 1e-6


def test_a_trained_or_adapted_head_is_no_matrix(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    assert loaded.head_matrix() is not None
    lora.attach(loaded, project_of(lora_target_modules=["lm_head", "q_proj"]).lora, "base", None, 0)
    assert loaded.head_matrix() is None


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_in_one_kernel_are_those_of_the_model_or_are_left_alone(family: str) -> None:
    model = tiny_model(family)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    ids = torch.tensor([PROMPT])
    expected = model(input_ids=ids).logits
    fused = fusing.fuse_norms(model)
    assert bool(fused) == (family in ("llama", "qwen2", "qwen3", "mistral", "phi3"))
    found = model(input_ids=ids).logits
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_the_gradients_of_a_norm_on_a_cpu_are_torchs(dtype: torch.dtype, tolerance: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, weight, upward = (torch.randn(shape, generator=draw) for shape in ((2, 5, 24), (24,), (2, 5, 24)))
    found = []
    for kind in (dtype, torch.float32):
        leaves = [t.to(dtype).to(kind).requires_grad_() for t in (x, weight)]
        normed = (
            fusing._Norm.apply if len(found) == 0 else lambda x, w, eps: torch.nn.functional.rms_norm(x, (24,), w, eps)
        )
        out = normed(*leaves, 1e-5)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upward.to(dtype).to(kind))])
    for mine, theirs in zip(*found, strict=True):
        assert mine.dtype == dtype and relative(mine.float(), theirs) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_on_a_cpu_in_bf16_are_those_of_the_model_or_are_left_alone(family: str) -> None:
    model = tiny_model(family).to(torch.bfloat16)
    ids, found = torch.tensor([PROMPT]), []
    for fuse in (False, True):
        if fuse:
            fusing.fuse(model, torch.device("cpu"), torch.bfloat16)
        loss = model(input_ids=ids, labels=ids).loss
        trained = [p for _, p in sorted(model.named_parameters())]
        found.append([loss.detach(), *torch.autograd.grad(loss, trained, allow_unused=True)])
    fused = [m for m in model.modules() if "forward" in vars(m)]
    assert bool(fused) == (family in ("llama", "qwen2", "qwen3", "mistral", "phi3"))
    for before, after in zip(*found, strict=True):
        assert (before is None) == (after is None)
        assert before is None or relative(after.float(), before.float()) < 0.05


@torch.no_grad()
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gated_mlp_is_that_of_the_model_or_is_left_alone(
    load: Callable[..., Loaded], family: str, quantization: str
) -> None:
    loaded = load(family, quantization=quantization)
    ids, asked = torch.tensor([PROMPT]), []
    expected = loaded.causal(input_ids=ids).logits

    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        return torch.nn.functional.silu(gate) * up

    fused = fusing.fuse_gates(loaded.causal, gated)
    assert bool(fused) == (family in ("llama", "qwen2", "qwen3", "mistral"))
    asked.clear()
    assert relative(loaded.causal(input_ids=ids).logits, expected) < 1e-5
    assert len(asked) == fused


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_positions_are_those_of_the_model_or_are_left_alone(load: Callable[..., Loaded], family: str) -> None:
    loaded = load(family)
    ids, asked = torch.tensor([PROMPT, PROMPT[::-1]]), []
    expected = loaded.causal(input_ids=ids).logits

    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat((-right, left), -1) * sin[:, None]

    def rotated(
        query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(1)
        return turn(query, cos, sin), turn(key, cos, sin)

    fused = fusing.fuse_rotary(loaded.causal, rotated)
    assert bool(fused) == (family != "gpt2")
    asked.clear()
    assert relative(loaded.causal(input_ids=ids).logits, expected) < 1e-5
    assert len(asked) == (0 if family == "gpt_neox" else fused), "gpt_neox turns a part of each head alone"
    other = type(loaded.causal)(loaded.causal.config)
    other(input_ids=ids)
    assert len(asked) in (0, fused), "another model of the process is left as it is"


def test_rotary_positions_of_a_cpu_and_their_gradient_are_those_of_the_definition() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5, 24), (2, 1, 5, 24), (1, 5, 24), (1, 5, 24))
    query, key, cos, sin = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    found, wanted = ([x.clone().requires_grad_() for x in (query, key)] for _ in range(2))
    turned = fusing._Rotary.apply(*found, cos, sin)
    spelled = [x * cos[:, None] + torch.cat((-x[..., 12:], x[..., :12]), -1) * sin[:, None] for x in wanted]
    for results in (turned, spelled):
        sum((x**3).sum() for x in results).backward()  # type: ignore[union-attr]
    for one, other in zip([*turned, *found], [*spelled, *wanted], strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    for one, other in zip(found, wanted, strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_rotary_positions_of_another_kind_are_left_alone(load: Callable[..., Loaded]) -> None:
    loaded = load("llama")
    assert not fusing.fuse_rotary(loaded.causal, lambda query, key, cos, sin: (query * 2, key))


@pytest.mark.parametrize("order", [[None, "a", "b", "c"], ["a", "a", "b"], [None, None, "c"], ["a", None, "b"]])
def test_lanes_in_one_product_are_those_of_each_adapter(tmp_path: Path, order: list[str | None]) -> None:
    configs = {"a": {}, "b": {"lora_alpha": 32}, "c": {"target_modules": ["q_proj"]}}
    loaded = with_adapters(tmp_path, "llama", configs)
    found = []
    for long, tokens in ((False, len(PROMPT)), (True, len(PROMPT)), (False, 1)):
        ids = torch.tensor([PROMPT[:tokens]] * len(order))
        with inference(loaded), lanes(loaded) as assigned:
            assigned.long = long
            assigned.assign(order)
            found.append(loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state)
            used = any(stack is not None for stack in assigned._stacks.values())
        assert used == ((long or tokens == 1) and order != ["a", None, "b"])
    assert relative(found[1], found[0]) < 1e-5
    assert relative(found[2][:, 0], found[0][:, 0]) < 1e-5, "the first token, alone or before others"


def test_an_adapter_with_a_bias_keeps_it_in_its_lane(tmp_path: Path) -> None:
    loaded = with_adapters(tmp_path, "llama", {"a": {"lora_bias": True}})
    for name, parameter in loaded.causal.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            parameter.data.normal_()
    ids = torch.tensor([PROMPT[:1]] * 2)
    with inference(loaded), lanes(loaded) as assigned:
        assigned.assign([None, "a"])
        found = loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state
    with inference(loaded), loaded.using("a"):
        assert relative(found[1], loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state[1]) < 1e-5


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@cuda
@pytest.mark.parametrize("segments", [(9, 1, 17, 13), (10, 10, 10, 10), (40,)])
@pytest.mark.parametrize("window", [None, 4])
def test_one_kernel_over_all_segments_is_attention_in_each(window: int | None, segments: tuple[int, ...]) -> None:
    from engine.models.attention import varlen_attention

    draw = torch.Generator("cuda").manual_seed(0)
    q = torch.randn(1, 8, 40, 64, generator=draw, device="cuda")
    k, v = (torch.randn(1, 2, 40, 64, generator=draw, device="cuda") for _ in range(2))
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [x.to(dtype).clone().requires_grad_() for x in (q, k, v)]
        out, _ = varlen_attention(torch.nn.Module(), *inputs, None, sliding_window=window, segments=segments)
        out.square().sum().backward()
        results.append([out.float(), *(x.grad.float() for x in inputs if x.grad is not None)])
    for exact, found in zip(*results, strict=True):
        assert relative(found, exact) < 2e-2


def test_segments_of_one_length_as_a_batch_are_attention_in_each() -> None:
    from engine.models.attention import _equal, varlen_attention

    draw = torch.Generator().manual_seed(0)
    q = torch.randn(1, 8, 40, 16, generator=draw)
    k, v = (torch.randn(1, 2, 40, 16, generator=draw) for _ in range(2))
    expected, _ = varlen_attention(torch.nn.Module(), q, k, v, None, segments=(10, 10, 10, 10))
    assert relative(_equal(q, k, v, 4, 0.0, None), expected) < 1e-6


@cuda
def test_the_kernels_give_what_torch_gives() -> None:
    assert kernels.proved(torch.device("cuda"))
    assert kernels.rotates(torch.device("cuda")) and kernels.dequantizes(torch.device("cuda"))


def test_without_a_gpu_the_kernels_are_not_used() -> None:
    assert not kernels.working(torch.device("cpu"))
