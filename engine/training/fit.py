"""Whether a [lora] table can be put on a loaded base; what cannot is refused in the words of the project file.

Comes from: `lora.attach`, before PEFT sees the table. PEFT passes over patterns and modules that match nothing, and
starts some decompositions on layers that they do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from engine.adapters import pattern_value
from engine.errors import InputError
from engine.models.loaded import Loaded
from engine.tables import LoraTable


def check(loaded: Loaded, lora: LoraTable) -> None:
    """Refuse targets, patterns and modules that name nothing here, and initialisations that these layers do not allow.

    Raises:
        InputError: with the names of the model's linear layers where a name is wrong.
    """
    modules = dict(loaded.causal.named_modules())
    linear = {name: module for name, module in modules.items() if _is_linear(module)}
    _check_experts(loaded, lora)
    if missing := _unmatched(lora.target_modules, list(modules)):
        raise _unknown("target_modules", missing, linear)
    for key, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
        if missing := [p for p in patterns if not any(pattern_value({p: True}, name, False) for name in modules)]:
            raise _unknown(key, missing, linear)
    if missing := [s for s in lora.modules_to_save if not any(name.endswith(s) for name in modules)]:
        raise _unknown("modules_to_save", missing, filter(None, modules))
    if lora.init in ("pissa", "olora"):
        head, targets = loaded.causal.get_output_embeddings(), lora.target_modules
        if targets == "all-linear":  # PEFT leaves out the head
            _check_decomposition(lora, {n: m for n, m in linear.items() if m is not head})
        else:
            _check_decomposition(lora, {n: m for n, m in linear.items() if _targeted(targets, n)})


def _is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _check_experts(loaded: Loaded, lora: LoraTable) -> None:
    fused = [name for name, p in loaded.causal.named_parameters() if p.ndim == 3 and "expert" in name]
    if fused and lora.target_modules == "all-linear":
        raise InputError(
            f"this model fuses its experts into one tensor ({fused[0]}), which LoRA on linear layers leaves out",
            remedy='name the layers to adapt, for example lora.target_modules = ["q_proj", "v_proj"]',
        )


def _targeted(targets: str | list[str], name: str) -> bool:
    """PEFT's rules: a regular expression for the whole name, or ends of names."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == t or name.endswith("." + t) for t in targets)


def _unmatched(targets: str | list[str], names: list[str]) -> list[str]:
    if targets == "all-linear":
        return []
    try:
        each = {targets: targets} if isinstance(targets, str) else {t: [t] for t in targets}
        return [shown for shown, target in each.items() if not any(_targeted(target, name) for name in names)]
    except re.error as error:
        raise InputError(f"lora.target_modules is not a regular expression: {error}") from error


def _check_decomposition(lora: LoraTable, layers: dict[str, nn.Module]) -> None:
    """PiSSA and OLoRA take `r` directions out of a weight: it must have as many. OLoRA misreads transposed weights."""
    from transformers.pytorch_utils import Conv1D

    for name, layer in layers.items():
        if lora.init == "olora" and isinstance(layer, Conv1D):
            raise InputError(f'lora.init = "olora" does not fit this architecture ({name})', remedy='use "pissa"')
        rank, size = pattern_value(lora.rank_pattern, name, lora.r), min(layer.weight.shape)  # type: ignore[union-attr]
        if rank > size:
            raise InputError(
                f'lora.init = "{lora.init}" takes {rank} directions out of {name}, which has {size}',
                remedy="lower lora.r, or set it for this layer in lora.rank_pattern",
            )


def _unknown(key: str, missing: list[str], named: Iterable[str]) -> InputError:
    what = "modules" if key == "modules_to_save" else "linear layers"
    names = sorted({name.rsplit(".", 1)[-1] for name in named})
    return InputError(
        f"lora.{key}: nothing here is called {', '.join(missing)}", remedy=f"{what} of this model: {', '.join(names)}"
    )
