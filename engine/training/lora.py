"""Put a new adapter on a loaded base, and write adapters in PEFT's layout so that they load everywhere.

Comes from: the [lora] table. Goes to: `loop` (parameters) and adapter folders (adapter_config.json,
adapter_model.safetensors, the tokenizer, README.md). Adapters are fp32 from the first step to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import InputError
from engine.files import folder_atomic
from engine.models.loaded import Loaded
from engine.tables import LoraTable
from engine.training import fit, loftq

NAME = "default"
"""What PEFT calls the adapter in training; PEFT's own default, so that nothing special stands in the file."""

MUTATING = ("pissa", "olora")
"""Initialisations that take their first update out of the base's weights."""

Tensors = dict[str, torch.Tensor]


def peft_config(lora: LoraTable, base: str, revision: str | None) -> Any:
    """PEFT's LoraConfig of a [lora] table."""
    from peft import LoraConfig

    init: Any = {"default": True, "loftq": True}.get(lora.init, lora.init)
    return LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=revision,
        r=lora.r,
        lora_alpha=_whole(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=init,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern={name: _whole(alpha) for name, alpha in lora.alpha_pattern.items()},
        modules_to_save=list(lora.modules_to_save) or None,
    )


def _whole(alpha: float) -> Any:
    """As an int where it is one, which is how PEFT writes it and other readers expect it."""
    return int(alpha) if float(alpha).is_integer() else alpha


def attach(loaded: Loaded, lora: LoraTable, base: str, revision: str | None, seed: int) -> Tensors:
    """Add a fresh, trainable adapter.

    Returns:
        The first values of the A and B matrices where the initialisation changed the base (else empty): what
        `adapter_tensors` needs to write an adapter for the unchanged base.

    Raises:
        InputError: the targets name nothing here, or the settings do not go with this base.
    """
    from peft import get_peft_model

    fit.check(loaded, lora)
    torch.manual_seed(seed)
    try:
        loaded.peft = get_peft_model(loaded.causal, peft_config(lora, base, revision), adapter_name=NAME)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"PEFT refuses these [lora] settings: {str(error).strip().splitlines()[0]}") from error
    loaded.peft.peft_config[NAME].base_model_name_or_path = base  # PEFT puts the model's own name there
    loaded.names[NAME] = NAME
    if lora.init == "loftq":
        loftq.start(loaded, NAME)
    for _, parameter in loaded.parameters():
        parameter.data = parameter.data.float()
    _keep_dtypes_apart(loaded)
    loaded.causal.train()
    if lora.init not in MUTATING:
        return {}
    loaded.base_changed = True
    return {n: p.detach().clone() for n, p in loaded.parameters() if "lora_" in n}


def _keep_dtypes_apart(loaded: Loaded) -> None:
    """Modules that are trained in full are fp32 on a base that may not be: cast what goes in and what comes out."""
    from peft.utils import ModulesToSaveWrapper

    if loaded.dtype == torch.float32:
        return
    for wrapper in loaded.causal.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            module = wrapper.modules_to_save[NAME]
            module.register_forward_pre_hook(lambda _, inputs: tuple(_cast(x, torch.float32) for x in inputs))
            module.register_forward_hook(lambda _, inputs, output: _cast(output, loaded.dtype))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


def adapter_tensors(loaded: Loaded, initial: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """The adapter as PEFT stores it, and changes to its config.

    Where the base was changed at the start (`initial`), the stored adapter is the difference of the two products,
    B A - B0 A0 = [B, B0] [A; -A0], of twice the rank, and belongs to the unchanged base.
    """
    from peft import get_peft_model_state_dict

    stored = get_peft_model_state_dict(loaded.peft, adapter_name=NAME, save_embedding_layers=False)
    tensors = {n: t.detach().float().cpu().contiguous() for n, t in stored.items()}
    if not initial:
        return tensors, {}
    for name, first in initial.items():
        key = name.replace(f".{NAME}.", ".")
        key = key if key in tensors else "base_model.model." + key
        first = first.float().cpu()
        is_a = "lora_A" in key
        tensors[key] = torch.cat([tensors[key], -first if is_a else first], dim=0 if is_a else 1).contiguous()
    config = loaded.peft.peft_config[NAME]
    grow = 2**0.5 if config.use_rslora else 2.0  # keeps alpha / r, or alpha / sqrt(r), as it was
    changed = {
        "r": config.r * 2,
        "lora_alpha": config.lora_alpha * grow,
        "rank_pattern": {k: v * 2 for k, v in config.rank_pattern.items()},
        "alpha_pattern": {k: v * grow for k, v in config.alpha_pattern.items()},
        "init_lora_weights": True,
    }
    return tensors, changed


def write_adapter(folder: Path, loaded: Loaded, initial: Tensors) -> None:
    """Fill `folder` with adapter_model.safetensors and adapter_config.json."""
    import copy

    from safetensors.torch import save_file

    tensors, changed = adapter_tensors(loaded, initial)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(loaded.peft.peft_config[NAME])
    config.inference_mode = True
    for name, value in changed.items():
        setattr(config, name, value)
    config.save_pretrained(str(folder))


def save_adapter(path: Path, loaded: Loaded, initial: Tensors, card: str) -> None:
    """Write a complete adapter folder, atomically: adapter, tokenizer, model card.

    Raises:
        WorkFailed: it cannot be written.
    """
    with folder_atomic(path) as folder:
        write_adapter(folder, loaded, initial)
        loaded.tokenizer.save_pretrained(str(folder))
        (folder / "README.md").write_text(card, encoding="utf-8")
