"""Merge time and memory against PEFT's `merge_and_unload` + `save_pretrained`, on a random bf16 Llama. Run by hand:

    python tests/benchmarks/merge_vs_peft.py [--layers 16] [--repeats 3] [--folder DIR]

Each merge runs in a process of its own, the two in turn. "merge" is the part after the imports (ours also flushes its
files to disk before it says that they are there, PEFT does not); processor time is what remains comparable on a busy
machine. Memory is the largest resident set of the process (VmHWM), and its private part (RssAnon, sampled), which
leaves out mapped files: libraries, and the base that PEFT maps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import harness

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


def ours(args: argparse.Namespace) -> None:
    from transformers import AutoModelForCausalLM  # noqa: F401  (so that both sides import the same beforehand)

    from engine.merging.merge import merge

    with timed():
        merge(args.base, args.adapter, args.out / "ours", replace=True)


def peft(args: argparse.Namespace) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with timed():
        base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.bfloat16)
        PeftModel.from_pretrained(base, str(args.adapter)).merge_and_unload().save_pretrained(args.out / "peft")


SIDES = {"peft": peft, "ours": ours}


@contextlib.contextmanager
def timed() -> Iterator[None]:
    """Print what the block took, for `harness.in_turn`."""
    started = time.perf_counter()
    with harness.PrivateMemory() as private:
        yield
    seconds = time.perf_counter() - started
    peak, own = harness.peak_rss_bytes() / 1e9, private.peak_bytes / 1e9
    print(json.dumps({"merge, s": seconds, "peak resident, GB": peak, "peak private, GB": own}))


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


def report(found: dict[str, list[harness.Facts]]) -> None:
    print(f"{'median (least - largest)':26}{'PEFT':>24}{'ours':>24}{'ours/PEFT':>11}")
    for key in found["ours"][0]:
        theirs, mine = ([run[key] for run in found[side]] for side in ("peft", "ours"))
        row = f"{key:26}{harness.spread(theirs, '.2f'):>24}{harness.spread(mine, '.2f'):>24}"
        print(f"{row}{harness.ratio(mine, theirs):11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16, help="16: 1.2 billion parameters, 2.4 GB")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    for name in ("base", "adapter", "out"):
        parser.add_argument(f"--{name}", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        SIDES[args.side](args)
        return
    sys.path.insert(0, str(harness.ROOT))
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        out = Path(name)
        base, adapter = out / "base", out / "adapter"
        size = make_base(base, args.layers)
        make_adapter(base, adapter)
        given = ["--base", base, "--adapter", adapter, "--out", out]
        found = harness.in_turn({s: [sys.executable, __file__, "--side", s, *given] for s in SIDES}, args.repeats)
        print(harness.machine("torch", "transformers", "peft"))
        files = len(list(base.glob("*.safetensors")))
        print(f"base: {size / 1e9:.2f} GB in {files} files, LoRA r {RANK}; {args.repeats} runs each")
        report(found)
        print(compare(out / "peft", out / "ours"))


if __name__ == "__main__":
    main()
