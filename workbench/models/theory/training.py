"""Pages about training: dropout, the learning rate's course, what the loss is a mean of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.text import size
from workbench.models.series import Series
from workbench.models.theory.adapting import DETTMERS, missing
from workbench.models.theory.blocks import Block, Chart, Heading, Note, Numbers, Sources, Text, formula
from workbench.models.theory.facts import Choice, Facts
from workbench.models.theory.numbers import learning_rate

SRIVASTAVA = "Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 15"
LOSHCHILOV = "Loshchilov & Hutter 2017, Decoupled Weight Decay Regularization (AdamW), arXiv:1711.05101"
COSINE = "Loshchilov & Hutter 2016, SGDR: Stochastic Gradient Descent with Warm Restarts (cosine), arXiv:1608.03983"
HAYOU = "Hayou et al. 2024, LoRA+: Efficient Low Rank Adaptation of Large Models, arXiv:2402.12354"
KRELL = "Krell et al. 2021, Efficient Sequence Packing without Cross-contamination, arXiv:2107.02027"
PARTS = 200
"""Points of the curve where the number of steps is not known."""


def dropout(facts: Facts, choice: Choice) -> Sequence[Block]:
    blocks: list[Block] = [
        Text(
            "lora.dropout = p sets each number of the adapter's input to zero with probability p, anew in every pass, and "
            "divides the others by 1 - p:"
        ),
        formula("y  =  W x  +  s B A drop(x)", "drop(x)  =  x m / (1 - p),   m is 1 with probability 1 - p, else 0"),
        Text(
            "The mean of drop(x) is x, so nothing has to be rescaled afterwards. The base's own path, W x, is never "
            "dropped. In evaluation, generation and after merging there is no dropout."
        ),
        Text(
            "It is noise against learning rows by heart. QLoRA used 0.1 for its 7B and 13B models and 0.05 for larger "
            "ones. Look at the unseen loss before you turn it on: where it still falls, dropout only makes training "
            "slower. Where it rises while the training loss falls, fewer steps (train.early_stopping), more rows or "
            "a lower rank come first, and cost nothing."
        ),
    ]
    if facts.base is None or facts.table is None:
        return [*blocks, *missing(facts), Sources((SRIVASTAVA, DETTMERS))]
    rows, own = [], None
    now = facts.table.lora.dropout
    for p in sorted({0.0, 0.05, 0.1, now}):
        estimate = facts.estimate(facts.table.lora.model_copy(update={"dropout": p}))
        assert estimate is not None
        if p == now:
            own = len(rows)
        rows.append([f"{p:g}", size(estimate.of("activations")), size(estimate.total)])
    return [
        *blocks,
        Heading(f"In {facts.project}"),
        Text(
            "Its price is memory: the dropped input is a tensor of its own, kept with its mask for the backward pass."
        ),
        Numbers(["p", "activations", "whole run, about"], rows, ">>>", own=own),
        Sources((SRIVASTAVA, DETTMERS)),
    ]


def rate(facts: Facts, choice: Choice) -> Sequence[Block]:
    blocks: list[Block] = [
        Text(
            "A step of AdamW moves each number by about the learning rate, whatever the size of its gradient: the update "
            "is the mean gradient over the root of the mean square gradient."
        ),
        formula(
            "m  =  b1 m + (1 - b1) g             v  =  b2 v + (1 - b2) g^2",
            "p  =  p  -  rate ( m' / (sqrt(v') + eps)  +  weight_decay p )",
            "m' = m / (1 - b1^t)                 v' = v / (1 - b2^t)",
        ),
        Text(
            "LoRA wants a higher rate than full fine-tuning, about ten times: 1e-4 to 5e-4 for models of some billion "
            "parameters, and more for very small ones. Too low: the loss falls slowly and evenly. Too high: it jumps, "
            "the gradient norm grows, or the loss stays on a plateau. When in doubt, run 1/3, 1 and 3 times the rate for "
            "a tenth of the steps and compare the unseen loss (Compare runs)."
        ),
        Text(
            "The rate rises over the first steps (warm-up), while Adam's two means are still made of few gradients, and "
            "falls towards the end, so that the last steps average instead of wandering."
        ),
    ]
    sources = Sources(
        (LOSHCHILOV, COSINE, HAYOU, "Schulman et al. 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora")
    )
    if facts.table is None:
        return [*blocks, Note(f"No curve here: {facts.problem}."), sources]
    train, steps = facts.table.train, facts.steps or PARTS
    warm = math.ceil(train.warmup * steps - 1e-9)
    curve = Series("learning rate")
    every = max(1, steps // 2000)
    x = [*range(0, steps - 1, every), steps - 1]
    curve.extend([s + 1 for s in x], [learning_rate(train, s, steps) for s in x])
    known = (
        f"{steps:,} steps"
        if facts.steps
        else "the steps follow from epochs and rows, and are not known here: drawn over 200"
    )
    rule = {
        "constant": "rate(k)  =  learning_rate",
        "linear": "rate(k)  =  learning_rate (low + (1 - low) (1 - q))",
        "cosine": "rate(k)  =  learning_rate (low + (1 - low) (1 + cos(pi q)) / 2)",
    }[train.schedule]
    clip = f"clipped to norm {train.max_gradient_norm:g}" if train.max_gradient_norm else "not clipped"
    plus = facts.table.lora.lora_plus_ratio
    notes = (
        f"LoRA+ trains B at {plus:g} times the rate of A."
        if plus != 1
        else "A and B have the same rate (LoRA+ would give B more)."
    )
    return [
        *blocks,
        Heading(f"In {facts.project}"),
        Note(
            f"learning_rate = {train.learning_rate:g}, {train.schedule}, warm-up {train.warmup:g} ({warm} steps of {steps:,}); "
            f"{known}. Gradients are {clip}. {notes}"
        ),
        Chart("learning rate", "", curve),
        formula(
            "k < warm:  rate(k)  =  learning_rate (k + 1) / warm",
            f"then:      {rule}",
            f"           q = (k - warm) / (steps - warm),  low = {train.minimum_learning_rate:g}",
        ),
        sources,
    ]


def masking(facts: Facts, choice: Choice) -> Sequence[Block]:
    blocks: list[Block] = [
        Text(
            "A language model predicts each token from those before it. Fine-tuning on answers asks it for the answer's "
            "tokens only: the prompt is read but not supervised, its tokens have weight 0. The token that ends the answer "
            "has weight 1, otherwise the model never learns to stop."
        ),
        formula(
            "loss  =  sum of w_t x -log p(token_t | tokens before)  /  sum of w_t",
            "w_t   =  1 for the completion and the token that ends it, else 0",
        ),
        Heading("One denominator"),
        Text(
            "A step's gradient is the mean over ALL its supervised tokens. When the step is done in micro-batches, the "
            "denominator is still that of the whole step. Dividing each micro-batch by its own count, and averaging the "
            "means, weighs a token in a micro-batch of short answers more than one among long answers:"
        ),
        formula(
            "micro-batch 1     10 tokens, sum of -log p = 30,  mean 3.0",
            "micro-batch 2     90 tokens, sum of -log p = 90,  mean 1.0",
            "mean of means     (3.0 + 1.0) / 2        =  2.0   changes with the split",
            "one denominator   (30 + 90) / (10 + 90)  =  1.2   does not",
        ),
        Text(
            "Here train.micro_batch_tokens changes memory and speed, never the result: a test holds that, and that "
            "packing, padding and activation checkpointing do not change it either."
        ),
        Heading("Packing"),
        Text(
            "Examples of one micro-batch lie end to end, without padding. Each attends only to itself and its positions "
            "start at 0: otherwise an answer would be predicted from a stranger's text. train.packing = true joins "
            "examples into packs of up to max_length before steps are made, so that steps have equal numbers of tokens; "
            "the number of examples in a step then varies."
        ),
    ]  # fmt: skip
    if facts.supervised:
        supervised, tokens = facts.supervised
        blocks.append(
            Note(
                f"{facts.project}: in the newest step of its newest run {supervised:,} of {tokens:,} tokens were supervised "
                f"({supervised / tokens:.0%}); the loss of that step has the denominator {supervised:,}."
                if tokens
                else f"{facts.project}: its newest step had no tokens."
            )
        )
    else:
        blocks.append(
            Note("Where this project has a run, its supervised share stands here; the data view shows it row by row.")
        )
    return [*blocks, Sources((KRELL,))]
