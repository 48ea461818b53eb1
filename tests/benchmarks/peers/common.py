"""What every peer's script shares: the job that all of them do, the clock, and what a run tells. Needs torch alone.

A script is run by its peer's own Python as `with_PEER.py JOB.json VARIANT` and prints one JSON object on its last line.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import harness

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "off",
}
SKIPPED = 2  # the first steps, which warm up
BOS, EOS = 0, 1  # of the tokenizer that `job` makes; a row ends with its only EOS, and padding is one of the two
RANK, ALPHA, RATE = 16, 32, 2e-4


@dataclass(frozen=True)
class Row:
    """A problem's question and answer, and their token ids; the first `prompt` of them, the question's, are not supervised."""

    ids: list[int]
    prompt: int
    question: str
    answer: str

    @property
    def labels(self) -> list[int]:
        return [-100] * self.prompt + self.ids[self.prompt :]


@dataclass(frozen=True)
class Job:
    """The work of every peer.

    Attributes:
        base: folder of the model in transformers' format. dtype: "float32" or "bfloat16". nf4: the base in 4 bits.
        rows: some of the source's, in its order. order: in which of our steps they come.
        per_step: rows of an optimizer step. pack_length, packs: tokens of a pack, and packs of a step, where rows are packed.
    """

    base: str
    dtype: str
    nf4: bool
    threads: int
    per_step: int
    pack_length: int
    packs: int
    order: list[int]
    rows: list[Row]

    @classmethod
    def read(cls, path: str) -> Job:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**found, "rows": [Row(**row) for row in found["rows"]]})

    @property
    def in_order(self) -> list[Row]:
        """The rows as our steps take them: what a peer gets that would shuffle, so that its first step is ours."""
        return [self.rows[i] for i in self.order]

    @property
    def grouped(self) -> list[Row]:
        """The rows in batches of like length, the batches shuffled: what `group_by_length` makes of thousands of rows."""
        order = sorted(range(len(self.rows)), key=lambda i: len(self.rows[i].ids))
        batches = [order[at : at + self.per_step] for at in range(0, len(order), self.per_step)]
        random.Random(0).shuffle(batches)
        return [self.rows[i] for batch in batches for i in batch]

    def lora(self) -> Any:
        """PEFT's configuration."""
        from peft import LoraConfig

        return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")

    def causal(self) -> Any:
        """The model as transformers loads it."""
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        dtype = getattr(torch, self.dtype)
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        quantization = four_bit if self.nf4 else None
        return AutoModelForCausalLM.from_pretrained(
            self.base, dtype=dtype, device_map={"": "cpu"}, quantization_config=quantization
        )


@dataclass
class Clock:
    """What each step saw, its loss, and when it ended, by the wall and by this process's CPUs."""

    seen: list[tuple[int, Any, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    trained: int = 0

    def count(self, model: Any) -> None:
        """How many of the model's parameters are trained."""
        self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def saw(self, ids: Any, labels: Any, loss: Any) -> None:
        """A micro-batch of the step now under way, as the peer has it: tensors, or a list for each sequence."""
        self.seen.append((len(self.wall), *(x.clone() if hasattr(x, "clone") else x for x in (ids, labels))))
        self.losses.append(float(loss))

    def tick(self, *_: Any) -> None:
        """A step has ended."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def facts(self, rows: list[Row]) -> dict[str, Any]:
        places = {tuple(row.ids): i for i, row in reversed(list(enumerate(rows)))}
        parts = [Part.of(step, ids, labels, places) for step, ids, labels in self.seen]
        assert len({p.step for p in parts}) == len(self.wall) > SKIPPED, f"only {len(self.wall)} steps"
        first = [i for i, p in enumerate(parts) if p.step == 0]
        counted = sum(p.tokens for p in parts if p.step >= SKIPPED)
        met = Counter(row for p in parts for row in p.rows)
        return {
            "tokens/s": counted / (self.wall[-1] - self.wall[SKIPPED - 1]),
            "tokens/CPU-s": counted / (self.cpu[-1] - self.cpu[SKIPPED - 1]),
            "first loss": statistics.fmean([self.losses[i] for i in first], [parts[i].supervised for i in first]),
            "mean loss": statistics.fmean(self.losses, [p.supervised for p in parts]),
            "steps": len(self.wall),
            "tokens": sum(p.tokens for p in parts),
            "supervised": sum(p.supervised for p in parts),
            "slots": sum(p.slots for p in parts),
            "trained": self.trained,
            "whole rows": sum(n == 1 for n in met.values()),
            "first rows": [] if any(parts[i].cut for i in first) else [row for i in first for row in parts[i].rows],
        }


@dataclass(frozen=True)
class Part:
    """A micro-batch: places of its whole rows; tokens without padding, and those of them in rows that were cut; all slots."""

    step: int
    rows: list[int]
    tokens: int
    cut: int
    supervised: int
    slots: int

    @classmethod
    def of(cls, step: int, ids: Any, labels: Any, places: dict[tuple[int, ...], int]) -> Part:
        ids, labels = (x.tolist() if hasattr(x, "tolist") else x for x in (ids, labels))
        pieces = [piece for sequence in ids for piece in _pieces(sequence)]
        found = [places[piece] for piece in pieces if piece in places]
        cut = sum(len(piece) for piece in pieces if piece not in places)
        supervised = sum(label != -100 for sequence in labels for label in sequence)
        return cls(step, found, sum(map(len, pieces)), cut, supervised, sum(map(len, ids)))


def _pieces(sequence: list[int]) -> Iterator[tuple[int, ...]]:
    """Each row of a sequence, with its EOS; a row that the sequence cuts; no padding."""
    piece: list[int] = []
    for token in sequence:
        if token != BOS and (piece or token != EOS):
            piece.append(token)
        if token == EOS and piece:
            yield tuple(piece)
            piece = []
    if piece:
        yield tuple(piece)


def main(run: Callable[[Job, str, Clock], None], *packages: str) -> None:
    """Do the job of the command line; `packages` are those whose versions matter."""
    os.environ.update(QUIET)
    import torch

    job, variant, clock = Job.read(sys.argv[1]), sys.argv[2], Clock()
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    run(job, variant, clock)
    facts = clock.facts(job.rows) | {"peak GB": harness.peak_rss_bytes() / 1e9}
    print("\n" + json.dumps(facts | {"versions": {name: _version(name) for name in ("torch", *packages)}}))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
