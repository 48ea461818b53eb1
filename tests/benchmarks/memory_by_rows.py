"""Peak memory over a tenfold growth of the rows: reading and showing, training, perplexity, exact match. Run by hand:

    python tests/benchmarks/memory_by_rows.py ../shared/gsm8k [--only rows] [--rows 7000] [--repeats 3] [--json FILE]

The rows are GSM8K's training problems, again and again with a number of their own; the base is the starter's. Each figure
is the resident memory of a process of the real command line at its highest. `rows` and `train` (two steps of 4 rows)
are given all rows; perplexity scores a tenth of them and exact match answers as many, so that a run is short. Where
memory grows, `bytes a row` says by how much; `text` is what a row has in its file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import harness
from preflight import peak_of

PROJECT = """
[model]
base = "starter"
quantization = "none"
dtype = "float32"
[data]
train = "{data}"
template = "chat"
[train]
steps = 2
examples_per_step = 4
micro_batch_tokens = 1024
[eval]
train_rows = {measured}
match_rows = {matched}
[generate]
max_new_tokens = 16
[launch]
device = "cpu"
threads = 2
offline = true
"""
SHARES = {"rows": 1, "train": 1, "train, tokens cached": 1, "perplexity": 10, "exact match": 10}
"""What is measured, and which share of the rows it is given: one of so many."""
VERBS = {
    "rows": ["rows"],
    "train": ["train"],
    "train, tokens cached": ["train"],
    "perplexity": ["eval", "--base-only", "--set", "eval.exact_match=none"],
    "exact match": ["eval", "--base-only", "--set", "eval.exact_match=gsm8k"],
}


def write_rows(source: Path, file: Path, count: int) -> int:
    """`count` problems, no two alike; returns the size of the file in bytes."""
    problems = [json.loads(line) for line in (source / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    with file.open("w", encoding="utf-8") as out:
        for n in range(count):
            row = problems[n % len(problems)]
            out.write(json.dumps({**row, "question": f"No. {n}. {row['question']}"}) + "\n")
    return file.stat().st_size


def measure(what: str, source: Path, rows: int) -> tuple[int, int]:
    """(peak of the process, size of the rows' file), bytes, in a workspace of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_rows(source, root / "rows.jsonl", rows)
        project = root / "projects/case"
        project.mkdir(parents=True)
        matched = rows if what == "exact match" else 1
        (project / "project.toml").write_text(PROJECT.format(data="rows.jsonl", measured=rows, matched=matched))
        verb, *options = VERBS[what]
        command = [sys.executable, "-m", "engine", "--workspace", str(root), verb, "case", *options]
        if what == "train, tokens cached":
            peak_of(command, root)
        return peak_of(command, root), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with GSM8K's train.jsonl")
    parser.add_argument("--only", choices=list(SHARES), action="append")
    parser.add_argument("--rows", type=int, default=7000, help="the smaller number; the larger is ten times as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    print(harness.machine("torch", "transformers"))
    print(f"{'':22}{'rows':>8}{'peak, MB':>22}{'rows':>8}{'peak, MB':>22}{'bytes a row':>13}{'text':>6}")
    everything = {}
    for what in args.only or SHARES:
        few = args.rows // SHARES[what]
        found: dict[int, list[tuple[int, int]]] = {few: [], 10 * few: []}
        for _ in range(args.repeats):
            for rows, measured in found.items():
                measured.append(measure(what, args.source, rows))
        peaks = {rows: [peak for peak, _ in measured] for rows, measured in found.items()}
        low, high = (statistics.median(each) for each in peaks.values())
        shown = "".join(f"{n:>8,}{harness.spread([p / 1e6 for p in each]):>22}" for n, each in peaks.items())
        text = found[few][0][1] / few
        print(f"{what:22}{shown}{(high - low) / (9 * few):>13,.0f}{text:>6,.0f}", flush=True)
        everything[what] = peaks
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
