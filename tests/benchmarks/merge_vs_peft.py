"""Merge time and memory against PEFT's `merge_and_unload` + `save_pretrained`, on a random bf16 Llama. Run by hand:

    python tests/benchmarks/merge_vs_peft.py [--layers 16] [--runs 3] [--folder DIR]

Each merge runs in a process of its own, the two in turn. Time is wall clock from the first import to the exit of the
process (imports included; ours also flushes its files to disk before it says that they are there, PEFT does not);
"merge" is the part after the imports. Processor time is what remains comparable on a busy machine. Memory is the
largest resident set of the process (VmHWM), and its private part (RssAnon, sampled), which leaves out mapped files:
libraries, and the base that PEFT maps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH, MLP, VOCABULARY, RANK = 2048, 8192, 32_000, 16


def make_base(folder: Path, layers: int) -> int:
    """A Llama of random bf16 weights, written shard by shard; returns its bytes."""
    import torch
    from transformers import LlamaConfig

    from engine.models.layout import build
    from engine.safetensors_io import INDEX, Planned, ShardWriter, plan_shards, read_json

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=layers,
        num_attention_heads=16, num_key_value_heads=16, tie_word_embeddings=False, dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config.save_pretrained(folder)
    shapes = {n: tuple(t.shape) for n, t in build(read_json(folder / "config.json"), folder).state_dict().items()}
    planned = [Planned(name, "BF16", shape) for name, shape in shapes.items()]
    noise = torch.randn(max(p.size for p in planned) // 2) * 0.02
    shards = plan_shards(planned, 1_000_000_000)
    for file, tensors in shards.items():
        with ShardWriter(folder / file, tensors) as writer:
            for i, tensor in enumerate(tensors):
                values = noise[: tensor.size // 2].roll(i * 977).to(torch.bfloat16)
                writer.write(values.view(torch.uint8).numpy().data)
    places = {t.name: file for file, tensors in shards.items() for t in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(p.size for p in planned)


def make_adapter(base: Path, folder: Path) -> None:
    """LoRA on every linear layer, random."""
    import torch
    from safetensors.torch import save_file

    from engine import adapters
    from engine.models.layout import build
    from engine.safetensors_io import read_json

    model = build(read_json(base / "config.json"), base)
    targets = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    tensors = {}
    for name, module in targets.items():
        tensors[f"{adapters.PREFIX}{name}.lora_A.weight"] = torch.randn(RANK, module.in_features) * 0.02
        tensors[f"{adapters.PREFIX}{name}.lora_B.weight"] = torch.randn(module.out_features, RANK) * 0.02
    folder.mkdir()
    save_file(tensors, folder / adapters.WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "inference_mode": True,
        "base_model_name_or_path": str(base), "target_modules": sorted({n.rpartition(".")[2] for n in targets}),
    }  # fmt: skip
    (folder / adapters.CONFIG).write_text(json.dumps(config))


OURS = """
import sys, time
from pathlib import Path
from engine.merge import merge
from transformers import AutoModelForCausalLM
started = time.perf_counter()
merge(*map(Path, sys.argv[1:4]), replace=True)
print(time.perf_counter() - started, *(x.split()[1] for x in open("/proc/self/status") if x.startswith("VmHWM")))
"""
PEFT = """
import sys, time
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
started = time.perf_counter()
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(base, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
print(time.perf_counter() - started, *(x.split()[1] for x in open("/proc/self/status") if x.startswith("VmHWM")))
"""


def measure(code: str, *arguments: Path) -> dict[str, float]:
    """Run a merge in a process: seconds in all, after the imports, and of processor time; peak and private bytes."""
    os.sync()  # so that no run waits for what the one before left to be written
    before = sum(os.times()[2:4])
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    private = 0
    while process.poll() is None:
        private = max(private, anonymous_bytes(process.pid))
        time.sleep(0.01)
    seconds, used = time.perf_counter() - started, sum(os.times()[2:4]) - before
    if process.returncode or process.stdout is None:
        raise SystemExit(f"a merge failed (status {process.returncode})")
    merge, peak = process.stdout.read().split()[-2:]
    return {
        "seconds": seconds, "merge": float(merge), "cpu": used, "peak": float(peak) * 1024, "private": float(private)
    }  # fmt: skip


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process, 0 where it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def compare(one: Path, other: Path) -> str:
    """How many elements of two models differ."""

    from engine.safetensors_io import Checkpoint

    with Checkpoint.open(one) as a, Checkpoint.open(other) as b:
        if a.entries.keys() != b.entries.keys():
            return "the two models hold different tensors"
        different, largest = 0, 0.0
        for name in a.entries:
            gap = (a.tensor(name).float() - b.tensor(name).float()).abs()
            different, largest = different + int((gap > 0).sum()), max(largest, float(gap.max()))
        total = sum(e.elements for e in a.entries.values())
    return f"{different:,} of {total:,} elements differ (largest difference {largest:.1e})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="16: 1.2 billion parameters, 2.4 GB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        size = make_base(folder / "base", arguments.layers)
        make_adapter(folder / "base", folder / "adapter")
        print(f"base: {size / 1e9:.2f} GB in {len(list((folder / 'base').glob('*.safetensors')))} files, LoRA r {RANK}")
        runs: dict[str, list[dict[str, Any]]] = {"peft": [], "ours": []}
        for _ in range(arguments.runs):
            for which, code in (("peft", PEFT), ("ours", OURS)):
                runs[which].append(measure(code, folder / "base", folder / "adapter", folder / which))
                print(which, {k: round(v, 2) if v < 1e6 else f"{v / 1e9:.2f} GB" for k, v in runs[which][-1].items()})
        print(compare(folder / "peft", folder / "ours"))
    middle = {w: {k: statistics.median(r[k] for r in each) for k in each[0]} for w, each in runs.items()}
    print(f"\n{'median':24}{'PEFT':>10}{'ours':>10}{'ours/PEFT':>12}")
    for key, label, unit in (
        ("seconds", "whole process, s", 1.0),
        ("merge", "without imports, s", 1.0),
        ("cpu", "processor time, s", 1.0),
        ("peak", "peak resident, GB", 1e9),
        ("private", "peak private, GB", 1e9),
    ):
        theirs, ours = middle["peft"][key] / unit, middle["ours"][key] / unit
        print(f"{label:24}{theirs:10.2f}{ours:10.2f}{ours / theirs:12.2f}")


if __name__ == "__main__":
    main()
