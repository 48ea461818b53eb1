"""Training speed and peak memory against transformers.Trainer + PEFT: same GSM8K rows, model, LoRA, steps, machine.

    python tests/benchmarks/train_vs_trainer.py ../shared/gsm8k [--size S|M] [--dtype float32|bfloat16] [--nf4]
                                                [--rows 320] [--repeats 3] [--threads 2]

Each run is a process of its own, and the peers take turns. Answers are supervised, questions are not. `trainer` takes
the rows of our steps in our order and pads a batch to its longest row, as the Trainer comes: its losses are ours.
`trainer-grouped` orders them by length, as its manual advises for speed: the same rows once, in steps of its own. Only
real tokens count, and the first two steps are left out. `tokens/CPU-s` divides by the CPU time of the process, which
other load on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZES = {
    "S": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 4096},
    "M": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 8192},
}  # fmt: skip
PER_STEP = {"S": 16, "M": 8}
RATE, SKIPPED = 2e-4, 2
PEERS = ("ours", "trainer", "trainer-grouped")


@dataclass
class Clock:
    """When each step ended: seconds by the wall and of this process's CPUs; its tokens and loss."""

    tokens: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def tick(self) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def facts(self) -> dict[str, float]:
        tokens = sum(self.tokens[SKIPPED:])
        return {
            "tokens/s": tokens / (self.wall[-1] - self.wall[SKIPPED - 1]),
            "tokens/CPU-s": tokens / (self.cpu[-1] - self.cpu[SKIPPED - 1]),
            "first loss": self.losses[0],
            "last loss": self.losses[-1],
            "mean loss": statistics.fmean(self.losses),
            "tokens": sum(self.tokens),
        }


def read(source: Path, rows: int) -> list[dict[str, str]]:
    """The first problems of a file, or of the train.jsonl in a folder."""
    path = source / "train.jsonl" if source.is_dir() else source
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(rows), strict=False)]


def make_base(folder: Path, size: str, rows: list[dict[str, str]]) -> Path:
    """A random Llama with a BPE tokenizer of the rows' own text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=SIZES[size]["vocab_size"], special_tokens=special, show_progress=False)
    bpe.train_from_iterator((t["question"] + " " + t["answer"] for t in rows), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    made.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=1024, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def encode(base: Path, rows: list[dict[str, str]]) -> list[tuple[list[int], int]]:
    """Token ids of each problem, and how many of them are the question's."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    made = []
    for row in rows:
        question = tokenizer(row["question"] + "\n").input_ids
        made.append(((question + tokenizer(row["answer"] + "</s>").input_ids)[:512], len(question)))
    return made


def project_of(base: Path, args: argparse.Namespace) -> Any:
    from engine import spec

    quantization = "nf4" if args.nf4 else "none"
    return spec.parse(
        f'[model]\nbase = "{base}"\nquantization = "{quantization}"\ndtype = "{args.dtype}"\n[train]\nepochs = 1.0\n'
        f"examples_per_step = {PER_STEP[args.size]}\nlearning_rate = {RATE}\nwarmup = 0.0\nschedule = 'linear'\n"
        "weight_decay = 0.0\nsave_every = 0\n"
    )


def ours(base: Path, encoded: list[tuple[list[int], int]], args: argparse.Namespace, clock: Clock) -> int:
    """Run our loop; returns how many parameters it trains."""
    from engine import events
    from engine.models import loading
    from engine.store import Workspace
    from engine.tokens.examples import Example
    from engine.training import lora
    from engine.training.loop import Training

    project = project_of(base, args)
    loading.quiet()
    loaded = loading.load(project, Workspace(ROOT))
    lora.attach(loaded, project.lora, str(base), None, 0)
    examples = [
        Example(np.array(ids, np.int32), (np.arange(len(ids)) >= n).astype(np.float32), str(i))
        for i, (ids, n) in enumerate(encoded)
    ]

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Step):
            clock.tick()
            clock.tokens.append(event.tokens)
            clock.losses.append(event.loss)

    with tempfile.TemporaryDirectory() as folder:
        Training(loaded, project, examples, listen, Path(folder), "").run()
    return sum(p.numel() for _, p in loaded.parameters())


def theirs(
    base: Path, encoded: list[tuple[list[int], int]], args: argparse.Namespace, grouped: bool, clock: Clock
) -> int:
    """Run transformers' Trainer with PEFT; returns how many parameters it trains."""
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    from engine.training.order import Order

    dtype = getattr(torch, args.dtype)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    causal = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, device_map={"": "cpu"}, quantization_config=four_bit if args.nf4 else None
    )
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(causal, config)
    lengths = [len(ids) for ids, _ in encoded]
    order = Order(lengths, project_of(base, args).train)
    taken = range(len(encoded)) if grouped else [i for step in range(order.steps) for i in order.at(step).examples]
    rows = [{"input_ids": encoded[i][0], "prompt": encoded[i][1], "length": lengths[i]} for i in taken]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(r["length"] for r in batch)
        clock.tokens.append(sum(r["length"] for r in batch))  # in the order of the steps
        pad = [longest - r["length"] for r in batch]
        inputs = [r["input_ids"] + [1] * n for r, n in zip(batch, pad, strict=True)]
        labels = [
            [-100] * r["prompt"] + r["input_ids"][r["prompt"] :] + [-100] * n for r, n in zip(batch, pad, strict=True)
        ]
        mask = [[1] * r["length"] + [0] * n for r, n in zip(batch, pad, strict=True)]
        return {
            "input_ids": torch.tensor(inputs), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)
        }  # fmt: skip

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    class Told(Trainer):
        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
            loss = super().training_step(*given, **named)
            clock.losses.append(float(loss))
            return loss

        def _get_train_sampler(self, *given: Any, **named: Any) -> Any:
            return super()._get_train_sampler(*given, **named) if grouped else SequentialSampler(rows)

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_train_epochs=1, per_device_train_batch_size=PER_STEP[args.size], report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=RATE, lr_scheduler_type="linear",
        dataloader_num_workers=0, bf16=args.dtype == "bfloat16", logging_strategy="no", remove_unused_columns=False,
        **({"train_sampling_strategy": "group_by_length"} if grouped else {}),
    )  # fmt: skip
    Told(model, arguments, collate, rows, callbacks=[Ticks()]).train()
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def measure(peer: str, args: argparse.Namespace) -> dict[str, float]:
    encoded = encode(args.base, read(args.source, args.rows))
    torch.set_num_threads(args.threads)
    clock = Clock()
    if peer == "ours":
        trained = ours(args.base, encoded, args, clock)
    else:
        trained = theirs(args.base, encoded, args, peer.endswith("grouped"), clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    supervised = sum(len(ids) - n for ids, n in encoded)
    return clock.facts() | {"peak GB": peak, "trained": trained, "supervised": supervised}


def spread(values: list[float], form: str) -> str:
    """The median, and the least and the largest."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} - {max(values):{form}})"


def report(found: dict[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    from importlib.metadata import version

    packages = " ".join(f"{n} {version(n)}" for n in ("torch", "transformers", "peft", "bitsandbytes"))
    print(
        f"{args.size}, {args.dtype}{', nf4' if args.nf4 else ''}, {args.threads} threads, {args.repeats} runs each;",
        end=" ",
    )
    print(f"load {os.getloadavg()[0]:.1f}; {time.strftime('%Y-%m-%d')}; {packages}")
    first = found["ours"][0]
    for peer, runs in found.items():
        facts = {k: [r[k] for r in runs] for k in first}
        assert all(r[k] == first[k] for r in runs for k in ("tokens", "supervised", "trained")), "not the same work"
        ratio = statistics.median(
            a["tokens/CPU-s"] / b["tokens/CPU-s"] for a, b in zip(found["ours"], runs, strict=True)
        )
        clock = statistics.median(a["tokens/s"] / b["tokens/s"] for a, b in zip(found["ours"], runs, strict=True))
        print(
            f"{peer:16} tokens/s {spread(facts['tokens/s'], ',.0f')}, CPU-s {spread(facts['tokens/CPU-s'], ',.0f')};",
            end=" ",
        )
        print(f"ours / this {clock:.2f} (CPU {ratio:.2f}); peak GB {spread(facts['peak GB'], '.2f')};", end=" ")
        print("loss " + " ".join(f"{k.split()[0]} {facts[k][0]:.5f}" for k in ("first loss", "last loss", "mean loss")))
    print(
        f"each: {first['tokens']:,.0f} tokens, {first['supervised']:,.0f} supervised, {first['trained']:,.0f} parameters trained"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with GSM8K's train.jsonl, or a file like it")
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--nf4", action="store_true")
    parser.add_argument("--size", default="S", choices=list(SIZES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(measure(args.peer, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder), args.size, read(args.source, 2000))
        found: dict[str, list[dict[str, float]]] = {p: [] for p in args.peers}
        for _ in range(args.repeats):
            for peer in args.peers:
                command = [sys.executable, __file__, *sys.argv[1:], "--peer", peer, "--base", str(base)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[peer].append(json.loads(done.stdout.strip().splitlines()[-1]))
    report(found, args)


if __name__ == "__main__":
    main()
