"""Unsloth's training on one GPU, on rows that another benchmark measures our engine with: equal rows, shapes, adapters.

    python unsloth_peer.py BASE_FOLDER --rows ROWS.json --quantization nf4|none --steps 20 --per-step 16 --max-length 512

ROWS.json is a list of [ids, how many of them (the prompt) are not supervised]. Variants, each in a process of its own:
`default` gives trl's SFTTrainer rows and lets Unsloth choose (padding-free, as its manual says), `packed` asks for
packing=True, `padded` forbids both; `+checkpointing` is Unsloth's own recomputation, which its examples turn on. Only
real tokens count; the first two steps are left out. Needs unsloth and trl; no network.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

SKIPPED = 2
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RECOMPUTED = "+checkpointing"
VARIANTS = ["default", "packed", "default" + RECOMPUTED, "padded", "packed" + RECOMPUTED]
PACKAGES = {"unsloth", "unsloth_zoo", "trl", "transformers", "peft", "bitsandbytes", "torch", "triton", "datasets"}
CHOSEN = ("packing", "padding_free", "gradient_checkpointing", "optim", "max_length", "per_device_train_batch_size")
Facts = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Unsloth's training speed.")
    parser.add_argument("base", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--quantization", choices=("nf4", "none"), required=True)
    for name, default in (("steps", 20), ("per-step", 16), ("max-length", 512), ("seconds", 300)):
        parser.add_argument("--" + name, type=int, default=default)  # a variant is given up after `seconds`
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS[:4])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # the process of one variant
    return parser.parse_args()


def environment(folder: Path) -> None:
    """No network, no statistics, and generated code in `folder` instead of the working directory."""
    given = {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update({"UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), **given} | dict(os.environ))


def settings(options: argparse.Namespace, layout: str, recomputed: bool, rows: list[Any], folder: Path) -> Facts:
    """What SFTConfig is told. Packed, a step has as many sequences of `max_length` as hold the tokens of its rows."""
    per_step = options.per_step
    if layout == "packed":
        mean = sum(len(ids) for ids, _ in rows) / len(rows)
        per_step = max(1, round(per_step * mean / options.max_length))
    given: Facts = {
        "output_dir": str(folder), "max_steps": options.steps, "per_device_train_batch_size": per_step,
        "gradient_accumulation_steps": 1, "max_length": options.max_length, "completion_only_loss": True,
        "learning_rate": 2e-4, "lr_scheduler_type": "linear", "warmup_steps": 0, "weight_decay": 0.0,
        "optim": "adamw_torch_fused", "bf16": True, "seed": 0, "gradient_checkpointing": recomputed,
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    return given | {"default": {}, "packed": {"packing": True}, "padded": {"padding_free": False}}[layout]


def load(options: argparse.Namespace, recomputed: bool) -> tuple[Any, Any]:
    """Model with its adapter, and tokenizer, through FastLanguageModel."""
    unsloth = importlib.import_module("unsloth")  # before transformers, trl and peft
    torch = importlib.import_module("torch")
    checkpointing = "unsloth" if recomputed else False
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=str(options.base), max_seq_length=options.max_length, dtype=torch.bfloat16,
        load_in_4bit=options.quantization == "nf4", load_in_16bit=options.quantization == "none",
        use_gradient_checkpointing=checkpointing, use_exact_model_name=True, local_files_only=True,
    )  # fmt: skip
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=LINEAR, random_state=0,
        use_gradient_checkpointing=checkpointing, max_seq_length=options.max_length,
    )  # fmt: skip
    return model, tokenizer


def counted(collator: Any, seen: list[tuple[int, int, int]]) -> None:
    """Have `collator` note (real tokens, supervised ones, places computed) of each batch in `seen`."""
    inner = collator.torch_call

    def call(examples: list[Facts]) -> Facts:
        batch = inner(examples)
        real = sum(len(e["input_ids"]) for e in examples)
        seen.append((real, int((batch["labels"][:, 1:] != -100).sum()), batch["input_ids"].numel()))
        return batch

    collator.torch_call = call


def measure(options: argparse.Namespace, variant: str, folder: Path) -> Facts:
    """Train one variant in this process."""
    layout, recomputed = variant.removesuffix(RECOMPUTED), variant.endswith(RECOMPUTED)
    started = time.perf_counter()
    model, tokenizer = load(options, recomputed)
    torch, trl, datasets = (importlib.import_module(name) for name in ("torch", "trl", "datasets"))
    callback = importlib.import_module("transformers").TrainerCallback
    loading = time.perf_counter() - started
    rows = [(ids[: options.max_length], asked) for ids, asked in json.loads(options.rows.read_text())]
    rows = list(itertools.islice(itertools.cycle(rows), options.steps * options.per_step))  # from the start again
    masks = [[0] * asked + [1] * (len(ids) - asked) for ids, asked in rows]
    data = datasets.Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "completion_mask": masks})
    seen: list[tuple[int, int, int]] = []
    ticks: list[float] = []
    losses: list[float] = []

    class Ticks(callback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not ticks:
                torch.cuda.synchronize()
                ticks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            ticks.append(time.perf_counter())

        def on_log(self, *_: Any, logs: Facts | None = None, **__: Any) -> None:
            losses.extend([float(logs["loss"])] if logs and "loss" in logs else [])

    config = trl.SFTConfig(**settings(options, layout, recomputed, rows, folder / variant))
    given = {"model": model, "processing_class": tokenizer, "train_dataset": data}
    trainer = trl.SFTTrainer(**given, args=config, callbacks=[Ticks()])
    counted(trainer.data_collator, seen)
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    seconds = [b - a for a, b in itertools.pairwise(ticks)]
    late, batches, half = sum(seconds[SKIPPED:]), seen[SKIPPED : len(seconds)], len(seconds) // 2
    real, supervised, places = (sum(column) for column in zip(*batches, strict=True))
    return {
        "tokens/s": real / late,
        "supervised tokens/s": supervised / late,
        "step s, median": statistics.median(seconds[SKIPPED:]),
        "tokens/s, second half": sum(b[0] for b in seen[half : len(seconds)]) / sum(seconds[half:]),
        "tokens a step": real / len(batches),
        "share of real tokens": real / places,
        "steps s": [round(x, 4) for x in seconds],
        "losses": [round(x, 5) for x in losses],
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9,
        "reserved GB": torch.cuda.max_memory_reserved() / 1e9,
        "loading s": loading,
        "kept by the trainer": {name: getattr(trainer.args, name, None) for name in CHOSEN},
        "device": torch.cuda.get_device_name(),
    }


def measured_apart(variant: str, options: argparse.Namespace, folder: Path) -> Facts:
    """`measure` in a process of its own; what it says goes to stderr."""
    out = folder / f"{variant}.json"
    names = ("rows", "quantization", "steps", "per_step", "max_length")
    given = itertools.chain(*(("--" + name.replace("_", "-"), str(getattr(options, name))) for name in names))
    command = [sys.executable, __file__, str(options.base), *given, "--variants", variant, "--out", str(out), "--one"]
    try:
        done = subprocess.run(command, stdout=sys.stderr, timeout=options.seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {options.seconds} s"}
    return json.loads(out.read_text()) if out.is_file() else {"failed": f"the process ended with {done.returncode}"}


def versions() -> Facts:
    """Of what is installed; the first folder of the path wins."""
    found = [(d.name.replace("-", "_"), d.version) for d in importlib.metadata.distributions()]
    return {name: version for name, version in reversed(found) if name in PACKAGES | {"xformers", "flash_attn"}}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment(folder)
        if options.one:
            try:
                found: Facts = measure(options, options.variants[0], folder)
            except Exception as error:  # said in the report; the other variants go on
                found = {"failed": f"{type(error).__name__}: {error}"[:2000], "at": traceback.format_exc()[-6000:]}
        else:
            found = {"versions": versions()}
            for variant in options.variants:
                found[variant] = measured_apart(variant, options, folder)
                print(variant, json.dumps(found[variant]), file=sys.stderr, flush=True)
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
