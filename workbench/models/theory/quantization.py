"""The page about 4-bit bases."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.text import size
from workbench.models.theory.adapting import DETTMERS
from workbench.models.theory.blocks import Block, Heading, Note, Numbers, Sources, Text, formula
from workbench.models.theory.facts import Choice, Facts
from workbench.models.theory.numbers import NF4

YOSHIDA = "Yoshida 2023, NF4 Isn't Information Theoretically Optimal (and that's Good), arXiv:2306.06965"
INT8 = "Dettmers et al. 2022, LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale, arXiv:2208.07339"


def four_bit(facts: Facts, choice: Choice) -> Sequence[Block]:
    rows = [[f"{i}", f"{NF4[i]:+.4f}", f"{i + 8}", f"{NF4[i + 8]:+.4f}"] for i in range(8)]
    return [
        Text(
            "The base is frozen: its weights are only read. So they may be kept in 4 bits, and made into 16-bit numbers "
            "for each product and forgotten again. What is trained, the adapter, stays in fp32, and the gradient flows "
            "through the rounded base as through any other. The adapter is then learned for the rounded base, and makes "
            "up for a part of its error."
        ),
        Heading("The code"),
        Text(
            "Trained weights are nearly normally distributed around zero. NF4 takes 16 values at which a normal "
            "distribution has about equally many weights each, scaled to [-1, 1], with an exact 0. (Only about: how the "
            "weights of a block spread depends on its length; Yoshida 2023.)"
        ),
        Numbers(["code", "value", "code", "value"], rows, ">>>>"),
        Heading("The scale"),
        Text(
            "64 weights in a row form a block. The block keeps its largest magnitude, and a 4-bit code for each weight:"
        ),
        formula(
            "absmax   =  max |w|  over the 64",
            "code(w)  =  the i for which NF4[i] is nearest to w / absmax",
            "back     =  absmax x NF4[code]",
        ),
        *_block(facts),
        Text(
            "A block is small so that one large weight spoils only 63 others. Its scale costs 32 / 64 = 0.5 bit a weight. "
            "Double quantization keeps the scales themselves in 8 bits (their mean taken off, 256 of them under one fp32 "
            "scale):"
        ),
        formula(
            "bits a weight  =  4 + 32/64                =  4.5    plain",
            f"                  4 + 8/64 + 32/(64 x 256) =  {4 + 8 / 64 + 32 / (64 * 256):.3f}  doubly",
        ),
        *_errors(facts),
        *_sizes(facts),
        Heading("What it costs"),
        Text(
            "Time: every forward and backward pass dequantizes every matrix, so a small model trains slower than in 16 "
            "bits. Precision: the base itself gets a little worse, usually by a few hundredths of a nat a token and more "
            "for small models; measure it (the evaluation has the base's row). Embeddings, norms and the head are never "
            "quantized. QLoRA reports no loss against 16-bit LoRA after fine-tuning, at 7 to 65 billion parameters; "
            "for models much smaller than that, do not take it on trust."
        ),
        Sources((DETTMERS, YOSHIDA, INT8)),
    ]


def _block(facts: Facts) -> list[Block]:
    if facts.sample is None:
        return []
    block = facts.sample.block
    rows = []
    for weight, code in list(zip(block.weights, block.codes, strict=True))[:6]:
        back = block.absmax * NF4[code]
        scaled = weight / block.absmax if block.absmax else 0.0
        rows.append([f"{weight:+.5f}", f"{scaled:+.3f}", f"{code}", f"{back:+.5f}", f"{back - weight:+.5f}"])
    return [
        Note(f"The first of the 64 weights in the first block of {facts.sample.tensor}, absmax {block.absmax:.5f}:"),
        Numbers(["w", "w / absmax", "code", "back", "error"], rows, ">>>>>"),
    ]


def _errors(facts: Facts) -> list[Block]:
    if facts.sample is None:
        return []
    rows = [[name, f"{error:.2%}"] for name, error in facts.sample.errors.items()]
    return [
        Note(
            f"Root mean square error over that of the weights, on {facts.sample.count:,} weights of {facts.sample.tensor}:"
        ),
        Numbers(["held as", "error"], rows, "<>"),
    ]


def _sizes(facts: Facts) -> list[Block]:
    if facts.base is None or facts.table is None:
        return [Note(f"No sizes here: {facts.problem}.")]
    from engine.estimate import base_bytes

    rows, own = [], None
    kinds = (("none", False, "16 bits"), ("int8", False, "int8"), ("nf4", False, "NF4"), ("nf4", True, "NF4, double"))
    model = facts.table.model
    for kind, double, words in kinds:
        changed = model.model_copy(update={"quantization": kind, "double_quantization": double})
        count = base_bytes(facts.base, facts.table.model_copy(update={"model": changed}), 2)
        if model.quantization == kind and (kind != "nf4" or model.double_quantization == double):
            own = len(rows)
        rows.append([words, size(count), f"{8 * count / facts.base.parameters:.2f}"])
    share = sum(m.elements for m in facts.base.linear) / facts.base.parameters
    return [
        Note(f"{facts.project}'s base: {facts.base.parameters:,} weights, {share:.1%} of them in linear layers."),
        Numbers(["held as", "bytes", "bits a weight"], rows, "<>>", own=own),
    ]


def quantile_code(offset: float = 0.9677083) -> list[float]:
    """NF4 from its definition: quantiles of the normal distribution (bitsandbytes' create_normal_map)."""
    from statistics import NormalDist

    normal = NormalDist()

    def quantiles(count: int) -> list[float]:
        return [normal.inv_cdf(offset + (0.5 - offset) * i / count) for i in range(count)]

    values = sorted([*quantiles(8), 0.0, *(-q for q in quantiles(7))])
    largest = max(map(math.fabs, values))
    return [v / largest for v in values]
