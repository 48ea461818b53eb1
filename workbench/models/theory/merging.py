"""The page about merging."""

from __future__ import annotations

from collections.abc import Sequence

from engine.text import size
from workbench.models.theory.adapting import DETTMERS, HU
from workbench.models.theory.blocks import Block, Heading, Note, Numbers, Sources, Text, formula
from workbench.models.theory.facts import Choice, Facts

SHENG = "Sheng et al. 2023, S-LoRA: Serving Thousands of Concurrent LoRA Adapters, arXiv:2311.03285"


def merging(facts: Facts, choice: Choice) -> Sequence[Block]:
    return [
        Text("The update of a linear layer is linear, so it can be added to the weight once and for all:"),
        formula("W'  =  W + s B A", "y   =  W' x  =  W x + s B A x"),
        Text(
            "The merged model is an ordinary model of the base's size: every program loads it, no adapter code runs, and a "
            "token costs what it costs on the base. In exact arithmetic it is the same function; what differs is rounding."
        ),
        Heading("Rounding"),
        Text(
            "W' is stored in the base's 16 bits. bfloat16 has 8 significant bits: neighbouring numbers differ by 0.4 to 0.8 % "
            "of their size, and an update of less than half of that is lost on that weight. Over a whole row these "
            "errors mostly cancel in the sum, which is why a merge works at all; the check after each merge measures what "
            "is left, on real prompts: the KL divergence of the next token, and the perplexity."
        ),
        *[Note(text) for text in facts.merged],
        Heading("A base in 4 bits"),
        Text(
            "An adapter trained on a 4-bit base has learned s B A beside the rounded weight Q(W). There are two merges, and "
            "neither is wrong:"
        ),
        formula(
            "original   W    + s B A    the base of the files, in 16 bits",
            "rounded    Q(W) + s B A    what it was trained beside, kept in 16 bits",
        ),
        Text(
            "The first is better where quantization hurt the base, the second is what was measured in training. The merge "
            "never reads weights from a model that ran in 4 bits; Q(W) is computed from the files. Quantizing a merged "
            "model again rounds s B A, too, and is a third model that nobody has measured."
        ),
        Heading("When not to"),
        Text(
            "- Several adapters for one base: merged, each is a whole model. Served as adapters, they share the base:"
        ),
        *_sizes(facts),
        Text(
            "- While you still compare: an adapter is switched off in an instant, a merge only by loading the base again."
        ),
        Text(
            "- When the base is served in 4 bits because it does not fit otherwise: base in 4 bits plus adapter is the "
            "model you trained; keep it."
        ),
        Text(
            "- Adding several adapters into one weight mixes them: (s1 B1 A1 + s2 B2 A2) is not what either was trained "
            "for, and their errors add up. It is an experiment to be measured, not a way to ship two skills."
        ),
        Text("- Licences: a merged model holds the base's weights, and its terms come with it."),
        Sources((HU, DETTMERS, SHENG)),
    ]


def _sizes(facts: Facts) -> list[Block]:
    if facts.base is None or facts.table is None:
        return []
    from engine.architecture import adapter_parameters

    whole, own = 2 * facts.base.parameters, 4 * adapter_parameters(facts.base, facts.table.lora)
    rows = [[f"{n}", size(n * whole), size(whole + n * own)] for n in (1, 3, 10)]
    return [
        Numbers(["adapters", "merged, 16 bits", "base in 16 bits + adapters"], rows, ">>>"),
    ]
