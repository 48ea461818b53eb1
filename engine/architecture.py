"""What a base model is made of: its linear layers and what they are for, from headers or, failing those, its config.

Comes from: `config.json` and the headers of the safetensors files, in a folder or in the Hub's cache on this machine.
Goes to: `estimate`, and to whoever shows shapes and counts. Reads no weight, builds no model, asks no network.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from engine.adapters import pattern_value
from engine.errors import InputError
from engine.safetensors_io import Checkpoint, read_json
from engine.store import Workspace, shipped
from engine.tables import LoraTable, ModelTable

Role = Literal["attention in", "attention out", "mlp in", "mlp out", "expert", "embedding", "head", "other"]
Shapes = Mapping[str, tuple[int, ...]]

EMBEDDINGS = frozenset(("embed_tokens", "embed_in", "wte", "wpe", "word_embeddings"))
HEADS = frozenset(("lm_head", "embed_out", "output"))
ATTENTION_OUT = frozenset(("o_proj", "out_proj", "dense", "c_proj", "wo"))
MLP_OUT = frozenset(("down_proj", "dense_4h_to_h", "c_proj", "fc2", "w2"))
TRANSPOSED = frozenset(("gpt2", "openai-gpt", "imagegpt"))
"""Model types whose linear layers are transformers' Conv1D, stored (inputs, outputs)."""
WRITTEN_OUT = frozenset(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"))
"""Model types whose tensors can be named from the config alone."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight with two axes: y = W x, W of `outputs` x `inputs`. `layer` is None outside the stack of layers."""

    name: str
    inputs: int
    outputs: int
    role: Role
    layer: int | None

    @property
    def elements(self) -> int:
        return self.inputs * self.outputs

    @property
    def last(self) -> str:
        """ "q_proj": what `lora.target_modules` calls it."""
        return self.name.rpartition(".")[2]

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer that "all-linear" adapts and bitsandbytes quantizes."""
        return self.role not in ("embedding", "head", "expert")


@dataclass(frozen=True)
class Architecture:
    """A causal language model in numbers.

    Attributes:
        source: where this was read. from_config: worked out from the config alone, no header was there.
        matrices: all weights with two axes, in order. others: elements of everything else (norms, biases).
        norms: elements over which each layer normalises, one entry a norm (of layer 0).
        tied: the head is the embedding's matrix.
    """

    source: Path
    config: Mapping[str, Any]
    matrices: tuple[Matrix, ...]
    others: int
    norms: tuple[int, ...]
    from_config: bool = False

    @cached_property
    def linear(self) -> tuple[Matrix, ...]:
        return tuple(m for m in self.matrices if m.linear)

    @property
    def parameters(self) -> int:
        return sum(m.elements for m in self.matrices) + self.others

    @property
    def layers(self) -> int:
        return len({m.layer for m in self.linear if m.layer is not None})

    @property
    def tied(self) -> bool:
        return not any(m.role == "head" for m in self.matrices)

    @property
    def vocabulary(self) -> int:
        tables = [m for m in self.matrices if m.role in ("embedding", "head")]
        return max((max(m.inputs, m.outputs) for m in tables), default=0)

    @property
    def width(self) -> int:
        """Length of the hidden state."""
        first = next((m for m in self.linear if m.role == "attention in"), None) or next(iter(self.linear), None)
        return first.inputs if first else 0

    def layer(self, number: int = 0) -> tuple[Matrix, ...]:
        """The linear layers of one of the model's layers."""
        return tuple(m for m in self.linear if m.layer == number)

    def targets(self, lora: LoraTable) -> tuple[Matrix, ...]:
        """What a [lora] table adapts, by PEFT's rules."""
        return tuple(m for m in self.matrices if _targeted(m, lora.target_modules))


def _targeted(matrix: Matrix, targets: str | list[str]) -> bool:
    """`peft.tuners.tuners_utils.check_target_module_exists`; "all-linear" leaves out the head."""
    if matrix.role == "expert":  # fused into one tensor when loaded, which is no linear layer
        return False
    if targets == "all-linear":
        return matrix.linear
    if isinstance(targets, str):
        return re.fullmatch(targets, matrix.name) is not None
    return any(matrix.name == t or matrix.name.endswith(f".{t}") for t in targets)


def rank_of(matrix: Matrix, lora: LoraTable) -> int:
    """The rank that a [lora] table gives to a matrix."""
    return pattern_value(lora.rank_pattern, matrix.name, lora.r)


def adapter_parameters(base: Architecture, lora: LoraTable) -> int:
    """Trained parameters: r (inputs + outputs) for every target, an output-long magnitude more with DoRA, and the
    modules that are saved in full (Hu et al. 2021, arXiv:2106.09685; Liu et al. 2024, arXiv:2402.09353)."""
    chosen = base.targets(lora)
    factors = sum(rank_of(m, lora) * (m.inputs + m.outputs) for m in chosen)
    magnitudes = sum(m.outputs for m in chosen) if lora.dora else 0
    return factors + magnitudes + sum(m.elements for m in saved_in_full(base, lora))


def saved_in_full(base: Architecture, lora: LoraTable) -> tuple[Matrix, ...]:
    """The matrices that `lora.modules_to_save` trains whole."""
    return tuple(m for m in base.matrices if any(m.name.endswith(name) for name in lora.modules_to_save))


# --- where it is read


def find(table: ModelTable, workspace: Workspace) -> Path:
    """The folder with the config of `model.base` on this machine.

    Raises:
        InputError: it is not here: no such folder, or a Hub model that has not been downloaded.
    """
    if table.base == "starter":
        return shipped("data/starter")
    folder = workspace.resolve(table.base)
    if folder.is_dir():
        return folder
    found = in_cache(table.base, table.revision)
    if found is None:
        raise InputError(
            f"{table.base} is not on this machine, so its shapes are not known",
            remedy="they are once it is downloaded, which a run does",
        )
    return found


def in_cache(name: str, revision: str | None = None) -> Path | None:
    """A Hub model's snapshot in the cache on this machine, where it has a config.json."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")
    folder = Path(cache) / f"models--{name.replace('/', '--')}"
    wanted = revision or "main"
    try:
        commit = (folder / "refs" / wanted).read_text().strip()
    except (OSError, ValueError):
        commit = wanted
    snapshot = folder / "snapshots" / commit
    return snapshot if "/" not in commit and (snapshot / "config.json").is_file() else None


def read(folder: Path) -> Architecture:
    """The architecture of a model's folder.

    Raises:
        InputError: there is no config, or neither headers nor a config that tells all shapes.
    """
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    from_config = False
    try:
        with Checkpoint.open(folder) as checkpoint:
            shapes: Shapes = {name: entry.shape for name, entry in checkpoint.entries.items()}
    except InputError:
        if text.get("model_type") not in WRITTEN_OUT:
            raise
        shapes, from_config = _shapes_of(text), True
    return of_shapes(shapes, text, folder, from_config)


def of_shapes(shapes: Shapes, config: Mapping[str, Any], source: Path, from_config: bool = False) -> Architecture:
    """The architecture of tensors with these names and shapes."""
    turned = config.get("model_type") in TRANSPOSED
    matrices, others, norms = [], 0, []
    for name, shape in shapes.items():
        module, _, part = name.rpartition(".")
        if len(shape) == 2 and part == "weight":
            role, layer = _role(module), _layer(module)
            outputs, inputs = reversed(shape) if turned and role != "embedding" else shape
            matrices.append(Matrix(module, inputs, outputs, role, layer))
            continue
        others += math.prod(shape)
        if part == "weight" and len(shape) == 1 and _layer(module) == 0:
            norms.append(shape[0])
    if config.get("tie_word_embeddings") and any(m.role == "embedding" for m in matrices):
        matrices = [m for m in matrices if m.role != "head"]  # stored twice, held once
    return Architecture(source, config, tuple(matrices), others, tuple(norms), from_config)


def _layer(module: str) -> int | None:
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module)
    return int(found[1]) if found else None


def _role(module: str) -> Role:
    last = module.rpartition(".")[2]
    if last in EMBEDDINGS:
        return "embedding"
    if last in HEADS and _layer(module) is None:
        return "head"
    if re.search(r"\.experts\.\d+\.", module):
        return "expert"
    if "attn" in module or "attention" in module:
        return "attention out" if last in ATTENTION_OUT else "attention in"
    if "mlp" in module or "feed_forward" in module:
        return "mlp out" if last in MLP_OUT else "mlp in"
    return "other"


def _shapes_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as transformers stores a model of the types in WRITTEN_OUT.

    Raises:
        InputError: the config lacks a number.
    """
    try:
        kind, width, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        shared = config.get("num_key_value_heads") or heads
        each = config.get("head_dim") or width // heads
        vocabulary, layers = config["vocab_size"], config["num_hidden_layers"]
    except KeyError as error:
        raise InputError(f"config.json has no {error}, so its shapes are not known") from error
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    sizes = {"q_proj": (heads * each, width), "k_proj": (shared * each, width), "v_proj": (shared * each, width)}
    biased = kind == "qwen2" or config.get("attention_bias")
    norms = ["input_layernorm", "post_attention_layernorm"]
    if kind == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    for number in range(layers):
        at = f"model.layers.{number}."
        for name, shape in sizes.items():
            found[f"{at}self_attn.{name}.weight"] = shape
            if biased:
                found[f"{at}self_attn.{name}.bias"] = shape[:1]
        found[f"{at}self_attn.o_proj.weight"] = (width, heads * each)
        if biased and kind != "qwen2":
            found[f"{at}self_attn.o_proj.bias"] = (width,)
        found |= {f"{at}mlp.{n}.weight": (inner, width) for n in ("gate_proj", "up_proj")}
        found[f"{at}mlp.down_proj.weight"] = (width, inner)
        found |= {f"{at}{n}.weight": (width,) for n in norms}
        if kind == "qwen3":
            found |= {f"{at}self_attn.{n}.weight": (each,) for n in ("q_norm", "k_norm")}
    found["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings", kind.startswith("gemma")):
        found["lm_head.weight"] = (vocabulary, width)
    return found
