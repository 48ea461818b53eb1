"""Find a base model and load it: whole, int8, nf4 or fp4, frozen, on its device.

Comes from: the [model] and [launch] tables. Goes to: everything that runs a model, as a `Loaded` that `proof` has put
on a route which is correct for its architecture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine import network
from engine.errors import InputError, WorkFailed
from engine.models import attention, bnb, fusing, memory, proof
from engine.models.loaded import Loaded
from engine.models.tokenizer import base_location, hub_errors, load_tokenizer, quiet
from engine.store import Workspace
from engine.tables import LaunchTable, ModelTable, Project
from engine.text import one_line


def choose_device(launch: LaunchTable) -> torch.device:
    """The device of launch.device.

    Raises:
        InputError: it asks for a GPU that is not there.
    """
    if launch.device == "cpu" or (launch.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda:0" if launch.device in ("auto", "cuda") else launch.device)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"launch.device = {launch.device!r}: no such GPU", remedy="`loraworkbench doctor` lists them")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of model.dtype; "auto" is bfloat16 where the device has instructions for it."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_avx512_bf16() else torch.float32


def _has_avx512_bf16() -> bool:
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def snapshot(name: str, table: ModelTable) -> Path:
    """The folder of a Hub model's files on this machine, downloaded where they are not."""
    from huggingface_hub import snapshot_download

    with hub_errors(name):
        wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        wanted += ["*.py"] * table.trust_remote_code
        return Path(snapshot_download(name, revision=table.revision, allow_patterns=wanted))


def load(project: Project, workspace: Workspace) -> Loaded:
    """The base of a project, on its device, frozen, in eval mode, its route proved.

    Raises:
        InputError: it cannot be found or loaded, or the settings do not fit it.
        WorkFailed: it does not fit into memory.
    """
    device = choose_device(project.launch)
    if device.type == "cpu":
        memory.hold()
    loaded = read(project, workspace, device)
    fusing.fuse(loaded.causal, device, loaded.dtype)
    settle(loaded, project.model)
    if device.type == "cpu":
        memory.trim()
    return loaded


def read(project: Project, workspace: Workspace, onto: torch.device) -> Loaded:
    """The base of a project as `load` gives it, but on the device `onto`, and before `settle`.

    Raises:
        InputError, WorkFailed: see `load`.
    """
    from transformers import AutoModelForCausalLM

    quiet()
    bnb.prepare()
    if project.launch.offline:
        network.settle(offline=True)
    if project.launch.threads:
        torch.set_num_threads(project.launch.threads)
    table = project.model
    location = base_location(table, workspace)
    dtype = choose_dtype(table.dtype, choose_device(project.launch))
    tokenizer = load_tokenizer(location, table)
    attention.register()
    varlen = table.attention in ("auto", attention.NAME)
    try:
        with hub_errors(location):
            causal = AutoModelForCausalLM.from_pretrained(
                location,
                revision=table.revision,
                trust_remote_code=table.trust_remote_code,
                dtype=dtype,
                quantization_config=quantization_config(table, dtype),
                device_map={"": onto},
                attn_implementation=None if varlen else table.attention,
                use_safetensors=True,
            )
    except ImportError as error:
        if varlen:
            raise
        problem = f'model.attention = "{table.attention}" does not work here: {error}'
        raise InputError(one_line(problem), remedy='use "auto", which needs no further package') from error
    except torch.OutOfMemoryError as error:
        remedy = 'try model.quantization = "nf4", a smaller base, or free the GPU (`loraworkbench doctor`)'
        raise WorkFailed("the base does not fit into memory", where=location, remedy=remedy) from error
    causal.requires_grad_(False)
    causal.eval()
    causal.config.use_cache = False
    keep_quantized_weights_still(causal)
    if onto.type == "cpu" and table.quantization != "none":
        let_go_of_files(causal)
    return Loaded(causal, tokenizer, location, onto, dtype, table.quantization)


def settle(loaded: Loaded, table: ModelTable) -> None:
    """Find out the head and the route of a base that is where it will work.

    Raises:
        InputError: the architecture is not supported, or not with the attention that [model] asks for.
    """
    proof.prove(loaded, table.attention in ("auto", attention.NAME))
    if table.attention == attention.NAME and loaded.route != attention.NAME:
        problem = 'model.attention = "varlen" is not correct on this model'
        raise InputError(problem, where=loaded.location, remedy='use "auto"')


def quantization_config(table: ModelTable, dtype: torch.dtype) -> Any:
    """The transformers quantization config of model.quantization, or None."""
    from transformers import BitsAndBytesConfig

    if table.quantization == "none":
        return None
    if table.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=table.quantization,
        bnb_4bit_use_double_quant=table.double_quantization,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_quantized_weights_still(model: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights in place.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them at the first forward in eval mode, after which gradients
    are wrong by orders of magnitude and dequantizing returns garbage. The layers then compute in eval mode as in train
    mode: dequantize and multiply.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def let_go_of_files(model: nn.Module) -> None:
    """Give weights that were not quantized memory of their own.

    They are parts of the mapped files, of which all that was quantized stays in this process, too, as long as one is.
    """
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.clone()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import version

    return {n: version(n) for n in ("torch", "transformers", "peft", "bitsandbytes")}


def device_name() -> str:
    """The GPUs of this machine, or the CPU."""
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return f"CPU ({os.cpu_count()} cores)"
