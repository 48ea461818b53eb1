"""Learn: pages about LoRA, tied to the project that is open. A page is a function of what is known of the project
(`facts`, read in a thread) and of what the reader has changed (`facts.Choice`); it gives `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.models.theory.blocks import Block
    from workbench.models.theory.facts import Choice, Facts


@dataclass(frozen=True, slots=True)
class Topic:
    """A page.

    Attributes:
        title: its heading. about: a line for lists. where: "module:function" that makes it.
        wants: what its facts need besides shapes (see `facts.gather`).
        changes: whether rank, alpha and targets can be changed on it. links: topics that it leads to.
    """

    title: str
    about: str
    where: str
    wants: tuple[str, ...] = ()
    changes: bool = False
    links: tuple[str, ...] = ()

    @property
    def make(self) -> Callable[[Facts, Choice], Sequence[Block]]:
        module, _, name = self.where.partition(":")
        return getattr(import_module(f"workbench.models.theory.{module}"), name)


TOPICS: dict[str, Topic] = {
    "low-rank": Topic(
        "Low-rank adapters", "what is trained", "adapting:low_rank", changes=True,
        links=("scaling", "targets", "four-bit"),
    ),
    "scaling": Topic(
        "Rank, alpha and rsLoRA", "how strongly it acts", "adapting:scaling", changes=True,
        links=("low-rank", "learning-rate"),
    ),
    "targets": Topic(
        "Target modules", "which layers get one", "adapting:targets", changes=True,
        links=("low-rank", "dropout"),
    ),
    "dropout": Topic("Dropout", "noise, and its price", "training:dropout", changes=False,
                     links=("targets", "perplexity")),
    "four-bit": Topic(
        "Why 4 bits work", "NF4, scales, errors", "quantization:four_bit", wants=("sample",),
        links=("low-rank", "merging"),
    ),
    "learning-rate": Topic(
        "Learning rate and schedule", "how far a step goes", "training:rate", wants=("run",),
        links=("scaling", "masking"),
    ),
    "masking": Topic(
        "Masking and packing", "what the loss averages", "training:masking", wants=("run",),
        links=("learning-rate", "perplexity"),
    ),
    "perplexity": Topic(
        "Perplexity", "what it says, and not", "measuring:perplexity", wants=("evaluation",),
        links=("masking", "merging"),
    ),
    "merging": Topic(
        "Merging", "one model out of two", "merging:merging", wants=("adapter",),
        links=("four-bit", "low-rank"),
    ),
}  # fmt: skip


def after(topic: str, by: int) -> str:
    """The topic `by` places further on, round and round."""
    names = list(TOPICS)
    return names[(names.index(topic) + by) % len(names)]
