"""Stored adapters on a loaded base: checked, attached whole or not at all, and switched in place.

Comes from: adapter folders in PEFT layout. Goes to: `Loaded`, which calls these with names of its own for PEFT
(a user's name may hold dots or slashes, or be that of a module). The base is never changed, and whatever is done to
training's adapter in between, it is active and trainable again afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import adapters
from engine.errors import InputError

FAILURES = (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError)
"""What PEFT raises for an adapter that does not fit, depending on where it notices."""


def attach_stored(causal: Any, peft: Any, key: str, path: Path) -> Any:
    """Put the adapter of a folder on `causal`, for inference.

    Args:
        peft: the PeftModel around `causal`, or None.
        key: what PEFT is to call the adapter.

    Returns:
        The PeftModel.

    Raises:
        InputError: the folder is damaged, or its tensors are not exactly those of an adapter of this base; the model is
            as it was.
    """
    info = adapters.inspect(path, digest=False)
    _refuse_changed_base(path)
    before = [(module, dict(module._modules)) for module in causal.modules()]
    try:
        with _kept(peft):
            return _attach(causal, peft, key, path)
    except FAILURES as error:
        first = str(error).strip().split("\n")[0] or type(error).__name__
        _undo(causal, peft, key, before)
        problem = f"this adapter does not fit the base: {first}"
        raise InputError(problem, where=str(path), remedy=_made_for(info)) from error
    except InputError as error:
        _undo(causal, peft, key, before)
        error.remedy = error.remedy or _made_for(info)
        raise


def _refuse_changed_base(path: Path) -> None:
    """PEFT would repeat such an initialisation when it loads the adapter, and change the base with it."""
    init = adapters.read_config(path).get("init_lora_weights", True)
    if init not in adapters.PLAIN_INITS:
        raise InputError(
            f"this adapter belongs to a base that its initialisation ({init}) has changed",
            where=str(path / adapters.CONFIG),
            remedy="convert it to plain LoRA (PEFT: save_pretrained with path_initial_model_for_weight_conversion)",
        )


def _made_for(info: adapters.AdapterInfo) -> str | None:
    return f"it says that it was made for {info.base}" if info.base else None


def _attach(causal: Any, peft: Any, key: str, path: Path) -> Any:
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(path))
    config.inference_mode = True
    mapping = getattr(causal, "_checkpoint_conversion_mapping", None) or None
    tensors = load_peft_weights(str(path), device="cpu", key_mapping=mapping)
    tensors = _without_base(causal, tensors, path)
    if peft is None:
        peft = get_peft_model(causal, config, adapter_name=key)
    else:
        peft.add_adapter(key, config)
    result = set_peft_model_state_dict(peft, tensors, adapter_name=key)
    missing = [name for name in result.missing_keys if f".{key}." in f"{name}."]
    for names, what in ((result.unexpected_keys, "have no place in this base"), (missing, "are not in the file")):
        if names:
            shown = names[0].replace(f".{key}", "")
            raise InputError(f"{len(names)} of the adapter's tensors {what}, for one {shown}", where=str(path))
    if not causal.training:
        peft.eval()
    return peft


def _without_base(causal: Any, tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Leave out copies of the base's own weights, which PEFT stores beside an adapter of an embedding.

    Raises:
        InputError: they are not the base's.
    """
    own = {name.replace(".base_layer.", "."): p for name, p in causal.named_parameters()}
    kept: dict[str, torch.Tensor] = {}
    saved_in_full = adapters.read_config(path).get("modules_to_save") or ()
    for name, tensor in tensors.items():
        parameter = name.removeprefix(adapters.PREFIX).replace(".base_layer.", ".")
        if parameter not in own or any(f".{part}." in f".{parameter}" for part in saved_in_full):
            kept[name] = tensor
            continue
        here = own[parameter]
        if here.shape != tensor.shape or not torch.equal(tensor.to(here.dtype), here.detach().cpu()):
            raise InputError(f"tensor {name} would replace a weight of the base by another one", where=str(path))
    return kept


def _undo(causal: Any, peft: Any, key: str, before: list[tuple[nn.Module, dict[str, Any]]]) -> None:
    """Put every module back where it was, which takes a half-attached adapter off."""
    for module, children in before:
        module._modules.clear()
        module._modules.update(children)
    if peft is None:
        vars(causal).pop("peft_config", None)
    else:
        peft.peft_config.pop(key, None)


@contextlib.contextmanager
def _kept(peft: Any) -> Iterator[None]:
    """Whatever PEFT switches in the block: afterwards what was active and trainable is so again, and nothing else."""
    if peft is None:
        yield
        return
    active, off = peft.active_adapter, _off(peft)
    trainable = {id(p) for p in peft.parameters() if p.requires_grad}
    try:
        yield
    finally:
        peft.set_adapter(active, inference_mode=True)
        _switch(peft, on=not off)
        for parameter in peft.parameters():
            if parameter.requires_grad != (id(parameter) in trainable):
                parameter.requires_grad_(not parameter.requires_grad)


def detach(peft: Any, key: str) -> None:
    """Take an adapter off that is not the only one."""
    if peft.active_adapter == key:
        peft.set_adapter(next(k for k in peft.peft_config if k != key), inference_mode=True)
    with _kept(peft):
        peft.delete_adapter(key)


@contextlib.contextmanager
def using(peft: Any, key: str | None) -> Iterator[None]:
    """While in the block adapter `key` is active, frozen; None: none is. Afterwards all is as it was."""
    if key is None:
        with _base_alone(peft):
            yield
        return
    with _kept(peft):
        peft.set_adapter(key, inference_mode=True)
        _switch(peft, on=True)
        yield


@contextlib.contextmanager
def _base_alone(peft: Any) -> Iterator[None]:
    """What PEFT's `disable_adapter` does in forward passes, by its flag alone: nothing becomes frozen or trainable, and
    it takes a fifth of the time, which every prompt pays."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    def turn(off: bool) -> None:
        for module in peft.modules():
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                module._disable_adapters = off

    before = _off(peft)
    turn(True)
    try:
        yield
    finally:
        turn(before)


def _off(peft: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return next(m for m in peft.modules() if isinstance(m, BaseTunerLayer)).disable_adapters


def _switch(peft: Any, on: bool) -> None:
    if on:
        peft.base_model.enable_adapter_layers()
    else:
        peft.base_model.disable_adapter_layers()
