"""Two Triton kernels for NVIDIA GPUs, each one pass over memory where torch needs several. torch's CUDA build brings Triton.

Where Triton is missing, finds no C compiler, or computes something else than torch does, `working` is None and torch's
own operations are used.

Comes from: `loss` (softmax and its gradient over a large vocabulary, as in Liger Kernel, arXiv:2410.10989) and `fusing`
(SwiGLU, arXiv:2002.05202).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

import torch
from torch.nn.functional import silu

triton: Any = None
tl: Any = None
with contextlib.suppress(ImportError):
    triton, tl = importlib.import_module("triton"), importlib.import_module("triton.language")

BLOCK = 4096
SMALL_BLOCK = 1024


@functools.cache
def working(device: torch.device) -> bool:
    """Whether the kernels run on this device and give what torch gives, tried once."""
    if triton is None or device.type != "cuda" or torch.version.hip is not None:
        return False
    try:
        return proved(device)
    except Exception:  # whatever a missing compiler, driver or architecture raises: then they are not used
        return False


def proved(device: torch.device) -> bool:
    """Compare both kernels with torch on small numbers."""
    draw = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 9001, generator=draw) * 3).to(device, torch.bfloat16)
    targets = torch.tensor([0, 9000, 77], device=device)
    exact = logits.float().requires_grad_()
    nll = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    nll.sum().backward()
    found = softmax_gradient_(logits, targets)
    gate, up, upward = ((torch.randn(7, 300, generator=draw)).to(device, torch.bfloat16) for _ in range(3))
    wanted_inputs = [x.float().requires_grad_() for x in (gate, up)]
    wanted = silu(wanted_inputs[0]) * wanted_inputs[1]
    wanted.backward(upward.float())
    inputs = [x.clone().requires_grad_() for x in (gate, up)]
    out = gated(*inputs)
    out.backward(upward)
    pairs = [(found, nll), (logits, exact.grad), (out, wanted)]
    pairs += [(x.grad, y.grad) for x, y in zip(inputs, wanted_inputs, strict=True)]
    return all(_near(a, b) for a, b in pairs)


def _near(a: Any, b: Any) -> bool:
    return bool((a.detach().float() - b.detach().float()).abs().max() <= 2.0**-7 * b.detach().abs().max())


def softmax_gradient_(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log softmax(logits)[target] of each row, (n,) float32; `logits` (n, vocabulary) become its gradient."""
    nll = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if len(logits):
        _softmax_gradient[(len(logits),)](logits, targets, nll, logits.shape[1], logits.stride(0), BLOCK, num_warps=8)
    return nll


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up, keeping no more than both for the backward pass."""
    return _Gated.apply(gate.contiguous(), up.contiguous())  # type: ignore[return-value]


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _gate[_grid(gate)](gate, up, out, gate.numel(), SMALL_BLOCK)
        return out

    @staticmethod
    def backward(ctx: Any, upward: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        of_gate, of_up, upward = torch.empty_like(gate), torch.empty_like(up), upward.contiguous()
        _gate_gradient[_grid(gate)](gate, up, upward, of_gate, of_up, gate.numel(), SMALL_BLOCK)
        return of_gate, of_up


def _grid(x: torch.Tensor) -> tuple[int]:
    return (-(-x.numel() // SMALL_BLOCK),)


if triton is not None:

    @triton.jit
    def _softmax_gradient(logits, targets, nll, width, stride, block: tl.constexpr):  # pyright: ignore[reportInvalidTypeForm]
        """A program a row: the largest and the sum in one pass, probabilities less the target in a second."""
        row = tl.program_id(0).to(tl.int64)
        start = logits + row * stride
        target = tl.load(targets + row)
        own = tl.load(start + target).to(tl.float32)  # before anything is written over
        largest = float("-inf")
        total = 0.0
        for at in range(0, width, block):
            columns = at + tl.arange(0, block)
            x = tl.load(start + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(largest, tl.max(x, 0))
            total = total * tl.exp(largest - higher) + tl.sum(tl.exp(x - higher), 0)
            largest = higher
        tl.store(nll + row, tl.log(total) + largest - own)
        for at in range(0, width, block):
            columns = at + tl.arange(0, block)
            x = tl.load(start + columns, mask=columns < width, other=float("-inf")).to(tl.float32)
            p = tl.exp(x - largest) / total - tl.where(columns == target, 1.0, 0.0)
            tl.store(start + columns, p.to(logits.dtype.element_ty), mask=columns < width)

    @triton.jit
    def _gate(gate, up, out, count, block: tl.constexpr):  # pyright: ignore[reportInvalidTypeForm]
        places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = places < count
        g = tl.load(gate + places, mask=inside).to(tl.float32)
        u = tl.load(up + places, mask=inside).to(tl.float32)
        tl.store(out + places, (g * tl.sigmoid(g) * u).to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _gate_gradient(gate, up, upward, of_gate, of_up, count, block: tl.constexpr):  # pyright: ignore[reportInvalidTypeForm]
        places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = places < count
        g = tl.load(gate + places, mask=inside).to(tl.float32)
        u = tl.load(up + places, mask=inside).to(tl.float32)
        d = tl.load(upward + places, mask=inside).to(tl.float32)
        s = tl.sigmoid(g)
        tl.store(of_up + places, (d * g * s).to(of_up.dtype.element_ty), mask=inside)
        tl.store(of_gate + places, (d * u * s * (1.0 + g * (1.0 - s))).to(of_gate.dtype.element_ty), mask=inside)
