"""What a run is made from, written down: run.json for programs, the adapter's README for people."""

from __future__ import annotations

import contextlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine import spec
from engine.files import sha256, write_atomic, write_json
from engine.store import Run
from engine.tables import Project
from engine.text import amount
from engine.tokens.stored import cache_key


def base_hashes(location: str) -> dict[str, str]:
    """SHA-256 of each file of weights by its name, where the base is a folder: a model of the Hub has its revision."""
    base = Path(location)
    return {p.name: sha256(p) for p in sorted(base.glob("*.safetensors"))} if base.is_dir() else {}


def write_run_json(run: Run, project: Project, data: Any, location: str, weights: dict[str, str]) -> str:
    """Record what the run is made from; returns the digest that checkpoints are tied to.

    Args:
        weights: the `base_hashes` of `location`.
    """
    from engine.models.loading import versions

    tied = project.model_dump(exclude={"project": True, "eval": True, "generate": True, "launch": True})
    for name in ("save_every", "keep_checkpoints", "sample_every", "micro_batch_tokens", "activation_checkpointing"):
        tied["train"].pop(name)  # these may change between a stop and a resume without changing the result
    made_from = cache_key([repr(sorted(tied.items())), data.digest, repr(weights) or location])
    facts = {
        "made_from": made_from,
        "base": location,
        "base_revision": project.model.revision,
        "base_sha256": weights,
        "data_sha256": data.digest,
        "train_rows": len(data.train.examples),
        "test_rows": len(data.test.examples) if data.test else 0,
        "versions": versions(),
        "python": platform.python_version(),
        "command": sys.argv,
        "git_commit": _git_commit(run.path),
    }
    write_json(run.path / "run.json", facts)
    return made_from


def _git_commit(folder: Path) -> str | None:
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None


CARD = "README.md"
_RESULTS, _END = "<!-- results -->", "<!-- end of results -->"


def card(run: Run, project: Project, data: Any, step: int) -> str:
    """The adapter's README: what it is, what from, how made. What is measured of it is put in later, see `measured`."""
    command = shlex.join(["loraworkbench", *sys.argv[1:]])
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {project.model.base}",
        "tags: [lora]",
        "---",
        "",
        f"# {run.label}",
        "",
        project.project.description or f"A LoRA adapter for {project.model.base}, trained with LoRA Workbench.",
        "",
        f"- Base: `{project.model.base}`, held as {project.model.quantization} while training",
        f"- LoRA: r {project.lora.r}, alpha {project.lora.alpha:g}, targets {project.lora.target_modules}",
        f"- Data: {len(data.train.examples)} rows of `{project.data.train}`; SHA-256 of the tokens {data.digest}",
        f"- {step} steps, learning rate {project.train.learning_rate:g}, seed {project.train.seed}",
        f"- Template: {data.template.kind}",
        f"- Command: `{command}`; versions and hashes of the base are in the run's run.json",
        "",
        _RESULTS,
        "Not measured yet.",
        _END,
        "",
        "The project file it was trained with, in full:",
        "",
        "```toml",
        spec.dump(project).strip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def tell_card(adapter: Path, rows: Iterable[Mapping[str, Any]], name: str) -> None:
    """Put what an evaluation says of the adapter `name` into the card in its folder, in place of an earlier one.

    Args:
        rows: as in the evaluation's document. A card without a place for results, not of ours, is left alone.
    """
    file = adapter / CARD
    with contextlib.suppress(OSError):  # a folder that may not be written to is measured all the same
        before, found, rest = file.read_text(encoding="utf-8").partition(_RESULTS)
        _, end, after = rest.partition(_END)
        if found and end:
            write_atomic(file, f"{before}{_RESULTS}\n{measured(rows, name)}\n{_END}{after}")


def measured(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    """A table in Markdown: the adapter and, where it was measured on the same rows, the base."""
    rows = list(rows)
    base = {(r["split"], r["scope"]): r for r in rows if r["model"] == "base"}
    lines = [
        "| rows | scope | tokens | perplexity | 95 % | of the base | exact match | of the base |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        if row["model"] == name:
            other = base.get((row["split"], row["scope"]), {})
            cells = [row["split"], row["scope"], f"{row['tokens']:,}", amount(row["perplexity"], ",.4f")]
            cells.append(" to ".join(amount(end, ",.4f") for end in row["interval"] or ()))
            cells.append(amount(other.get("perplexity"), ",.4f"))
            cells += [amount(r.get("exact_match"), ".1%") for r in (row, other)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
