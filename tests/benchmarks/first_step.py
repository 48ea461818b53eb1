"""Time to the first optimizer step, against importing torch and the model's class and loading its weights. Run by hand:

    python tests/benchmarks/first_step.py [--case starter|110M|110M-nf4] [--repeats 7] [--threads 2] [--json FILE]

Ours is `python -m engine train PROJECT` from the start of the process to its first `step` event, that step included: the
starter project (5 million parameters in nf4, 3,400 rows), or its rows on a random Llama of 110 million parameters, one
row a step. The peer imports torch and `LlamaForCausalLM` and loads the weights as the project does (nf4: by bitsandbytes,
which transformers imports for that). Sides take turns, each run a process of its own. `first run` has a workspace without
the cache of tokenised rows, `next run` finds it there. CPU seconds are the process's up to then; the parts are read off
the times of the events. With them come the measuring of the largest micro-batch and PEFT's import, inside `adapter`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import harness
from preflight import make_base

CASES = {
    "starter": ("starter", "nf4", "float32", 16),
    "110M": ("random", "none", "bfloat16", 1),
    "110M-nf4": ("random", "nf4", "bfloat16", 1),
}
"""Base, quantization, dtype, rows a step."""
WALL, CPU = "to then, s", "CPU to then, s"
PARTS = ("to the first event", "rows and tokens", "base", "adapter and its memory", "first step")
PEER = """
import json, sys, time, torch
from transformers import LlamaForCausalLM
base, quantization, dtype, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
how = {"dtype": getattr(torch, dtype)}
if quantization == "nf4":
    from transformers import BitsAndBytesConfig
    how["quantization_config"] = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=how["dtype"]
    )
LlamaForCausalLM.from_pretrained(base, **how)
print(json.dumps({"ended": time.time(), "CPU to then, s": time.process_time()}))
"""


def make_workspace(folder: Path) -> Path:
    """The starter project with its data, in a workspace of its own."""
    shutil.copytree(harness.ROOT / "projects/starter", folder / "projects/starter", ignore=lambda *_: ["runs"])
    shutil.copytree(harness.ROOT / "data/word_problems", folder / "data/word_problems")
    return folder


def loading(base: Path, quantization: str, dtype: str, threads: int) -> harness.Facts:
    """The peer, in a process of its own."""
    begun = time.time()
    command = [sys.executable, "-c", PEER, str(base), quantization, dtype, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    facts = json.loads(done.stdout.splitlines()[-1])
    return {WALL: facts["ended"] - begun, CPU: facts[CPU]}


def first_step(root: Path, settings: dict[str, object], anew: bool) -> harness.Facts:
    """Ours, in a process that is ended at its first step."""
    import psutil

    shutil.rmtree(root / "projects/starter/runs", ignore_errors=True)
    if anew:
        shutil.rmtree(root / ".cache", ignore_errors=True)
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "engine", "--workspace", str(root), "train", "starter", "--json", *options]
    moments, cpu = [time.time()], 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["kind"] == "step":
                cpu = sum(psutil.Process(process.pid).cpu_times()[:2])
            loads = event["kind"] == "stage" and event["name"].startswith("load ")
            if loads or event["kind"] in ("started", "memory", "step"):
                moments.append(event["t"])  # the stage comes twice: it begins, and it is done
            if event["kind"] == "step":
                process.kill()
                break
        else:
            sys.exit(process.stderr.read())
    parts = dict(zip(PARTS, (b - a for a, b in pairwise(moments)), strict=True))
    return {WALL: moments[-1] - moments[0], CPU: cpu, **parts}


def report(found: dict[str, list[harness.Facts]]) -> None:
    print(f"{'':28}{'seconds':>22}{'CPU seconds':>22}{'/ loading':>11}{'by CPU':>8}")
    peer = found["loading"]
    for side, runs in found.items():
        walls, cpus = ([run[key] for run in runs] for key in (WALL, CPU))
        against = [harness.ratio([r[key] for r in runs], [r[key] for r in peer]) for key in (WALL, CPU)]
        shown = f"{against[0]:>11.2f}{against[1]:>8.2f}"
        print(f"{side:28}{harness.spread(walls, '.2f'):>22}{harness.spread(cpus, '.2f'):>22}{shown}")
        for part in PARTS if side != "loading" else ():
            print(f"    {part:24}{harness.spread([run[part] for run in runs], '.2f'):>22}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write what every run measured to this file")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "CASE", "ROOT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(one(args.side[0], args.side[1], Path(args.side[2]), args.threads)))
        return
    everything: dict[str, dict[str, list[harness.Facts]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = make_workspace(Path(folder))
        make_base(root / "random")
        again = [sys.executable, __file__, "--threads", str(args.threads), "--side"]
        for case in args.case or CASES:
            commands = {side: [*again, side, case, root] for side in ("loading", "first run", "next run")}
            everything[case] = harness.in_turn(commands, args.repeats)
            print(f"{case}: {harness.machine('torch', 'transformers', 'peft', 'bitsandbytes')}")
            report(everything[case])
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


def one(side: str, case: str, root: Path, threads: int) -> harness.Facts:
    """One run of one side."""
    name, quantization, dtype, rows = CASES[case]
    if side == "loading":
        base = harness.ROOT / "data/starter" if name == "starter" else root / name
        return loading(base, quantization, dtype, threads)
    settings = {
        "model.base": name if name == "starter" else root / name,
        "model.quantization": quantization,
        "model.dtype": dtype,
        "train.examples_per_step": rows,
        "launch.threads": threads,
        "launch.device": "cpu",
    }
    return first_step(root, settings, anew=side == "first run")


if __name__ == "__main__":
    main()
