"""What a run is made from, written down: run.json for programs, the adapter's README for people."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine import spec
from engine.files import sha256, write_json
from engine.store import Run
from engine.tables import Project
from engine.tokens.examples import cache_key


def write_run_json(run: Run, project: Project, data: Any, location: str) -> str:
    """Record what the run is made from; returns the digest that checkpoints are tied to."""
    from engine.models.loading import versions

    base = Path(location)
    weights = {p.name: sha256(p) for p in sorted(base.glob("*.safetensors"))} if base.is_dir() else {}
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


def card(run: Run, project: Project, data: Any, step: int) -> str:
    """The adapter's README: what it is, what from, how made."""
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
        f"- Data: {len(data.train.examples)} rows of `{project.data.train}` (SHA-256 of the tokens {data.digest[:16]})",
        f"- {step} steps, learning rate {project.train.learning_rate:g}, seed {project.train.seed}",
        f"- Template: {data.template.kind}",
        "",
        "The project file it was trained with, in full:",
        "",
        "```toml",
        spec.dump(project).strip(),
        "```",
    ]
    return "\n".join(lines) + "\n"
