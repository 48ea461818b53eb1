"""What the settings of a training ask of the machine, to be said before anything is loaded. No torch.

Comes from: a project and the kind of its device. Goes to: `check`, and `work.train` before it loads the base.
"""

from __future__ import annotations

from engine.errors import InputError
from engine.tables import Project, TrainTable


def problems(project: Project, device: str) -> list[InputError]:
    """What a training of this project cannot do on a device of the kind "cpu" or "cuda"."""
    found = [optimizer(project.train, device)]
    if project.lora.dora and project.model.quantization == "int8" and device == "cpu":
        # PEFT 0.21 replaces the weights when it reads their norms on a CPU, and the new ones have lost their scales.
        remedy = 'use model.quantization = "nf4" or "none"'
        found.append(InputError("`lora.dora` does not work on an int8 base without a GPU", remedy=remedy))
    return [problem for problem in found if problem is not None]


def optimizer(train: TrainTable, device: str) -> InputError | None:
    """What is wrong with the optimizer there: those of bitsandbytes need a GPU."""
    if train.optimizer == "adamw" or device == "cuda":
        return None
    return InputError(f'train.optimizer = "{train.optimizer}" needs a GPU', remedy='use "adamw" on this machine')
