"""Projects, rows and runs for tests that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
import torch

from engine import events, spec
from engine.models.loaded import Loaded
from engine.tables import Project
from engine.tokens.examples import Example
from engine.training import lora
from engine.training.loop import Training


def project_of(**values: Any) -> Project:
    """A project with [train] values (and lora_... for [lora])."""
    tables: dict[str, dict[str, Any]] = {
        "train": {},
        "lora": {"r": 8, "alpha": 16.0},
        "model": {"quantization": "none"},
    }
    for name, value in values.items():
        table, _, key = name.partition("_") if name.startswith("lora_") else ("train", "", name)
        tables[table][key] = value
    return spec.parse(tomlkit.dumps(tables))


def examples_of(count: int, seed: int = 0, vocabulary: int = 300, low: int = 6, high: int = 40) -> list[Example]:
    """Random rows whose first third is a prompt."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        n = int(rng.integers(low, high))
        weights = np.ones(n, np.float32)
        weights[: n // 3] = 0
        made.append(Example(rng.integers(5, vocabulary, n).astype(np.int32), weights, f"rows.jsonl:{i + 1}"))
    return made


def training_of(
    loaded: Loaded,
    project: Project,
    examples: list[Example],
    folder: Path,
    emit: events.Emit = lambda _: None,
    **extra: Any,
) -> Training:
    initial = lora.attach(loaded, project.lora, "base", None, project.train.seed)
    return Training(loaded, project, examples, emit, folder / "checkpoints", "made-from", initial, **extra)


def weights_of(training: Training) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in training.loaded.parameters()}


def shake(loaded: Loaded, std: float = 0.05) -> None:
    """Random values for what starts at zero, so that every matrix of the adapter has an effect and a gradient."""
    with torch.no_grad():
        for name, p in loaded.parameters():
            if "lora_B" in name or "embedding_A" in name:
                p.normal_(std=std, generator=torch.Generator().manual_seed(1))


def gradient_of(loaded: Loaded) -> torch.Tensor:
    """The gradient of all trainable parameters end to end; it is taken away."""
    parts = [p.grad.detach().flatten().clone() for _, p in loaded.parameters() if p.grad is not None]
    for _, p in loaded.parameters():
        p.grad = None
    return torch.cat(parts)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """The norm of the difference over the norm of `b`."""
    return float((a - b).norm() / b.norm())
