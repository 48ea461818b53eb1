"""Prove that a merged model is base + adapter: logits on fixed prompts and perplexity on unseen rows.

Comes from: the merged folder, beside its final place. Goes to: a report; `jobs.merging` renames the folder into place
only when it holds. The reference is the base as the merge took it (full precision, or rounded through 4 bits) with the
adapter attached by PEFT.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.evaluation import matrix
from engine.generation import answering
from engine.models import loading
from engine.models.loaded import Loaded
from engine.models.nf4 import four_bit_code
from engine.store import Workspace
from engine.tables import Project
from engine.tokens.examples import Example

NAME = "adapter"

KL_FLOOR = 2e-3
"""Nats. What rounding the merged weights once to 16 bits costs on small models (measured: 1e-5 to 1e-3)."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How close the merged model is to base + adapter.

    Attributes:
        kl: mean KL(base + adapter || merged) of the next token after each prompt, nats.
        adapter_kl: the same from base + adapter to base alone: how much there was to carry over.
        largest_logit_difference: between base + adapter and merged.
        same_next_token: share of prompts whose likeliest next token is the same.
        perplexity_adapter, perplexity_merged: on the same unseen tokens.
        reference: what the merged model was compared with, in words.
    """

    kl: float
    adapter_kl: float
    largest_logit_difference: float
    same_next_token: float
    perplexity_adapter: float
    perplexity_merged: float
    prompts: int
    tokens: int
    reference: str

    @property
    def holds(self) -> bool:
        """Close to base + adapter, by an order of magnitude closer than base is, and equally perplexed."""
        near = self.kl <= max(KL_FLOOR, 0.05 * self.adapter_kl)
        ratio = self.perplexity_merged / self.perplexity_adapter if self.perplexity_adapter else math.inf
        return bool(near and abs(math.log(ratio)) < 0.02)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def verify(
    project: Project,
    workspace: Workspace,
    adapter: Path,
    merged: Path,
    examples: Sequence[Example],
    base_weights: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Compare `merged` with base + adapter on the prompts and completions of `examples`.

    Both are loaded one after the other, so that memory holds one of them at a time.

    Args:
        progress: gets (passes done, passes in all): of each prompt one by base, base + adapter and merged.

    Raises:
        InputError, WorkFailed: one of them does not load.
    """
    whole = project.model.model_copy(update={"quantization": "none"})
    taken = whole.model_copy(update={"quantization": four_bit_code(project.model)}) if base_weights == "nf4" else whole
    reference = loading.load(project.model_copy(update={"model": taken}), workspace)
    reference.load_adapter(NAME, adapter)
    prompts = [e.prompt_ids for e in examples]
    done, total = 0, 3 * len(prompts)

    def logits(loaded: Loaded) -> list[torch.Tensor]:
        nonlocal done
        found = []
        for prompt in prompts:
            progress(done, total)
            found.append(answering.next_logits(loaded, prompt))
            done += 1
        return found

    progress(0, total)
    with reference.using(None):
        base = logits(reference)
    with reference.using(NAME):
        tuned = logits(reference)
        before, tokens = _nll(reference, examples, project)
    del reference
    gc.collect()
    table = whole.model_copy(update={"base": str(merged.resolve()), "revision": None})
    result = loading.load(project.model_copy(update={"model": table}), workspace)
    after = logits(result)
    nll, _ = _nll(result, examples, project)
    progress(total, total)
    precision = "in its own precision" if taken.quantization == "none" else f"rounded to {taken.quantization}"
    return Verification(
        kl=_mean(answering.divergence(t, a) for t, a in zip(tuned, after, strict=True)),
        adapter_kl=_mean(answering.divergence(t, b) for t, b in zip(tuned, base, strict=True)),
        largest_logit_difference=max(float((t - a).abs().max()) for t, a in zip(tuned, after, strict=True)),
        same_next_token=_mean(float(t.argmax() == a.argmax()) for t, a in zip(tuned, after, strict=True)),
        perplexity_adapter=math.exp(before / tokens),
        perplexity_merged=math.exp(nll / tokens),
        prompts=len(prompts),
        tokens=tokens,
        reference=f"{project.model.base} {precision} with the adapter attached",
    )


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


@torch.no_grad()
def _nll(loaded: Loaded, examples: Sequence[Example], project: Project) -> tuple[float, int]:
    scores = matrix.score(loaded, examples, scope="completion", window=0, batch_tokens=project.eval.batch_tokens)
    return sum(s.nll for s in scores), sum(s.tokens for s in scores)
