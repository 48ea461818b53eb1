"""Pages about the adapter itself: the decomposition, its scaling, its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.text import one_line, size
from workbench.models.theory.blocks import Block, Heading, Note, Numbers, Sources, Text, formula
from workbench.models.theory.facts import TARGETS, Choice, Facts, names_of

if TYPE_CHECKING:
    from engine.architecture import Architecture, Matrix
    from engine.tables import LoraTable

HU = "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685"
KALAJDZIEVSKI = "Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv:2312.03732"
AGHAJANYAN = (
    "Aghajanyan et al. 2020, Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning, "
    "arXiv:2012.13255"
)
DETTMERS = "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs, arXiv:2305.14314"
ORDER = ("embedding", "attention in", "attention out", "mlp in", "mlp out", "expert", "other", "head")
KEYS = "Keys here: + and - change r, t the targets, a and A alpha, s rsLoRA, 0 goes back to the project's own."


def missing(facts: Facts) -> list[Block]:
    """Why there are no numbers of the project, where there are none."""
    return [Note(f"No numbers here: {facts.problem}.")] if facts.base is None else []


def scale(lora: LoraTable) -> float:
    return lora.alpha / (math.sqrt(lora.r) if lora.rslora else lora.r)


def setting(facts: Facts, choice: Choice, lora: LoraTable) -> Note:
    """What is shown: the project's own settings, or changed ones."""
    changed = choice != Choice()
    targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    which = f"changed from {facts.project}'s project.toml" if changed else f"as in {facts.project}'s project.toml"
    rule = "alpha / sqrt(r)" if lora.rslora else "alpha / r"
    text = f"r = {lora.r}, alpha = {lora.alpha:g}, scaling {rule} = {scale(lora):.4g}, targets {one_line(targets)}"
    return Note(f"{text} ({which}). {KEYS}")


def low_rank(facts: Facts, choice: Choice) -> Sequence[Block]:
    lora = choice.lora(facts)
    blocks: list[Block] = [
        Text(
            "Full fine-tuning learns a new value for every weight. LoRA keeps the base as it is and learns, beside each "
            "chosen linear layer, an update that is the product of two thin matrices:"
        ),
        formula(
            "y  =  W x  +  s B A x",
            "W  outputs x inputs   the base's weight, frozen",
            "A  r x inputs         starts random",
            "B  outputs x r        starts at zero, so that the base is where it starts",
            "s  alpha / r          the scaling, a constant",
        ),
        Text(
            "The update B A has at most rank r. A layer then has r (inputs + outputs) trained numbers in place of "
            "inputs x outputs; that is fewer as long as r < inputs x outputs / (inputs + outputs). It works because what "
            "fine-tuning has to change lies, for many tasks, close to a space of few dimensions (Aghajanyan et al. 2020)."
        ),
    ]
    if facts.base is None:
        return [*blocks, *missing(facts), Sources((HU, AGHAJANYAN))]
    blocks += [Heading(f"In {facts.project}"), setting(facts, choice, lora), *_shapes(facts.base, lora)]
    return [*blocks, *_memory(facts, lora), Sources((HU, AGHAJANYAN))]


def groups(matrices: Sequence[Matrix]) -> dict[tuple[str, int, int], list[Matrix]]:
    """Matrices of the same name and shape, in the order in which a token meets them."""
    found: dict[tuple[str, int, int], list[Matrix]] = {}
    for m in sorted(matrices, key=lambda m: (ORDER.index(m.role), "qkvgu".find(m.last[0]), m.last)):
        found.setdefault((m.last, m.outputs, m.inputs), []).append(m)
    return found


def _shapes(base: Architecture, lora: LoraTable) -> list[Block]:
    from engine.architecture import adapter_parameters, rank_of

    chosen = base.targets(lora)
    rows = []
    for (name, outputs, inputs), members in groups(chosen).items():
        ranks = [rank_of(m, lora) for m in members]
        own = sum(r * (inputs + outputs) for r in ranks)
        whole = inputs * outputs * len(members)
        low, high = min(ranks), max(ranks)
        rank = f"{low}" if low == high else f"{low}-{high}"
        rows.append(
            [name, f"{len(members)}", f"{outputs} x {inputs}", f"{whole:,}", rank, f"{own:,}", f"{own / whole:.2%}"]
        )
    if not rows:
        return [Note("These targets name no layer of this base.")]
    trained = adapter_parameters(base, lora)
    rows.append(
        ["all", f"{len(chosen)}", "", f"{base.parameters:,}", "", f"{trained:,}", f"{trained / base.parameters:.2%}"]
    )
    even = min(m.elements // (m.inputs + m.outputs) for m in chosen)
    blocks: list[Block] = [
        Numbers(["layer", "count", "W", "weights", "r", "trained", "share"], rows, "<>>>>>>", own=len(rows) - 1),
    ]
    if (largest := max(rank_of(m, lora) for m in chosen)) > even:
        blocks.append(
            Note(
                f"r = {largest} is past the break-even of the smallest layer ({even}): there LoRA trains more numbers than W has."
            )
        )
    return blocks


def _memory(facts: Facts, lora: LoraTable) -> list[Block]:
    from engine.architecture import adapter_parameters

    base, estimate = facts.base, facts.estimate(lora)
    assert base is not None and estimate is not None and facts.table is not None
    trained = adapter_parameters(base, lora)
    state = estimate.of("optimizer")
    full = base.parameters
    rows = [
        ["weights", size(estimate.of("base") + estimate.of("adapter")), size(4 * full)],
        ["gradients", size(4 * trained), size(4 * full)],
        ["optimizer", size(state), size(8 * full)],
        ["file that is kept", size(4 * trained), size(2 * full)],
    ]
    return [
        Text(
            "AdamW keeps two fp32 moments for every trained number, and the backward pass a gradient. LoRA needs them for "
            "the adapter only, and the frozen base may stay in "
            f"{facts.table.model.quantization if facts.table.model.quantization != 'none' else '16 bits'}:"
        ),
        Numbers(["bytes for", "this adapter", "full fine-tuning, fp32"], rows, "<>>"),
        Text(
            f"A whole run of this project needs about {size(estimate.total)} with these settings, of which "
            f"{size(estimate.of('activations'))} are activations, which the rank hardly changes."
        ),
    ]


def scaling(facts: Facts, choice: Choice) -> Sequence[Block]:
    lora = choice.lora(facts)
    ranks = sorted({1, 4, 8, 16, 32, 64, 128, 256, lora.r})
    rows = []
    for r in ranks:
        plain, stable = lora.alpha / r, lora.alpha / math.sqrt(r)
        rows.append([f"{r}", f"{plain:.4g}", f"{stable:.4g}", f"{1 / math.sqrt(r):.3f}"])
    return [
        Text("The adapter's product is multiplied by a constant before it is added:"),
        formula("s  =  alpha / r           LoRA", "s  =  alpha / sqrt(r)     rsLoRA"),
        Text(
            "alpha acts like a learning rate of the update: with Adam, whose steps do not depend on the size of the "
            "gradient, twice the alpha moves the product about twice as far. So alpha and the learning rate are tuned "
            "together, and usually alpha is fixed (r or 2 r) and the learning rate is searched."
        ),
        Text(
            "Division by r is meant to make one learning rate do for all ranks. It divides by too much: an entry of B A "
            "is a sum of r terms, which grows like sqrt(r) where they are independent, so that alpha / r makes the "
            "update of a high rank ever weaker, and ranks of 64 and more learn hardly faster than 8. alpha / sqrt(r) "
            "keeps outputs and gradients of the adapter at the same size for every rank (Kalajdzievski 2023). Below 16 "
            "the two differ by less than a factor of four, which the learning rate takes up."
        ),
        setting(facts, choice, lora),
        Numbers(
            ["r", f"{lora.alpha:g} / r", f"{lora.alpha:g} / sqrt(r)", "LoRA's over rsLoRA's"], rows, ">>>>",
            own=ranks.index(lora.r),
        ),
        Text(
            "What merging adds to the base is s B A, with the same s. When you change r by hand, keep s and not alpha: "
            f"with s = {scale(lora):.4g}, r = {2 * lora.r} wants alpha = "
            f"{lora.alpha * (math.sqrt(2) if lora.rslora else 2):.4g}."
        ),
        Text(
            "PEFT counts with the same rule for each layer: a layer with a rank of its own (lora.rank_pattern) has "
            "alpha / its rank, unless lora.alpha_pattern gives it an alpha of its own, too."
        ),
        Sources((HU, KALAJDZIEVSKI)),
    ]  # fmt: skip


def targets(facts: Facts, choice: Choice) -> Sequence[Block]:
    lora = choice.lora(facts)
    blocks: list[Block] = [
        Text(
            "A decoder layer has linear layers in two places: attention (q, k and v read the hidden state, o writes back) "
            "and the MLP (gate and up read, down writes). lora.target_modules says which of them get an adapter: "
            '"all-linear" (all but the head), a list of names, or a regular expression over full names.'
        ),
        Text(
            "The first paper adapted attention only, and found q and v together better than either at the same number "
            "of parameters. Later work is clear that this is too little: QLoRA needed adapters on all linear layers to "
            "match full fine-tuning, and found the rank to matter far less than that. The MLP holds most of the weights; "
            "leaving it out is what costs most."
        ),
    ]
    if facts.base is None:
        return [*blocks, *missing(facts), Sources((HU, DETTMERS))]
    return [
        *blocks,
        Heading(f"In {facts.project}"),
        setting(facts, choice, lora),
        *_places(facts.base, lora, choice),
        *_shapes(facts.base, lora),
        Text(
            "The head and the embeddings are left out by all-linear, and by 4-bit quantization as well. New tokens in the "
            'vocabulary are the reason to train them: lora.modules_to_save = ["embed_tokens", "lm_head"] does so in full, '
            "and makes the adapter as large as those matrices."
        ),
        Sources((HU, DETTMERS, "Schulman et al. 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora")),
    ]


def _places(base: Architecture, lora: LoraTable, choice: Choice) -> list[Block]:
    """Choices of targets at this rank, and the rank at which each trains as many numbers as what is shown."""
    from engine.architecture import adapter_parameters

    now = adapter_parameters(base, lora)
    rows, own = [], None
    for name in list(TARGETS)[1:]:
        table = lora.model_copy(update={"target_modules": names_of(base, name), "rank_pattern": {}})
        each = adapter_parameters(base, table)
        per_rank = each / table.r
        if choice.targets == name or (choice.targets == "project" and lora.target_modules == table.target_modules):
            own = len(rows)
        layers = f"{len(base.targets(table))}"
        rows.append(
            [name, layers, f"{each:,}", f"{each / base.parameters:.2%}", f"{now / per_rank:.0f}" if each else "-"]
        )
    headers = ["targets", "layers", f"trained at r = {lora.r}", "share", f"r for {now:,}"]
    return [Numbers(headers, rows, "<>>>>", own=own)]
