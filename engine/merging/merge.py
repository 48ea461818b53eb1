"""An adapter merged into its base: the base's files streamed to new ones, with the update added on the way.

Comes from: a base folder, an adapter folder. Goes to: a folder that transformers loads as it is, written beside,
complete or not there at all. `verify` then compares its logits and perplexity with base + adapter.

Every changed weight is W' = round(W + scale * B @ A), computed in float64 and rounded once to the dtype in which the
base stores it; blocks of rows that fit the processor's cache keep that as fast as the disk, and memory at a few blocks
however large the model is. Which W is a choice: the file's ("original"), the better checkpoint as a rule, or what the
4-bit base computed with while the adapter was trained ("nf4"), which follows the trained function most closely
(KL 7e-6 against 2.5e-3 on small models). Never the live weights of a 4-bit model.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine import adapters
from engine.errors import InputError
from engine.events import Emit, Note
from engine.files import folder_atomic, need_space, recover_folder, write_json
from engine.merging import deltas
from engine.merging.companions import copy_companions
from engine.merging.deltas import UNCHANGED
from engine.merging.plan import plan_outputs
from engine.merging.stream import MergeStream
from engine.models import layout
from engine.models.layout import Layout
from engine.models.nf4 import FourBit
from engine.safetensors_io import INDEX, SINGLE, Checkpoint, read_json

NOTHING = "This adapter changes nothing: every merged weight is bit for bit the base's."
UNTIED = (
    "The base's head and embedding are one tensor; the adapter changes them differently, so both are stored and "
    "tie_word_embeddings is false."
)

BaseWeights = Literal["original", "nf4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did.

    Attributes:
        tensors: written in all; `merged` of them with an update or a replacement, `rounded` through 4 bits.
        changed: of the merged ones, how many differ from the base in at least one stored bit.
        largest_change: the largest ||W' - W|| / ||W|| (Frobenius) of a tensor, and `largest_change_in` its name.
        untied: the base's head and embedding were one tensor and are now two.
        bytes: of all tensors. `seconds`: wall clock.
        peak_rss_bytes: the largest resident memory of this process so far, whatever it did before included.
        sha256: file name -> digest of each weight file.
        notes: what the reader should know, in sentences.
    """

    out: Path
    base_weights: BaseWeights
    tensors: int
    merged: int
    rounded: int
    changed: int
    largest_change: float
    largest_change_in: str
    untied: bool
    bytes: int
    seconds: float
    peak_rss_bytes: int
    sha256: dict[str, str]
    notes: tuple[str, ...]


def merge(
    base_dir: Path,
    adapter_dir: Path,
    out: Path,
    *,
    base_weights: BaseWeights = "original",
    four_bit: FourBit | None = None,
    dtype: Dtype = "auto",
    max_shard_bytes: int = 5_000_000_000,
    replace: bool = False,
    trust_remote_code: bool = False,
    emit: Emit = lambda event: None,
) -> MergeReport:
    """Merge an adapter into a base and write the result to `out`.

    Args:
        base_weights: "original" or "nf4" (see the module's docstring); "nf4" stands for both 4-bit codes.
        four_bit: how the base was quantized in training, for base_weights="nf4"; None: `FourBit()`.
        dtype: of the weights written; "auto" keeps each tensor's.
        max_shard_bytes: largest weight file (a tensor is never split).
        replace: an earlier model at `out` may be replaced, once the new one is complete.
        emit: gets `Stage("merge", bytes, of bytes)` at most ten times a second, and notes.

    Raises:
        InputError: base and adapter do not fit, a tensor of the adapter has no use, a variant is not supported, or
            `out` exists; nothing has been written.
        WorkFailed: no space, a failing disk, or a result that is not finite; nothing is left of it.
    """
    started = time.perf_counter()
    check_target(out, base_dir, adapter_dir, replace)
    config = _base_config(base_dir)
    adapters.inspect(adapter_dir, digest=False)
    adapter_config = adapters.read_config(adapter_dir)
    adapters.require_mergeable(adapter_config, adapter_dir)
    how = (four_bit or FourBit()) if base_weights == "nf4" else None
    with Checkpoint.open(base_dir) as base, Checkpoint([adapter_dir / adapters.WEIGHTS]) as adapter:
        places = layout.read_layout(config, base_dir, base.entries, four_bit=how, trust_remote_code=trust_remote_code)
        changes = deltas.plan(adapter_config, adapter.entries, places, str(adapter_dir / adapters.WEIGHTS))
        outputs, untied = plan_outputs(base, adapter, places, changes, dtype)
        config = _merged_config(config, untied, dtype)
        if untied:
            _check_untied(config, base_dir, places, trust_remote_code)
        total = sum(o.planned.size for o in outputs)
        need_space(out.parent, total)
        stream = MergeStream(base, adapter, how, emit, total)
        with folder_atomic(out) as part:
            digests = stream.write(outputs, part, max_shard_bytes)
            notes = copy_companions(base_dir, adapter_dir, part, code="auto_map" in config)
            write_json(part / "config.json", config)  # last: without it nothing loads the folder
    if untied:
        notes.append(UNTIED)
    if not stream.changed:
        notes.append(NOTHING)
        emit(Note(text=NOTHING, level="warning"))
    relative, where = stream.largest
    return MergeReport(
        out=out,
        base_weights=base_weights,
        tensors=len(outputs),
        merged=sum(o.change != UNCHANGED for o in outputs),
        rounded=sum(o.rounded for o in outputs),
        changed=stream.changed,
        largest_change=relative,
        largest_change_in=where,
        untied=untied,
        bytes=total,
        seconds=time.perf_counter() - started,
        peak_rss_bytes=_peak_rss_bytes(),
        sha256=digests,
        notes=tuple(notes),
    )


def check_target(out: Path, base_dir: Path, adapter_dir: Path, replace: bool) -> None:
    """Whether a merged model may be put at `out`; puts back what a crash left half-replaced there.

    Raises:
        InputError: it would replace what it is made from, a model without `replace`, or something that is no model.
    """
    here = out.resolve()
    for other in (base_dir.resolve(), adapter_dir.resolve()):
        if here == other or here in other.parents:
            raise InputError("the merged model would replace what it is made from", where=str(out))
    recover_folder(out)
    if not out.exists():
        return
    if not replace:
        raise InputError("already exists", where=str(out), remedy="choose another folder with --out, or give --replace")
    if not (out / "config.json").is_file() or not ((out / SINGLE).exists() or (out / INDEX).exists()):
        raise InputError("exists and is not a model's folder; only a model is replaced", where=str(out))


def _base_config(base_dir: Path) -> dict[str, Any]:
    file = base_dir / "config.json"
    if not file.is_file():
        raise InputError("this folder holds no model: config.json is missing", where=str(base_dir))
    config = read_json(file)
    if any("quantization_config" in c for c in (config, *_subconfigs(config))):
        remedy = "give the full-precision model that it was made from; what 4 bits did to it is base_weights=nf4"
        raise InputError("the base's files are quantized, which cannot be merged into", where=str(file), remedy=remedy)
    return config


def _subconfigs(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [value for value in config.values() if isinstance(value, dict)]


def _merged_config(config: dict[str, Any], untied: bool, dtype: Dtype) -> dict[str, Any]:
    """The base's config with what is no longer true of it changed, here and in the configs inside it."""
    merged = dict(config)
    for key, inside in config.items():
        if key.endswith("_config") and isinstance(inside, dict):
            merged[key] = _merged_config(inside, untied and "tie_word_embeddings" in inside, dtype)
    if untied:
        merged["tie_word_embeddings"] = False
    for key in ("dtype", "torch_dtype"):
        if dtype != "auto" and key in config:
            merged[key] = dtype
    return merged


def _check_untied(config: Mapping[str, Any], base_dir: Path, places: Layout, trust_remote_code: bool) -> None:
    """The model of `config` must not tie again what now differs."""
    left = layout.build(config, base_dir, trust_remote_code).all_tied_weights_keys
    if any((a, b) in left.items() or (b, a) in left.items() for a, b in places.ties):
        raise InputError(
            "this architecture always ties its head to its embedding, and the adapter changes them differently",
            where=str(base_dir / "config.json"),
        )


def _peak_rss_bytes() -> int:
    """Largest resident memory of this process so far. Linux's getrusage would count the parent's before exec too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next((int(x.split()[1]) * 1024 for x in status.read_text().splitlines() if x.startswith("VmHWM")), 0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
