"""Adapters on disk: find and inspect them without torch, and what PEFT's config says about each module's scaling.

Comes from: folders in PEFT layout (`adapter_config.json`, `adapter_model.safetensors`). Goes to: the lists of the
workbench and the command line (headers only, about a millisecond each), and to `merge` and `combine`, which take the
ranks and scalings from here. The rules are those of PEFT 0.21 (`peft.utils.other.get_pattern_key`,
`peft.tuners.lora.model.LoraModel._create_and_replace`, `peft.tuners.lora.layer.LoraLayer.update_layer`).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.files import sha256
from engine.safetensors_io import Entry, read_header, read_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|B\.bias|embedding_A|embedding_B|magnitude_vector)"
    r"(?:(?<=magnitude_vector)\.weight)?"
)
"""The name of a tensor that belongs to a LoRA module, after `PREFIX`."""

PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is; the others subtract from it what they put into A and B."""

VARIANTS = {
    "use_qalora": "QA-LoRA",
    "layer_replication": "layer replication",
    "target_parameters": "adapters on bare parameters (fused experts)",
    "trainable_token_indices": "trainable tokens",
    "alora_invocation_tokens": "Activated LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron layers",
}
"""Config keys that change what the two matrices mean, and the name of what they turn on."""


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What an adapter is, read from its config and the header of its weights.

    Attributes:
        name: the folder's name.
        base, revision: of the base model, as PEFT recorded them ("" and None where it did not).
        rank, alpha, scaling: the defaults of the config; `scaling` is alpha / rank, or alpha / sqrt(rank) with rsLoRA.
        ranks: every rank that occurs, ascending (more than one with a `rank_pattern`).
        targets: last parts of the names of the adapted modules, sorted.
        modules: how many modules are adapted.
        modules_to_save: modules that are stored in full.
        variants: names of what is beyond plain LoRA, rsLoRA and DoRA; such an adapter is listed but not merged.
        parameters, bytes: of `adapter_model.safetensors`; `dtype` is the one most of its parameters have.
        sha256: of that file; "" when it was not asked for.
    """

    name: str
    path: Path
    base: str
    revision: str | None
    rank: int
    alpha: float
    scaling: float
    ranks: tuple[int, ...]
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    targets: tuple[str, ...]
    modules: int
    modules_to_save: tuple[str, ...]
    rslora: bool
    dora: bool
    variants: tuple[str, ...]
    tensors: int
    parameters: int
    dtype: str
    bytes: int
    sha256: str


def read_config(path: Path) -> dict[str, Any]:
    """`adapter_config.json` of a folder, its LoRA numbers checked.

    Raises:
        InputError: it is missing or not JSON, not LoRA's, or a number or pattern in it cannot be used.
    """
    file = path / CONFIG
    if not file.is_file():
        raise InputError(f"not an adapter: {CONFIG} is missing", where=str(path))
    config = read_json(file)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"a {kind} adapter; only LORA is supported", where=str(file))
    numbers = [("r", config.get("r")), ("lora_alpha", config.get("lora_alpha"))]
    for key, name in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha")):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise InputError(f"`{key}` is not a JSON object", where=str(file))
        for pattern, value in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                problem = f"`{key}`: {pattern!r} is not a regular expression: {error}"
                raise InputError(problem, where=str(file)) from error
            numbers.append((name, value))
    for name, value in numbers:
        whole = name == "r"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not math.isfinite(value):
            raise InputError(f"`{name}` is {value!r}, not a {'whole ' if whole else ''}number", where=str(file))
        if whole and value < 1:
            raise InputError(f"`r` is {value}; it must be at least 1", where=str(file))
    return config


def variants(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what the config turns on beyond plain LoRA, rsLoRA and DoRA."""
    found = [name for key, name in VARIANTS.items() if config.get(key)]
    if (init := config.get("init_lora_weights", True)) not in PLAIN_INITS:
        found.append(f"{init} initialisation")
    return tuple(found)


def require_mergeable(config: Mapping[str, Any], path: Path) -> None:
    """Refuse what cannot be put into the base as one low-rank update.

    PEFT repeats PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ initialisations when it loads such an adapter, changing the
    base again; parts of that are random or depend on the machine, so the base it was trained on cannot be rebuilt.

    Raises:
        InputError: naming the variant.
    """
    found = variants(config)
    if not found:
        return
    remedy = "only LoRA, rsLoRA and DoRA can be merged or combined"
    if "initialisation" in found[-1]:
        remedy = (
            "it belongs to a base that the initialisation changed; convert it to plain LoRA with PEFT's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...) from the session that trained it"
        )
    raise InputError(f"this adapter uses {', '.join(found)}", where=str(path / CONFIG), remedy=remedy)


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of `module` at a dot, else `default` (PEFT's rule)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def rank(config: Mapping[str, Any], module: str) -> int:
    """The rank of a module, named as in the base model ("model.layers.0.self_attn.q_proj")."""
    return int(pattern_value(config.get("rank_pattern"), module, config["r"]))


def scaling(config: Mapping[str, Any], module: str) -> float:
    """What B @ A of a module is multiplied by: alpha / r (Hu et al. 2021), or alpha / sqrt(r) with rsLoRA."""
    alpha = pattern_value(config.get("alpha_pattern"), module, config["lora_alpha"])
    r = rank(config, module)
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def inspect(path: Path, *, digest: bool = True) -> AdapterInfo:
    """Read an adapter folder; with `digest` also hash its weights (their whole length is then read).

    Raises:
        InputError: a file is missing, broken, or not a LoRA adapter's; with its place.
    """
    config = read_config(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        pickle = "its weights are a pickle, which can run code and is not read; save it again with PEFT"
        remedy = pickle if (path / "adapter_model.bin").exists() else None
        raise InputError(f"not an adapter: {WEIGHTS} is missing", where=str(path), remedy=remedy)
    entries, _ = read_header(weights)
    if not entries:
        raise InputError("this adapter holds no tensor", where=str(weights))
    by_dtype: dict[str, int] = {}
    for entry in entries.values():
        by_dtype[entry.dtype] = by_dtype.get(entry.dtype, 0) + entry.elements
    modules = lora_modules(entries)
    return AdapterInfo(
        name=path.resolve().name,
        path=path,
        base=config.get("base_model_name_or_path") or "",
        revision=config.get("revision"),
        rank=config["r"],
        alpha=config["lora_alpha"],
        scaling=config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]),
        ranks=tuple(sorted({rank(config, module) for module in modules})),
        rank_pattern=config.get("rank_pattern") or {},
        alpha_pattern=config.get("alpha_pattern") or {},
        targets=tuple(sorted({module.rpartition(".")[2] for module in modules})),
        modules=len(modules),
        modules_to_save=tuple(config.get("modules_to_save") or ()),
        rslora=bool(config.get("use_rslora")),
        dora=bool(config.get("use_dora")),
        variants=variants(config),
        tensors=len(entries),
        parameters=sum(by_dtype.values()),
        dtype=max(by_dtype, key=lambda d: by_dtype[d]),
        bytes=weights.stat().st_size,
        sha256=sha256(weights) if digest else "",
    )


def lora_modules(names: Iterable[str] | Mapping[str, Entry]) -> list[str]:
    """The modules that have LoRA matrices among these tensor names, each once, in order."""
    found = (FACTOR.fullmatch(name.removeprefix(PREFIX)) for name in names)
    return list(dict.fromkeys(match["module"] for match in found if match))


def find(
    folder: Path, *, digest: bool = False, on_broken: Callable[[InputError], None] | None = None
) -> list[AdapterInfo]:
    """Every adapter in `folder` and below, by path. Folders that are being written (".part", ".old") are passed over.

    Args:
        on_broken: gets the error of each adapter that cannot be read; None: the first one is raised.

    Raises:
        InputError: an adapter is broken and there is no `on_broken`.
    """
    found = []
    for here, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.endswith((".part", ".old")) and not f.startswith("."))
        if CONFIG not in files:
            continue
        try:
            found.append(inspect(Path(here), digest=digest))
        except InputError as error:
            if on_broken is None:
                raise
            on_broken(error)
    return found
