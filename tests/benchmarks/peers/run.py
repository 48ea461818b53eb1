"""Training speed beside the peers: the same GSM8K rows, base, LoRA and steps, each peer in an environment of its own.

    python tests/benchmarks/peers/run.py ../shared/gsm8k [--size S|M] [--dtype float32|bfloat16] [--nf4] [--rows 160]
        [--peers trl torchtune/packed ...] [--repeats 3] [--threads 1] [--json FILE]

One command makes one table. Each run is a process, and the peers take turns. Only tokens that are no padding count, and
the first two steps are left out. `tokens/CPU-s` divides by the CPU time of the process, which other load on the machine
disturbs less than the clock. What is the same work is checked, not assumed: which rows a peer's model got, the labels
that count, the parameters that are trained; and its first loss against the loss of those rows by transformers alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (3, 1)]

import common  # noqa: E402
import environments  # noqa: E402
import harness  # noqa: E402
import jobs  # noqa: E402

Runs = dict[str, list[harness.Facts]]


def chosen(names: list[str]) -> dict[environments.Peer, list[str]]:
    """Peers and their variants, ours first: `trl` stands for all of TRL's, `trl/packing` for one."""
    picked = {}
    for peer in environments.PEERS.values():
        wanted = [
            v for v in peer.variants if not names or peer.name == "ours" or {peer.name, f"{peer.name}/{v}"} & {*names}
        ]
        if wanted:
            picked[peer] = wanted
    return picked


def label(peer: environments.Peer, variant: str) -> str:
    return peer.name if variant == "default" else f"{peer.name} {variant}"


def measure(folder: Path, args: argparse.Namespace) -> tuple[Runs, dict[str, str]]:
    """What each side's runs told, and the error of those that failed."""
    commands: dict[str, list[str | Path]] = {}
    failed: dict[str, str] = {}
    for peer, variants in chosen(args.peers).items():
        try:
            python = peer.python()
        except environments.NotInstalled as error:
            failed |= {label(peer, variant): f"not installed: {error}" for variant in variants}
            continue
        commands |= {label(peer, v): [python, peer.script, folder / "job.json", v] for v in variants}
    found = harness.in_turn(commands, args.repeats, failed)
    if "ours" in failed:
        sys.exit(f"ours failed: {failed['ours']}")
    return found, failed


def differences(facts: harness.Facts, job: common.Job, ours: harness.Facts, losses: list[tuple[float, int]]) -> str:
    """In which respects a run did other work than ours; "" where it did the same."""
    found = [
        f"{name} {facts[name]:,} instead of {ours[name]:,}"
        for name in ("tokens", "supervised", "trained")
        if facts[name] != ours[name]
    ]
    if facts["whole rows"] != len(job.rows):
        found.append(f"{facts['whole rows']} of {len(job.rows)} rows seen whole and once")
    expected, allowed = expected_loss(facts, losses), 2e-4 if job.dtype == "float32" and not job.nf4 else 1e-2
    if expected and abs(facts["first loss"] - expected) > allowed:
        found.append(f"first loss {facts['first loss']:.5f} instead of {expected:.5f}")
    return "; ".join(found)


def expected_loss(facts: harness.Facts, losses: list[tuple[float, int]]) -> float | None:
    """The mean loss of the rows of a run's first step before any training; None where it cut rows."""
    rows = [losses[i] for i in facts["first rows"]]
    return sum(loss for loss, _ in rows) / sum(n for _, n in rows) if rows else None


def table(found: Runs, job: common.Job, losses: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """A row for each side, for the screen and for the JSON."""
    ours = found["ours"]
    made = []
    for side, runs in found.items():
        facts = {name: [run[name] for run in runs] for name in ("tokens/CPU-s", "tokens/s", "peak GB")}
        made.append(
            {"side": side}
            | {name: harness.spread(values, ".2f" if name == "peak GB" else ",.0f") for name, values in facts.items()}
            | {
                "ours / this, CPU": harness.ratio([r["tokens/CPU-s"] for r in ours], facts["tokens/CPU-s"]),
                "ours / this, clock": harness.ratio([r["tokens/s"] for r in ours], facts["tokens/s"]),
                "padding": 1 - runs[0]["tokens"] / runs[0]["slots"],
                "steps": runs[0]["steps"],
                "first loss": runs[0]["first loss"],
                "expected": expected_loss(runs[0], losses),
                "mean loss": statistics.median(run["mean loss"] for run in runs),
                "other work": differences(runs[0], job, ours[0], losses),
            }
        )
    return made


def show(rows: list[dict[str, Any]], failed: dict[str, str]) -> None:
    """The table in Markdown, then what was not the same work, then what failed."""
    print(
        "| | tokens per CPU second | ours / this | by the clock | padding | peak GB | first loss (expected) | mean loss |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        expected = f"({row['expected']:.5f})" if row["expected"] else "(rows cut)"
        print(
            f"| {row['side']} | {row['tokens/CPU-s']} | {row['ours / this, CPU']:.2f} | {row['ours / this, clock']:.2f} |"
            f" {row['padding']:.0%} | {row['peak GB']} | {row['first loss']:.5f} {expected} | {row['mean loss']:.5f} |"
        )
    for row in rows:
        if row["other work"]:
            print(f"\nnot the same work: {row['side']}: {row['other work']}")
    for side, error in failed.items():
        print(f"\nfailed: {side}: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a folder with GSM8K's train.jsonl, or a file like it")
    parser.add_argument("--size", default="S", choices=list(jobs.SIZES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--nf4", action="store_true", help="the base in 4 bits")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="PEER[/VARIANT]",
        help="such as trl or torchtune/packed; all where left out",
    )
    parser.add_argument("--json", type=Path, help="a file for the table and every run's numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job = jobs.make(Path(name), args.source, args.size, args.rows, args.dtype, args.nf4, args.threads)
        losses = jobs.losses(job)
        found, failed = measure(Path(name), args)
    versions = {side: runs[0]["versions"] for side, runs in found.items()}
    ours = found["ours"][0]
    base = f"{args.size}, {args.dtype}{' on NF4' if args.nf4 else ''}"
    head = f"{base}, {args.threads} thread(s), {args.repeats} runs each; {harness.machine('torch', 'transformers', 'peft')}"
    work = f"each: {ours['tokens']:,} tokens, {ours['supervised']:,} supervised, {ours['trained']:,} parameters trained"
    rows = table(found, job, losses)
    print(f"{head}\n{work}\n")
    show(rows, failed)
    if args.json:
        told = {"machine": head, "work": work, "table": rows, "failed": failed, "versions": versions, "runs": found}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
