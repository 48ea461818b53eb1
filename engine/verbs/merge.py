"""`loraworkbench merge`: one adapter, or several combined, merged into the base and proved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from engine.console import Console
from engine.errors import InputError
from engine.files import write_json
from engine.jobs import merging, work
from engine.store import Workspace
from engine.verbs.detaching import options, start_job


def run(
    workspace: Workspace,
    project_name: str,
    overrides: list[str],
    adapters: list[str],
    weights: list[float],
    method: str,
    base_weights: Literal["original", "nf4"],
    out: Path | None,
    replace: bool,
    verify: bool,
    console: Console,
    *,
    density: float | None = None,
    majority_sign: str = "total",
    detach: bool = False,
    number: int | None = None,
) -> dict[str, Any]:
    """Merge, and return what was done as the document for --json.

    Args:
        weights: one for each of several adapters; empty: 1 each.
        method: how several are combined (see `combine.combine`).
        out: default projects/NAME/merged/ADAPTER, with "-nf4" for the rounded base.
        density: the share of values that ties, dare and magnitude_prune keep. majority_sign: how ties elects a sign.
        detach: do it in a process and a job folder of its own; what is returned is about that.
        number: of the job folder to do it in, which `detach` has made.
    """
    folder = workspace.project(project_name)
    project = folder.load(overrides)
    chosen = [work.adapter_of(workspace, folder, name) for name in adapters or [None]]
    if weights and len(weights) != len(chosen):
        raise InputError(
            f"{len(weights)} weights for {len(chosen)} adapters", remedy="give one --weight for each --adapter"
        )
    name = "+".join(n for n, _ in chosen)
    suffix = "" if base_weights == "original" else "-nf4"
    target = out or folder.path / "merged" / (name + suffix)
    if detach:
        order = options(
            ("--set", overrides), ("--adapter", [p for _, p in chosen]), ("--weight", weights), ("--method", [method]),
            ("--density", None if density is None else [density]), ("--majority-sign", [majority_sign]),
            ("--base-weights", [base_weights]), ("--out", [target.resolve()]),
        )  # fmt: skip
        order += ["--replace"] * replace + ["--verify" if verify else "--no-verify"]
        return start_job(workspace, folder, "merge", order, console)
    from engine.jobs.job import told_job

    place = None if number is None else folder.job(number)
    with told_job("merge", folder.name, console.emit, place, "stopped; nothing was written") as emit:
        pairs = [(path, weight) for (_, path), weight in zip(chosen, weights or [1.0] * len(chosen), strict=True)]
        recipe = merging.Recipe(method, density, majority_sign) if len(chosen) > 1 or weights else None
        document = merging.merge(
            folder,
            project,
            pairs,
            target,
            emit,
            recipe=recipe,
            base_weights=base_weights,
            replace=replace,
            prove=verify,
        )
        if place is not None:
            write_json(place.result, document)
    console.say(f"\nmerged model: {target}")
    for line in summary(document):
        console.say(f"  {line}")
    console.say(f'\nload it:  AutoModelForCausalLM.from_pretrained("{target}")')
    return document


def summary(document: dict[str, Any]) -> list[str]:
    """What a merge did and what was proved, in a few lines."""
    lines = [f"{document['merged']} of {document['tensors']} tensors changed, {document['bytes'] / 1e6:.1f} MB"]
    proof = document["verification"]
    if proof is None:
        return [*lines, "not verified (--no-verify)"]
    return [
        *lines,
        f"verified against {proof['reference']}",
        f"KL on {proof['prompts']} prompts {proof['kl']:.1e} (the adapter's own effect: {proof['adapter_kl']:.1e})",
        f"perplexity {proof['perplexity_merged']:.4f}, base + adapter {proof['perplexity_adapter']:.4f} "
        f"({proof['tokens']:,} tokens)",
    ]
