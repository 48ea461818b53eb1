"""How the tensors of a base's checkpoint become the parameters of its model, without loading a weight.

Comes from: a base folder's `config.json` and the names of its tensors. Goes to: `deltas`, which finds the stored tensor
that each adapter module changes, and `merge`. The model is built on the meta device and its names are matched with
transformers' own loading code, because a name on disk is not always a module's name: a prefix may be missing (GPT-2),
tensors may be renamed, fused or split (transformers.conversion_mapping), and two parameters may share one tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from engine.errors import InputError
from engine.models.nf4 import FourBit

Kind = Literal["linear", "conv1d", "embedding"]


@dataclass(frozen=True, slots=True)
class Layout:
    """A model's parameters and where its checkpoint keeps them.

    Attributes:
        kinds: modules that can carry LoRA and what they are; a linear weight is stored (out, in), a conv1d weight
            (GPT-2) (in, out), an embedding (tokens, width).
        shapes: parameter -> its shape.
        stored: parameter -> tensor of the checkpoint that is it, as it is. Parameters that are fused, split or
            transposed when the model is loaded have none.
        ties: pairs of parameters that are one in the model; the checkpoint holds the first, and perhaps the second.
        four_bit: parameters that bitsandbytes would quantize when the base is loaded in 4 bits.
    """

    kinds: dict[str, Kind]
    shapes: dict[str, tuple[int, ...]]
    stored: dict[str, str]
    ties: tuple[tuple[str, str], ...]
    four_bit: frozenset[str]

    def tensor_of(self, parameter: str) -> str | None:
        """The checkpoint's tensor that holds this parameter: its own, or that of the parameter it is tied to."""
        owner = next((first for first, second in self.ties if second == parameter), None)
        return self.stored.get(parameter) or (self.stored[owner] if owner else None)


def read_layout(
    config: Mapping[str, Any],
    folder: Path,
    names: Iterable[str],
    *,
    four_bit: FourBit | None = None,
    trust_remote_code: bool = False,
) -> Layout:
    """The layout of the causal language model in `folder`.

    Args:
        config: its `config.json`, perhaps changed (see `build`).
        names: the tensors of its checkpoint.
        four_bit: how the base would be quantized; None: `Layout.four_bit` stays empty.

    Raises:
        InputError: transformers does not know the model as a causal language model, or builds a weight that would be
            quantized from several tensors.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    model = build(config, folder, trust_remote_code)
    parameters = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [m for m in mapping if isinstance(m, WeightRenaming)]
    converters = [m for m in mapping if isinstance(m, WeightConverter)]
    stored: dict[str, str] = {}
    for name in sorted(names, key=dot_natural_key):  # the order in which transformers goes through them
        new, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if new not in parameters and name in parameters:  # as transformers does: renamed although it fitted already
            new, converter = rename_source_key(name, [], [], model.base_model_prefix, parameters)
        if converter is None and new in parameters:
            if new in stored:
                raise InputError(f"tensors {stored[new]} and {name} are both {new}", where=str(folder))
            stored[new] = name
    ties = [(s, t) if s in stored else (t, s) for t, s in model.all_tied_weights_keys.items()]
    kinds: dict[str, Kind] = {name: kind for name, module in model.named_modules() if (kind := _kind(module))}
    quantized = four_bit_weights(model, four_bit) if four_bit else frozenset()
    if quantized - stored.keys():
        problem = (
            f"{min(quantized - stored.keys())} is not one tensor of the base's files and cannot be rounded to 4 bits"
        )
        raise InputError(problem, where=str(folder), remedy='merge into the original weights (base_weights "original")')
    return Layout(
        kinds=kinds,
        shapes={name: tuple(value.shape) for name, value in parameters.items()},
        stored=stored,
        ties=tuple((first, second) for first, second in ties if first in stored),
        four_bit=quantized,
    )


def build(config: Mapping[str, Any], folder: Path, trust_remote_code: bool = False) -> Any:
    """The causal language model of a config, on the meta device (no weights).

    Args:
        config: contents of a `config.json`; may differ from the file in `folder`, which is only looked at for code.

    Raises:
        InputError: transformers does not know it, or it needs code from the folder and that is not allowed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        resolved = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        resolved = type(resolved).from_dict(dict(config))
        resolved.name_or_path = str(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(resolved, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
        logging.getLogger(__name__).debug("cannot build the model", exc_info=True)
        raise InputError(
            f"transformers cannot build a causal language model from this config: {str(error).strip().splitlines()[0]}",
            where=str(folder / "config.json"),
            remedy="if it needs code from its folder, set model.trust_remote_code = true",
        ) from error


def _kind(module: nn.Module) -> Kind | None:
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    return "embedding" if isinstance(module, nn.Embedding) else None


def four_bit_weights(model: Any, four_bit: FourBit) -> frozenset[str]:
    """Weights of `model` (on the meta device; its layers are replaced) that bitsandbytes would quantize: transformers'
    own choice, which leaves out the head, tied weights and `four_bit.skip_modules`."""
    from bitsandbytes.nn import Linear4bit
    from transformers import BitsAndBytesConfig
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    skip = None if four_bit.skip_modules is None else list(four_bit.skip_modules)
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=four_bit.code, llm_int8_skip_modules=skip)
    Bnb4BitHfQuantizer(config, pre_quantized=False).preprocess_model(model=model, device_map={"": "cpu"})
    return frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear4bit))
