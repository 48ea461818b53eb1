"""Exact training state on disk: written whole or not at all, found again, and the old ones cleared away.

    checkpoints/step-000200/  adapter_model.safetensors adapter_config.json   an adapter like any other
                              state.safetensors   param.* and optimizer.* tensors, fp32, as they were
                              state.json          step, best measurement, what the run was made from

Randomness needs no saving: it is a function of (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import InputError
from engine.files import disk_errors, folder_atomic, recover_folder, size_of
from engine.models.loaded import Loaded
from engine.training import optimizer as optimizers
from engine.training.lora import Tensors, write_adapter


@dataclass
class Progress:
    """What a run knows besides weights and optimizer state.

    Attributes:
        step: optimizer steps done.
        best_loss, best_step: the lowest unseen loss so far, nats per token.
        stale: measurements since then.
        micro_tokens: tokens of a micro-batch after memory ran out; 0: as the project says.
        made_from: digest of data, project and base: a checkpoint continues only what it was made from.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    stale: int = 0
    micro_tokens: int = 0
    made_from: str = ""


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def save(
    folder: Path, loaded: Loaded, optimizer: torch.optim.Optimizer, progress: Progress, initial: Tensors
) -> tuple[Path, int]:
    """Write the checkpoint of `progress.step`.

    Returns:
        Its path and its size in bytes.

    Raises:
        WorkFailed: it cannot be written; earlier checkpoints are untouched.
    """
    from safetensors.torch import save_file

    path = path_of(folder, progress.step)
    tensors = {f"param.{n}": p.detach().cpu().contiguous() for n, p in loaded.parameters()}
    state, plain = optimizers.state_tensors(optimizer)
    tensors |= {f"optimizer.{n}": t for n, t in state.items()}
    with folder_atomic(path) as part:
        write_adapter(part, loaded, initial)
        save_file(tensors, part / "state.safetensors")
        meta = {"progress": asdict(progress), "optimizer": plain}
        (part / "state.json").write_text(json.dumps(meta), encoding="utf-8")
    return path, size_of(path)


def steps_in(folder: Path) -> list[int]:
    """Steps that have a complete checkpoint, ascending; what a crash left half-written is put right first."""
    if not folder.is_dir():
        return []
    for left in {p.with_suffix("") for p in folder.glob("step-*.*")}:
        recover_folder(left)
    complete = (p.parent.name.removeprefix("step-") for p in folder.glob("step-*/state.json"))
    return sorted(int(step) for step in complete if step.isdecimal())


def load(path: Path, loaded: Loaded, optimizer: torch.optim.Optimizer, made_from: str) -> Progress:
    """Put a checkpoint's weights and optimizer state back.

    Raises:
        InputError: it belongs to other data, another base or another project file, does not fit, or is damaged.
    """
    progress, plain, tensors = _read(path)
    if progress.made_from != made_from:
        raise InputError(
            "the data, the base or the project file changed since this checkpoint was written",
            where=str(path),
            remedy="start a new run; resuming would mix the two",
        )
    stored, state = _under("param.", tensors), _under("optimizer.", tensors)
    parameters = dict(loaded.parameters())
    for name in sorted(parameters.keys() | stored.keys()):
        if name not in parameters or name not in stored or parameters[name].shape != stored[name].shape:
            raise InputError(f"this checkpoint is not one of this adapter: {name} differs", where=str(path))
    for name, parameter in parameters.items():
        parameter.data.copy_(stored[name])
    optimizers.load_state(optimizer, state, plain)
    return progress


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _read(path: Path) -> tuple[Progress, dict[str, Any], Tensors]:
    """Progress, the optimizer's plain values, and all tensors.

    Raises:
        InputError: the files are not those of a checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        meta: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return Progress(**meta["progress"]), meta["optimizer"], load_file(path / "state.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        remedy = "delete this folder, to go on from the checkpoint before it"
        raise InputError(f"this checkpoint is damaged: {error}", where=str(path), remedy=remedy) from error


def retain(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one.

    Raises:
        WorkFailed: the folder cannot be changed.
    """
    steps = steps_in(folder)
    for step in steps[: max(0, len(steps) - keep)]:
        if step != best_step:
            going = path_of(folder, step).with_suffix(".part")  # a crash while it is deleted leaves no half of it
            with disk_errors(going):
                os.replace(path_of(folder, step), going)
                shutil.rmtree(going)
