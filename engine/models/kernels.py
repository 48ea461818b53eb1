"""Triton kernels for NVIDIA GPUs, each one pass over memory where others need several. torch's CUDA build brings Triton.

Where Triton is missing, finds no C compiler, or a kernel computes something else than torch or bitsandbytes does, theirs
are used: `working`, `rotates` and `dequantizes` have tried it.

Comes from: `loss` (softmax and its gradient over a large vocabulary, as in Liger Kernel, arXiv:2410.10989), `fusing`
(SwiGLU, arXiv:2002.05202; rotary positions, arXiv:2104.09864) and `products` (4-bit weights, arXiv:2305.14314).
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
    """Compare the softmax and SwiGLU with torch's on small numbers."""
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


@functools.cache
def rotates(device: torch.device) -> bool:
    """Whether `rotated` runs on this device and gives what it should, tried once."""
    try:
        return working(device) and all(_near(a, b) for a, b in _rotations(device))
    except Exception:  # as in `working`
        return False


def _rotations(device: torch.device) -> list[tuple[Any, Any]]:
    """What `rotated` gives, forwards and backwards, beside what it is by its definition."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5, 24), (2, 1, 5, 24), (1, 5, 24), (1, 5, 24))
    query, key, cos, sin = (torch.randn(shape, generator=draw).to(device, torch.bfloat16) for shape in shapes)
    exact = [x.float().requires_grad_() for x in (query, key)]
    found = [x.clone().requires_grad_() for x in (query, key)]
    wanted = [x * cos.float() + torch.cat((-x[..., 12:], x[..., :12]), -1) * sin.float() for x in exact]
    turned = rotated(found[0], found[1], cos, sin)
    for results in (wanted, turned):
        sum((x * x).sum() for x in results).backward()  # type: ignore[union-attr]
    return [*zip(turned, wanted, strict=True), *((x.grad, y.grad) for x, y in zip(found, exact, strict=True))]


@functools.cache
def dequantizes(device: torch.device) -> bool:
    """Whether `dequantized` gives the bits that bitsandbytes gives on this device, tried once."""
    try:
        if not working(device):
            return False
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        weight = torch.randn(192, 448, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
        for code, double in (("nf4", True), ("nf4", False), ("fp4", True)):
            packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type=code)
            if not torch.equal(dequantized(packed, state), dequantize_4bit(packed, state)):
                return False
    except Exception:  # as in `working`
        return False
    return True


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


def rotated(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary positions: x cos + (-x2, x1) sin, for x = (x1, x2) of each head; nothing of x is kept for the backward pass.

    Args:
        query, key: (batch, heads, T, width), of a layout in memory of (batch, T, heads, width), or copied into it.
        cos, sin: (batch or 1, T, width).
    """
    return _Rotated.apply(query, key, cos.contiguous(), sin.contiguous())  # type: ignore[return-value]


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
        ctx.save_for_backward(cos, sin)
        return _rotations_of(query, key, cos, sin, backwards=False)

    @staticmethod
    def backward(ctx: Any, of_query: torch.Tensor, of_key: torch.Tensor) -> Any:  # type: ignore[override]
        return *_rotations_of(of_query, of_key, *ctx.saved_tensors, backwards=True), None, None


def _rotations_of(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, backwards: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    query, key = query.transpose(1, 2).contiguous(), key.transpose(1, 2).contiguous()
    new_query, new_key = torch.empty_like(query), torch.empty_like(key)
    batch, tokens, heads, width = query.shape
    half, fewer = width // 2, key.shape[2]
    _rotate[(batch * tokens,)](
        query, key, new_query, new_key, cos, sin, cos.shape[0] * tokens, heads, fewer, half, backwards,
        _power_of_2(heads), _power_of_2(fewer), _power_of_2(half),
    )  # fmt: skip
    return new_query.transpose(1, 2), new_key.transpose(1, 2)


def _power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()


def dequantized(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """The weight, (out, in) in the type it was quantized from, of bitsandbytes' 4 bits: `dequantize_4bit`, to the bit.

    Args:
        packed: two weights a byte. state: its `QuantState`, nested (double quantization) or not.
    """
    out = torch.empty(state.shape, dtype=state.dtype, device=packed.device)
    scales = (
        (state.absmax, state.state2.code, state.state2.absmax, state.offset) if state.nested else (state.absmax,) * 4
    )
    count = packed.numel()
    _dequantize[(-(-count // SMALL_BLOCK),)](
        packed, state.code, *scales, out, count, state.blocksize // 2, state.state2.blocksize if state.nested else 1,
        state.nested, SMALL_BLOCK, enable_fp_fusion=False,
    )  # fmt: skip
    return out


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

    @triton.jit
    def _turn(x, out, row, c1, c2, s1, s2, heads, half, backwards, block: tl.constexpr, columns):  # pyright: ignore[reportInvalidTypeForm]
        head = tl.arange(0, block)[:, None]
        first = (row * heads + head) * 2 * half + columns
        inside = (head < heads) & (columns < half)
        x1 = tl.load(x + first, mask=inside).to(tl.float32)
        x2 = tl.load(x + first + half, mask=inside).to(tl.float32)
        if backwards:
            y1 = x1 * c1 + x2 * s2
            y2 = x2 * c2 - x1 * s1
        else:
            y1 = x1 * c1 - x2 * s1
            y2 = x2 * c2 + x1 * s2
        tl.store(out + first, y1.to(out.dtype.element_ty), mask=inside)
        tl.store(out + first + half, y2.to(out.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["angles"])
    def _rotate(
        query, key, new_query, new_key, cos, sin, angles, heads: tl.constexpr, fewer: tl.constexpr, half: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
        backwards: tl.constexpr, block: tl.constexpr, small: tl.constexpr, wide: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
    ):  # fmt: skip
        """A program a token, for all its heads."""
        row = tl.program_id(0).to(tl.int64)
        columns = tl.arange(0, wide)[None, :]
        angle = (row % angles) * 2 * half + columns
        inside = columns < half
        c1 = tl.load(cos + angle, mask=inside).to(tl.float32)
        c2 = tl.load(cos + angle + half, mask=inside).to(tl.float32)
        s1 = tl.load(sin + angle, mask=inside).to(tl.float32)
        s2 = tl.load(sin + angle + half, mask=inside).to(tl.float32)
        _turn(query, new_query, row, c1, c2, s1, s2, heads, half, backwards, block, columns)
        _turn(key, new_key, row, c1, c2, s1, s2, fewer, half, backwards, small, columns)

    @triton.jit
    def _dequantize(
        packed, code, absmax, outer_code, outer_absmax, offset, out, count, bytes_a_scale: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
        scales_a_scale: tl.constexpr, nested: tl.constexpr, block: tl.constexpr,  # pyright: ignore[reportInvalidTypeForm]
    ):  # fmt: skip
        places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = places < count
        both = tl.load(packed + places, mask=inside, other=0).to(tl.int32)
        at = places // bytes_a_scale
        scale = tl.load(absmax + at, mask=inside, other=0)
        if nested:
            outer = tl.load(outer_absmax + at // scales_a_scale, mask=inside, other=0.0)
            scale = tl.load(outer_code + scale.to(tl.int32)) * outer + tl.load(offset)
        high = tl.load(code + (both >> 4)) * scale
        low = tl.load(code + (both & 15)) * scale
        values = tl.interleave(high, low).to(out.dtype.element_ty)
        two = tl.program_id(0).to(tl.int64) * 2 * block + tl.arange(0, 2 * block)
        tl.store(out + two, values, mask=two < 2 * count)
