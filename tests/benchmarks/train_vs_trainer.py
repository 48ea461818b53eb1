"""Training speed and peak memory against transformers.Trainer + PEFT: same GSM8K rows, model, LoRA, steps, machine.

    python tests/benchmarks/train_vs_trainer.py [--rows 320] [--repeats 3] [--dtype float32|bfloat16] [--size S]

Each run is a process of its own; ours and theirs alternate. Only real tokens count, the first two steps are left out.
The Trainer runs as it comes (padding to the longest of a batch) and as its manual tunes it (grouped by length).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GSM8K = ROOT.parent / "shared" / "gsm8k" / "train.jsonl"
SIZES = {
    "S": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 4096},
    "M": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 8192},
}  # fmt: skip
PER_STEP = {"S": 16, "M": 8}
PEERS = ("ours", "trainer", "trainer-grouped")


def make_base(folder: Path, size: str) -> Path:
    """A random Llama with a BPE tokenizer of GSM8K's own text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [json.loads(line) for line in GSM8K.open(encoding="utf-8")]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES[size]["vocab_size"], special_tokens=["<s>", "</s>"], show_progress=False
    )
    bpe.train_from_iterator((t["question"] + " " + t["answer"] for t in texts), trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], max_position_embeddings=1024, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def examples_of(base: Path, rows: int) -> list[list[int]]:
    """Token ids of the first `rows` problems."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    lines = [json.loads(line) for line in GSM8K.open(encoding="utf-8")][:rows]
    return [tokenizer(f"{r['question']}\n{r['answer']}</s>").input_ids[:512] for r in lines]


def ours(base: Path, ids: list[list[int]], size: str, dtype: str) -> list[tuple[int, float]]:
    """(tokens, seconds) of each step of our loop."""
    from engine import events, spec
    from engine.models import loading
    from engine.store import Workspace
    from engine.tokens.examples import Example
    from engine.training import lora
    from engine.training.loop import Training

    text = f'[model]\nbase = "{base}"\nquantization = "none"\ndtype = "{dtype}"\n'
    text += f"[train]\nepochs = 1.0\nexamples_per_step = {PER_STEP[size]}\nsave_every = 0\n"
    project = spec.parse(text)
    loaded = loading.load(project, Workspace(ROOT))
    lora.attach(loaded, project.lora, str(base), None, 0)
    examples = [Example(np.array(i, np.int32), np.ones(len(i), np.float32), str(n)) for n, i in enumerate(ids)]
    said: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        Training(loaded, project, examples, said.append, Path(folder), "").run()
    return [(e.tokens, e.seconds) for e in said if isinstance(e, events.Step)]


def theirs(base: Path, ids: list[list[int]], size: str, dtype: str, grouped: bool) -> list[tuple[int, float]]:
    """(tokens, seconds) of each step of transformers.Trainer with PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    causal = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    counts: list[int] = []  # in the order of the batches, which the loader makes one ahead of the steps
    seconds: list[float] = []
    begun = [0.0]

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(r["input_ids"]) for r in batch)
        counts.append(sum(len(r["input_ids"]) for r in batch))
        pad = [longest - len(r["input_ids"]) for r in batch]
        inputs = torch.tensor([r["input_ids"] + [1] * n for r, n in zip(batch, pad, strict=True)])
        mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * n for r, n in zip(batch, pad, strict=True)])
        return {"input_ids": inputs, "attention_mask": mask, "labels": inputs.masked_fill(mask == 0, -100)}

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            begun[0] = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds.append(time.perf_counter() - begun[0])

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_train_epochs=1, per_device_train_batch_size=PER_STEP[size], report_to=[],
        save_strategy="no", use_cpu=True, disable_tqdm=True, learning_rate=2e-4, dataloader_num_workers=0,
        **({"train_sampling_strategy": "group_by_length"} if grouped else {}), bf16=dtype == "bfloat16",
    )  # fmt: skip
    rows = [{"input_ids": i, "length": len(i)} for i in ids]
    trainer = Trainer(get_peft_model(causal, config), arguments, collate, rows, callbacks=[Clock()])
    trainer.train()
    return list(zip(counts, seconds, strict=True))


def measure(peer: str, base: Path, args: argparse.Namespace) -> dict[str, float]:
    ids = examples_of(base, args.rows)
    torch.set_num_threads(args.threads)
    if peer == "ours":
        steps = ours(base, ids, args.size, args.dtype)
    else:
        steps = theirs(base, ids, args.size, args.dtype, grouped=peer.endswith("grouped"))
    timed = steps[2:]
    return {
        "tokens_per_second": sum(t for t, _ in timed) / sum(s for _, s in timed),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--size", default="S", choices=list(SIZES))
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--base", type=Path)
    args = parser.parse_args()
    if args.peer:
        print(json.dumps(measure(args.peer, args.base, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder), args.size)
        found: dict[str, list[dict[str, float]]] = {p: [] for p in PEERS}
        for _ in range(args.repeats):
            for peer in PEERS:
                command = [sys.executable, __file__, *sys.argv[1:], "--peer", peer, "--base", str(base)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[peer].append(json.loads(done.stdout.strip().splitlines()[-1]))
    best = {p: {k: [r[k] for r in runs] for k in runs[0]} for p, runs in found.items()}
    reference = statistics.median(best["ours"]["tokens_per_second"])
    print(f"{'':18}{'tokens/s (median)':>20}{'ours / theirs':>16}{'peak GB':>10}")
    for peer in PEERS:
        speed = statistics.median(best[peer]["tokens_per_second"])
        print(f"{peer:18}{speed:20,.0f}{reference / speed:16.2f}{statistics.median(best[peer]['peak_gb']):10.2f}")


if __name__ == "__main__":
    main()
