"""Answers for exact match against transformers' `generate` in file order: same model, same prompts, same text. Run by hand:

    python tests/benchmarks/answers_vs_generate.py FILE.jsonl [--rows 400] [--repeats 3] [--threads 2] [--batch-size 16]

FILE has a question in each row (`question`, else `prompt`), such as `data/word_problems/test.jsonl` or GSM8K's test.jsonl;
the model is the starter base in fp32, which ends its answers itself, so that their lengths differ as answers do. Greedy,
at most 256 new tokens. `generate` takes the rows as they come, --batch-size at a time, padded on the left; ours is
`answering.complete`: sorted by length, a row that is done leaves and another enters. Each run is a process of its own,
the two in turn; imports, loading and the first batch, as a warm-up, come before. What the rows are is compared token by token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness

from engine import libraries

SIDES = ("ours", "generate")
NEW_TOKENS = 256

Answers = Callable[[Sequence[list[int]]], list[list[int]]]
"""Prompts -> what was chosen after each, without the stop token."""


def questions(file: Path, count: int) -> list[str]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines()[:count])
    return [row.get("question") or row["prompt"] for row in rows]


def load(threads: int) -> Any:
    """The starter base, in fp32, as the engine loads it."""
    from engine import spec
    from engine.models import loading
    from engine.store import Workspace

    text = '[model]\nbase = "starter"\nquantization = "none"\ndtype = "float32"\n'
    return loading.load(spec.parse(text + f'[launch]\ndevice = "cpu"\nthreads = {threads}\n'), Workspace(harness.ROOT))


def ours(loaded: Any, stop_ids: Sequence[int], batch_size: int) -> Answers:
    from engine.generation.answering import Settings, complete

    settings = Settings(NEW_TOKENS, stop_ids=frozenset(stop_ids))
    return lambda prompts: [list(a.ids) for a in complete(loaded, prompts, settings)]


def generate(loaded: Any, stop_ids: Sequence[int], batch_size: int) -> Answers:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(loaded.causal.config._name_or_path, dtype=torch.float32).eval()
    pad = loaded.tokenizer.pad_token_id

    def answers(prompts: Sequence[list[int]]) -> list[list[int]]:
        found: list[list[int]] = []
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            with torch.inference_mode():
                made = model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False,
                    eos_token_id=list(stop_ids), pad_token_id=pad,
                )  # fmt: skip
            for row in made[:, width:].tolist():
                end = next((i for i, token in enumerate(row) if token in stop_ids), len(row))
                found.append(row[:end])
        return found

    return answers


def measure(args: argparse.Namespace) -> harness.Facts:
    """One side's run, in this process."""
    if args.side == "ours":
        libraries.prepare()
    import torch

    from engine.generation.answering import settings_from
    from engine.tables import GenerateTable

    torch.set_num_threads(args.threads)
    loaded = load(args.threads)
    stop_ids = sorted(settings_from(GenerateTable(), loaded, "").stop_ids)
    prompts = [
        loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        for text in questions(args.source, args.rows)
    ]
    answer = (ours if args.side == "ours" else generate)(loaded, stop_ids, args.batch_size)
    answer(prompts[: args.batch_size])
    wall, cpu = time.perf_counter(), time.process_time()
    found = answer(prompts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "seconds": wall, "CPU seconds": cpu, "tokens": sum(map(len, found)), "rows": len(found),
        "peak GB": harness.peak_rss_bytes() / 1e9, "answers": found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a JSONL file of questions")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16, help="of `generate`, in rows")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)))
        return
    again = [sys.executable, __file__, *sys.argv[1:]]
    found = harness.in_turn({side: [*again, "--side", side] for side in SIDES}, args.repeats)
    print(harness.machine("torch", "transformers"))
    for side, runs in found.items():
        shown = {k: harness.spread([r[k] for r in runs], ",.2f") for k in ("seconds", "CPU seconds", "peak GB")}
        print(f"{side:8} {shown}; {runs[0]['rows']:,} answers, {runs[0]['tokens']:,} tokens")
    mine, theirs = found.values()
    clock, cpu = (harness.ratio([r[k] for r in theirs], [r[k] for r in mine]) for k in ("seconds", "CPU seconds"))
    same = sum(a == b for a, b in zip(mine[0]["answers"], theirs[0]["answers"], strict=True))
    print(
        f"times as fast: {clock:.2f} by the clock, {cpu:.2f} by CPU time; {same} of {mine[0]['rows']} answers the same"
    )


if __name__ == "__main__":
    main()
