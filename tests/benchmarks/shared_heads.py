"""A token at a time on a CPU, of a model whose queries share key-value heads: ours against transformers' attention. Run by hand:

    python tests/benchmarks/shared_heads.py [--dtype bfloat16|float32] [--repeats 5] [--threads 2]

A Llama of random weights, 138 million parameters, 16 heads on 4; `answering.complete` writes 32 tokens after prompts of
one length, so that there is no mask. The peer is the same code with transformers' way of sharing in place of
`attention._packed`, in the same process, the two in turn after a first round of each. Milliseconds a token: what is
left of 32 tokens without what a first one takes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

from engine import libraries

SHAPE = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16,
    "num_key_value_heads": 4, "vocab_size": 1264, "max_position_embeddings": 2048,
}  # fmt: skip
NEW_TOKENS = 32
PROMPTS = ((64, 2), (512, 1), (512, 2), (512, 8))
"""Tokens of a prompt, rows."""


def make_base(folder: Path) -> None:
    program = (
        "import sys, torch\nfrom transformers import LlamaConfig, LlamaForCausalLM\ntorch.manual_seed(0)\n"
        f"LlamaForCausalLM(LlamaConfig(**{SHAPE!r})).to(torch.bfloat16).save_pretrained(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, capture_output=True)
    for file in (harness.ROOT / "data/starter").glob("*token*"):
        shutil.copy(file, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    libraries.prepare()
    from engine import spec
    from engine.generation.answering import Settings, complete
    from engine.models import attention, loading
    from engine.store import Workspace

    with tempfile.TemporaryDirectory() as folder:
        make_base(Path(folder))
        table = f'[model]\nbase = "{folder}"\nquantization = "none"\ndtype = "{args.dtype}"\n'
        project = spec.parse(table + f'[launch]\ndevice = "cpu"\nthreads = {args.threads}\n')
        loaded = loading.load(project, Workspace(Path(folder)))
    print(f"{args.dtype}, {harness.machine('torch', 'transformers')}")
    sides = {"ours": attention._packs, "transformers": lambda *given: False}
    for length, rows in PROMPTS:
        prompts = [[(7 * i + row) % 1200 + 5 for i in range(length)] for row in range(rows)]
        found: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.repeats + 1):
            for side, packs in sides.items():
                attention._packs = packs
                moments = [time.perf_counter()]
                for count in (1, NEW_TOKENS):
                    complete(loaded, prompts, Settings(count))
                    moments.append(time.perf_counter())
                first, whole = moments[1] - moments[0], moments[2] - moments[1]
                found[side].append((whole - first) / (NEW_TOKENS - 1) * 1e3)
        ours, theirs = (values[1:] for values in found.values())
        told = ", ".join(f"{side} {harness.spread(values[1:], '.1f')}" for side, values in found.items())
        times = statistics.median(theirs) / statistics.median(ours)
        print(f"{rows} prompts of {length} tokens, ms a token: {told}; {times:.2f} times as fast")


if __name__ == "__main__":
    main()
