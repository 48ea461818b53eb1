"""The engine on a GPU: is it right, how fast does it train, how fast do base and adapters answer together?

    python tests/benchmarks/gpu/run.py --out FOLDER [--parts checks train:1b:none train:8b:nf4 room:8b side:8b:nf4 ...]

    checks[:WORD]       the engine's promises on this device (checks.py), or those with WORD in their name
    train:SHAPE:QUANT   training against transformers.Trainer + PEFT, and a profile of ours (speed.py);
                        with `:alone` at its end only ours
    long:SHAPE:QUANT    the same with rows of 8,192 tokens, one a step
    room:8b             the memory that NF4 takes at a length of 1,024
    side:SHAPE:QUANT    base and adapters side by side against PEFT (sidebyside.py)

SHAPE is 1b (Llama-3.2-1B), 8b (Qwen3-8B) or 32b (Qwen3-32B, whose 66 GB have to fit into memory), QUANT none (bf16) or nf4.
`--tiny` runs everything on the CPU with models of two layers, to see that the scripts work. A part's results are in
FOLDER/results.json as soon as it is done.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # for both sides: rows of all lengths come

import checks
import sidebyside
import speed
import torch
from shapes import rows_like_gsm8k, rows_of, shape_of, write_base
from speed import Facts, clear

PARTS = [
    "checks", "train:1b:none", "train:1b:nf4", "side:1b:nf4", "train:8b:none", "train:8b:nf4", "room:8b", "side:8b:nf4",
]  # fmt: skip
PER_STEP = 16
LONG = {"1b": 4, "8b": 2, "32b": 1}


class Bases:
    """Random bases, written when asked for; one is kept until another is asked for."""

    def __init__(self, device: str, tiny: bool) -> None:
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 40e9
        self.folder = Path(tempfile.mkdtemp(dir=memory if roomy and not tiny else None))
        self.device, self.tiny = device, tiny

    def path(self, shape: str) -> Path:
        base = self.folder / shape
        if not base.exists():
            shutil.rmtree(self.folder)
            started = time.perf_counter()
            write_base(base, shape_of(shape, self.tiny), self.device)
            print(f"wrote {shape} in {time.perf_counter() - started:.1f} s", flush=True)
        return base


def train(bases: Bases, name: str, quantization: str, out: Path, args: argparse.Namespace, alone: str = "") -> Facts:
    base, shape, device = bases.path(name), shape_of(name, args.tiny), bases.device
    steps, per_step = (3, 4) if args.tiny else (args.steps, PER_STEP)
    options = {"steps": steps, "examples_per_step": per_step, "micro_batch_tokens": 16384}
    rows = rows_like_gsm8k(steps * per_step)
    project, loaded, seconds = speed.load_ours(base, quantization, device, **options)
    facts: Facts = {"load s": seconds, "examples a step": per_step, "route": loaded.route}
    facts["ours"] = speed.ours(loaded, project, rows, shape, device)
    length, count = (64, 2) if args.tiny else (2048, LONG[name])
    few = max(4, steps // 2 + 1)
    long_rows = rows_of(count * few, length)
    long_steps = {"steps": few, "examples_per_step": count}
    long_project = speed.project_of(base, quantization, device, **options | long_steps, max_length=length)
    facts[f"ours, {count} x {length}"] = speed.ours(loaded, long_project, long_rows, shape, device)
    facts["head"] = type(loaded.head_matrix()).__name__
    facts["profile"] = speed.profile(loaded, project, rows, out / f"profile-{name}-{quantization}.txt", device)
    table = out / f"profile-{name}-{quantization}-long.txt"
    facts["profile, long"] = speed.profile(loaded, long_project, long_rows, table, device)
    del loaded
    clear(device)
    if alone:
        return facts
    started = time.perf_counter()
    causal = speed.load_theirs(base, quantization, device)
    facts["load s, theirs"] = time.perf_counter() - started
    for label, tuned in (("trainer", False), ("trainer, tuned", True)):
        facts[label] = speed.theirs(causal, project, rows, shape, device, tuned, steps)
    facts[f"trainer, tuned, {count} x {length}"] = speed.theirs(
        causal, long_project, long_rows, shape, device, True, few
    )
    return facts


def long(bases: Bases, name: str, quantization: str, args: argparse.Namespace, alone: str = "") -> Facts:
    """Rows of 8,192 tokens, one a step."""
    base, shape, device = bases.path(name), shape_of(name, args.tiny), bases.device
    length, steps = (128, 3) if args.tiny else (8192, 6)
    options = {"steps": steps, "examples_per_step": 1, "micro_batch_tokens": length, "max_length": length}
    project, loaded, seconds = speed.load_ours(base, quantization, device, **options)
    rows = rows_of(steps, length)
    facts: Facts = {"load s": seconds, "ours": speed.ours(loaded, project, rows, shape, device)}
    del loaded
    clear(device)
    if not alone:
        causal = speed.load_theirs(base, quantization, device)
        facts["trainer, tuned"] = speed.theirs(causal, project, rows, shape, device, True, steps)
    return facts


def room(bases: Bases, name: str, args: argparse.Namespace) -> Facts:
    """What NF4 at a length of 1,024 takes, a row at a time, with activations recomputed and not."""
    base, shape, device = bases.path(name), shape_of(name, args.tiny), bases.device
    rows, found = rows_of(8, 64 if args.tiny else 1024), {}
    for label, train in {
        "activations recomputed": {"activation_checkpointing": True},
        "activations recomputed, adamw_8bit": {"activation_checkpointing": True, "optimizer": "adamw_8bit"},
        "activations kept": {},
    }.items():
        if args.tiny and "optimizer" in train:
            continue
        options = {"steps": 4, "examples_per_step": 1, "micro_batch_tokens": 1024, **train}
        project, loaded, _ = speed.load_ours(base, "nf4", device, **options)
        peak_of_loading = speed.memory_facts(device)
        found[label] = speed.ours(loaded, project, rows, shape, device) | {"while loading": peak_of_loading}
        del loaded
    return found


def side(bases: Bases, name: str, quantization: str, args: argparse.Namespace) -> Facts:
    folder = Path(tempfile.mkdtemp(dir=bases.folder))
    found = sidebyside.compare(bases.path(name), folder, quantization, bases.device, 8 if args.tiny else args.tokens)
    shutil.rmtree(folder)
    if quantization == "nf4" and name == "8b" and not args.tiny:
        found["a layer, microseconds"] = sidebyside.products(bases.device)
    return found


def machine() -> Facts:
    packages = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
    found: Facts = {name: importlib.metadata.version(name) for name in packages} | {"date": time.strftime("%Y-%m-%d")}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory GB": card.total_memory / 1e9, "CUDA": torch.version.cuda}
        left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        seconds, _ = sidebyside.timed(lambda: left @ right, "cuda", 9)
        found["bf16 product of 8192 x 8192, TFLOP/s"] = 2 * 8192**3 / seconds / 1e12
    return found


def one(part: str, bases: Bases, out: Path, args: argparse.Namespace) -> Any:
    kind, *rest = part.split(":")
    if kind == "checks":
        return checks.all_checks(Path(tempfile.mkdtemp()), bases.device, args.tiny, *rest)
    if kind == "train":
        return train(bases, rest[0], rest[1], out, args, *rest[2:])
    if kind == "long":
        return long(bases, rest[0], rest[1], args, *rest[2:])
    if kind == "room":
        return room(bases, rest[0], args)
    return side(bases, rest[0], rest[1], args)


def short(found: Any, indent: str = "  ") -> str:
    """Results in few lines: numbers of four digits."""
    if isinstance(found, dict):
        parts = [f"\n{indent}{k}: {short(v, indent + '  ')}" for k, v in found.items()]
        return "".join(parts)
    if isinstance(found, float):
        return f"{found:,.4g}"
    return str(found)[:300]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=PARTS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    from engine.models.loading import quiet

    quiet()
    device = "cuda" if torch.cuda.is_available() and not args.tiny else "cpu"
    results: Facts = {"machine": machine()}
    print(f"machine{short(results['machine'])}", flush=True)
    bases = Bases(device, args.tiny)
    try:
        for part in args.parts:
            started = time.perf_counter()
            try:
                results[part] = one(part, bases, args.out, args)
            except Exception:
                results[part] = {"failed": traceback.format_exc()[-4000:]}
                print(results[part]["failed"], flush=True)
            clear(device)
            (args.out / "results.json").write_text(json.dumps(results, indent=1, default=str))
            now = time.perf_counter()
            print(f"== {part}: {now - started:.1f} s, {now - begun:.1f} s in all", flush=True)
            if part != "checks":
                print(short(results[part]), flush=True)
    finally:
        shutil.rmtree(bases.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
