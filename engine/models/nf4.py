"""The weights that a 4-bit base really computes with: a tensor of the file, through NF4 or FP4 and back.

Comes from: `merge`, with a weight as the base's file holds it. Goes to: the merge into the rounded base. Computed from
the file, never from a live model: bitsandbytes 0.50 repacks live weights on some CPUs, after which they dequantize to
garbage. QLoRA (Dettmers et al. 2023, arXiv:2305.14314): blocks of 64 weights share one scale, and with double
quantization blocks of 256 scales are themselves kept in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from engine.tables import ModelTable

Code = Literal["nf4", "fp4"]

BLOCK = 64


@dataclass(frozen=True, slots=True)
class FourBit:
    """How the base was held in 4 bits while its adapter was trained.

    Attributes:
        code: the 16 values that a weight can take.
        double: the scales are quantized too.
        dtype: what the weights were cast to when the base was loaded, before they were quantized.
        skip_modules: modules left as they are (`llm_int8_skip_modules`); None: transformers' choice (the head).
        device: where to compute; the kernels of different devices may differ in the last bit.
    """

    code: Code = "nf4"
    double: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    skip_modules: tuple[str, ...] | None = None
    device: str = "cpu"


def four_bit_code(table: ModelTable) -> Code:
    """That of model.quantization; NF4 where the base is not held in 4 bits."""
    return "fp4" if table.quantization == "fp4" else "nf4"


def rounded(weight: torch.Tensor, how: FourBit) -> torch.Tensor:
    """What `weight` is after quantization and dequantization, in `how.dtype`, on the CPU.

    Args:
        weight: any shape, oriented as the quantized layer holds it: (out, in). Takes about 15 bytes an element.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    here = weight.to(getattr(torch, how.dtype)).contiguous().to(how.device)
    codes, state = quantize_4bit(here, blocksize=BLOCK, compress_statistics=how.double, quant_type=how.code)
    return dequantize_4bit(codes, state).to("cpu")
