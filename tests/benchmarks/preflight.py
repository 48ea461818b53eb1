"""The estimate of `engine.estimate` beside the real peak of `loraworkbench train`, on the starter and on a random model.

    python tests/benchmarks/preflight.py [--only NAME] [--steps 2] [--dtype auto|float32]

The peak is the resident memory of the whole process at its highest (ru_maxrss of a child), files mapped while the base
is loaded included. Each case is a run of its own of the real command line, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import estimate, events, spec
from engine.store import Workspace, shipped

ROOT = Path(__file__).parents[2]
RANDOM = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
          "num_key_value_heads": 12, "vocab_size": 32000, "max_position_embeddings": 1024,
          "tie_word_embeddings": True}  # fmt: skip
"""A Llama of 110 million parameters."""

CASES: dict[str, dict[str, dict[str, object]]] = {
    "starter": {"model": {"base": "starter"}},
    "starter, 4,096 tokens": {"model": {"base": "starter"}, "train": {"examples_per_step": 64}},
    "starter, checkpointing": {
        "model": {"base": "starter"},
        "train": {"examples_per_step": 64, "activation_checkpointing": True},
    },
    "110M nf4": {"model": {"base": "random"}, "train": {"micro_batch_tokens": 1024}},
    "110M fp32": {"model": {"base": "random", "quantization": "none"}, "train": {"micro_batch_tokens": 1024}},
    "110M fp32, r 64, 2,048 tokens": {
        "model": {"base": "random", "quantization": "none"},
        "lora": {"r": 64},
        "train": {"micro_batch_tokens": 2048},
    },
    "110M nf4, checkpointing": {
        "model": {"base": "random"},
        "train": {"micro_batch_tokens": 1024, "activation_checkpointing": True},
    },
    "110M int8": {"model": {"base": "random", "quantization": "int8"}, "train": {"micro_batch_tokens": 1024}},
}


def make_base(folder: Path) -> Path:
    """A Llama with random bf16 weights and the starter's tokenizer."""
    program = (
        "import sys, torch\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"LlamaForCausalLM(LlamaConfig(**{RANDOM!r})).to(torch.bfloat16).save_pretrained(sys.argv[1])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)
    for file in shipped("data/starter").glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(shipped("data/starter") / "chat_template.jinja", folder)
    return folder


def peak_of(command: list[str], cwd: Path) -> int:
    """Bytes of resident memory of a command at its highest."""
    with (cwd / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((cwd / "log.txt").read_text()[-3000:])
    return usage.ru_maxrss * 1024


def measure(name: str, root: Path, base: Path, steps: int, dtype: str) -> tuple[int, estimate.Estimate]:
    """(real peak, estimate with the lengths of the real steps) of one case."""
    tables = {table: dict(values) for table, values in CASES[name].items()}
    if tables["model"]["base"] == "random":
        tables["model"]["base"] = str(base)
    tables["model"]["dtype"] = dtype
    tables.setdefault("train", {})
    tables["train"] = {"examples_per_step": 16, "max_length": 256, "steps": steps, **tables["train"]}
    tables["data"] = {"train": str(shipped("data/word_problems") / "train.jsonl"), "train_limit": 400}
    import tomlkit

    folder = root / "projects" / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "project.toml").write_text(tomlkit.dumps(tables))
    peak = peak_of([sys.executable, "-m", "engine", "--workspace", str(root), "train", "case"], root)
    said, _ = events.read(folder / "runs" / "0001" / "events.jsonl")
    tokens = max(e.tokens for e in said if isinstance(e, events.Step))
    project = spec.load(folder / "project.toml")
    return peak, estimate.of_project(project, Workspace(root), "cpu", step_tokens=tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float32"], default="auto")
    parser.add_argument("--parts", action="store_true", help="show the parts of each estimate")
    args = parser.parse_args()
    print(f"{'':32}{'tokens':>8}{'peak MB':>10}{'estimate':>10}{'off':>8}")
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(Path(folder) / "random") if any(
            CASES[n]["model"]["base"] == "random" for n in args.only or CASES
        ) else Path(folder)  # fmt: skip
        for name in args.only or CASES:
            peak, found = measure(name, Path(folder), base, args.steps, args.dtype)
            off = found.total / peak - 1
            print(f"{name:32}{found.tokens:8,}{peak / 1e6:10,.0f}{found.total / 1e6:10,.0f}{off:+8.0%}", flush=True)
            if args.parts:
                for part in found.parts:
                    print(f"    {part.name:15}{part.bytes / 1e6:10,.1f}  {part.how}")


if __name__ == "__main__":
    main()
