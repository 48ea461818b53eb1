"""The arithmetic of Learn in plain Python: NF4 and double quantization as bitsandbytes does them, the schedule of the
learning rate, perplexities. tests/workbench/test_theory.py holds each against the library that really does it.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.architecture import Architecture
    from engine.tables import TrainTable

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of NF4 (QLoRA, arXiv:2305.14314, appendix E)."""
UNIFORM = tuple(i / 7 for i in range(-7, 8))
"""Four bits with equal steps, for comparison: 15 of 16 codes, symmetric."""
BLOCK = 64
SAMPLED = 128 * BLOCK


def nearest(code: Sequence[float], value: float) -> int:
    """The index of the code's value that is nearest; of two that are equally near, the lower."""
    at = bisect_left(code, value)
    if at == 0:
        return 0
    if at == len(code) or value - code[at - 1] <= code[at] - value:
        return at - 1
    return at


@dataclass(frozen=True, slots=True)
class Block:
    """64 weights, their scale, and the code of each."""

    weights: tuple[float, ...]
    absmax: float
    codes: tuple[int, ...]

    def back(self, code: Sequence[float] = NF4) -> list[float]:
        return [self.absmax * code[i] for i in self.codes]


def quantize(weights: Sequence[float], code: Sequence[float] = NF4) -> list[Block]:
    """Blocks of 64: each weight becomes the value of `code` that is nearest to weight / absmax."""
    blocks = []
    for start in range(0, len(weights), BLOCK):
        part = tuple(weights[start : start + BLOCK])
        absmax = max(map(abs, part))
        codes = tuple(nearest(code, w / absmax) if absmax else nearest(code, 0.0) for w in part)
        blocks.append(Block(part, absmax, codes))
    return blocks


@cache
def dynamic_code() -> tuple[float, ...]:
    """The 256 values of bitsandbytes' 8-bit dynamic code (Dettmers 2015, arXiv:1511.04561), which holds the scales."""
    values: list[float] = [0.0, 1.0]
    for exponent in range(7):
        count = 2**exponent
        ends = [0.1 + 0.9 * i / count for i in range(count + 1)]
        means = [(a + b) / 2 * 10.0 ** (exponent - 6) for a, b in pairwise(ends)]
        values += [*means, *(-m for m in means)]
    return tuple(sorted(values))


def double_quantized(scales: Sequence[float], group: int = 256) -> list[float]:
    """Scales after double quantization: the mean is taken off, the rest goes through 8 bits, 256 sharing one scale."""
    mean = math.fsum(scales) / len(scales)
    code, back = dynamic_code(), []
    for start in range(0, len(scales), group):
        rest = [s - mean for s in scales[start : start + group]]
        largest = max(map(abs, rest)) or 1.0
        back += [code[nearest(code, x / largest)] * largest + mean for x in rest]
    return back


def relative_error(weights: Sequence[float], back: Sequence[float]) -> float:
    """Root mean square of the error over that of the weights."""
    error = math.fsum((a - b) ** 2 for a, b in zip(weights, back, strict=True))
    whole = math.fsum(a * a for a in weights)
    return math.sqrt(error / whole) if whole else 0.0


@dataclass(frozen=True)
class Sample:
    """The first weights of a real tensor, and what they lose.

    Attributes:
        block: the first block. errors: relative root mean square by what holds the weights.
    """

    tensor: str
    count: int
    block: Block
    errors: dict[str, float]


def sample_of(folder: Path) -> Sample | None:
    """A sample of the first linear layer of a base; None where it cannot be read."""
    from engine import architecture
    from engine.errors import EngineError

    try:
        base = architecture.read(folder)
        name = f"{base.linear[0].name}.weight"
        weights = read_floats(folder, name, SAMPLED)
    except (EngineError, OSError, IndexError, KeyError):
        return None
    blocks, uniform = quantize(weights), quantize(weights, UNIFORM)
    scales = double_quantized([b.absmax for b in blocks])
    twice = [s * NF4[i] for b, s in zip(blocks, scales, strict=True) for i in b.codes]
    errors = {
        "16 bits": relative_error(weights, weights),
        "int8, a scale a row": relative_error(weights, _int8(weights, base.linear[0].inputs)),
        "4 bits, equal steps": relative_error(weights, [w for b in uniform for w in b.back(UNIFORM)]),
        "NF4": relative_error(weights, [w for b in blocks for w in b.back()]),
        "NF4, double quantization": relative_error(weights, twice),
    }
    return Sample(name, len(weights), blocks[0], errors)


def _int8(weights: Sequence[float], row: int) -> list[float]:
    """LLM.int8()'s weights: each row over its largest, times 127, rounded (arXiv:2208.07339)."""
    back: list[float] = []
    for start in range(0, len(weights), row):
        part = weights[start : start + row]
        scale = max(map(abs, part)) / 127 or 1.0
        back += [round(w / scale) * scale for w in part]
    return back


def read_floats(folder: Path, name: str, count: int) -> list[float]:
    """The first `count` numbers of a tensor of a model's folder.

    Raises:
        EngineError: it cannot be read. KeyError: there is no such tensor, or it holds no 16- or 32-bit floats.
    """
    from engine.safetensors_io import Checkpoint

    with Checkpoint.open(folder) as checkpoint:
        return _floats(checkpoint, name, 0, count)


def _floats(checkpoint, name: str, first: int, count: int) -> list[float]:
    entry = checkpoint.entries[name]
    size = {"BF16": 2, "F16": 2, "F32": 4}[entry.dtype]
    count = min(count, entry.elements - first)
    buffer = bytearray(count * size)
    checkpoint.read_into(entry, first * size, buffer)
    if entry.dtype == "F32":
        return list(array("f", bytes(buffer)))
    if entry.dtype == "F16":
        return list(struct.unpack(f"<{count}e", buffer))
    wide = bytearray(count * 4)  # bfloat16 is the upper half of a float32
    wide[2::4], wide[3::4] = buffer[0::2], buffer[1::2]
    return list(array("f", bytes(wide)))


def to_bf16(value: float) -> float:
    """`value` rounded to bfloat16, to nearest, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    bits += 0x7FFF + ((bits >> 16) & 1)
    return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]


def merged_of(base: Architecture, adapter: Path, label: str, side: int = 48) -> tuple[str, ...]:
    """What merging does to a corner (`side` x `side`) of the first adapted layer, as sentences; empty where it cannot
    be worked out."""
    from engine import adapters
    from engine.errors import EngineError
    from engine.safetensors_io import Checkpoint

    try:
        config = adapters.read_config(adapter)
        with Checkpoint([adapter / adapters.WEIGHTS]) as stored:
            prefix = adapters.PREFIX
            names = {n.removeprefix(prefix).removesuffix(".lora_A.weight") for n in stored.entries if ".lora_A." in n}
            matrix = next(m for m in base.linear if m.name in names)
            r, s = adapters.rank(config, matrix.name), adapters.scaling(config, matrix.name)
            a = _floats(stored, f"{prefix}{matrix.name}.lora_A.weight", 0, r * matrix.inputs)
            b = _floats(stored, f"{prefix}{matrix.name}.lora_B.weight", 0, min(side, matrix.outputs) * r)
        rows, columns = min(side, matrix.outputs), min(side, matrix.inputs)
        with Checkpoint.open(base.source) as checkpoint:
            weight = [_floats(checkpoint, f"{matrix.name}.weight", i * matrix.inputs, columns) for i in range(rows)]
    except (EngineError, KeyError, StopIteration, OSError):
        return ()
    lost, delta2, weight2 = 0, 0.0, 0.0
    for i in range(rows):
        for j in range(columns):
            update = s * math.fsum(b[i * r + k] * a[k * matrix.inputs + j] for k in range(r))
            old = to_bf16(weight[i][j])
            lost += to_bf16(old + update) == old
            delta2 += update * update
            weight2 += old * old
    count, share = rows * columns, math.sqrt(delta2 / weight2) if weight2 else 0.0
    return (
        f"In the first {rows} x {columns} weights of {matrix.name}, the update of run {label} (scaling {s:.4g}) has "
        f"{share:.2%} of the weights' root mean square.",
        f"Written back in bfloat16, {lost / count:.1%} of these {count:,} weights round to what they were before.",
    )


def learning_rate(train: TrainTable, step: int, steps: int) -> float:
    """The learning rate of step `step` (from 0), as `engine.training.order.learning_rate` has it."""
    warm = math.ceil(train.warmup * steps - 1e-9)
    if step < warm:
        return train.learning_rate * (step + 1) / warm
    if train.schedule == "constant":
        return train.learning_rate
    passed, low = (step - warm) / max(1, steps - warm), train.minimum_learning_rate
    shape = 1.0 - passed if train.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * passed))
    return train.learning_rate * (low + (1.0 - low) * shape)


@dataclass(frozen=True, slots=True)
class Perplexities:
    """Three ways to make one number of the same rows; only the first is a perplexity of the text."""

    of_all: float
    mean_of_rows: float
    of_mean_rows: float


def perplexities(rows: Sequence[tuple[float, int]]) -> Perplexities:
    """exp(sum nll / sum tokens); mean over rows of exp(nll / tokens); exp(mean over rows of nll / tokens)."""

    def exp(x: float) -> float:
        return math.exp(x) if x < 700 else math.inf

    each = [nll / tokens for nll, tokens in rows]
    return Perplexities(
        exp(math.fsum(n for n, _ in rows) / sum(t for _, t in rows)),
        math.fsum(exp(e) for e in each) / len(each) if max(each) < 700 else math.inf,
        exp(math.fsum(each) / len(each)),
    )
