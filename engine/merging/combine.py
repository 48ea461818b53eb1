"""Several adapters of one base combined into one, by weights: tensors only, the base is not loaded.

Comes from: adapter folders in PEFT layout. Goes to: one more such folder, whose scaling is 1 (alpha = r, no rsLoRA, no
patterns) so that it loads anywhere. The mathematics is PEFT's (`peft.utils.merge_utils`, and what
`LoraModel.add_weighted_adapter` does with it), and so are the rules about ranks.

With w_i the weights and dW_i = scaling_i * B_i @ A_i the updates:

    linear           A = sum sign * sqrt|w_i s_i| A_i, B = sum sqrt|w_i s_i| B_i: cheap, but B @ A has cross terms
    cat              sum w_i dW_i exactly, at the sum of the ranks
    svd              the best approximation of sum w_i dW_i at `rank`
    ties             trims small values, elects a sign each, averages what agrees (Yadav et al. 2023, arXiv:2306.01708)
    dare_linear      drops values at random and rescales the rest, then linear (Yu et al. 2023, arXiv:2311.03099)
    dare_ties        drops at random, then elects signs
    magnitude_prune  trims small values, then linear
    *_svd            the same on the whole dW_i instead of on A_i and B_i, then svd

PEFT's own result keeps rsLoRA of the first adapter and is then too strong by sqrt(r); not here.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch.nn.functional import pad

from engine import adapters
from engine.adapters import AdapterInfo
from engine.errors import InputError
from engine.events import Emit, Stage
from engine.files import folder_atomic, recover_folder, write_json
from engine.merging.companions import copy_tokenizer
from engine.safetensors_io import Checkpoint

Method = Literal[
    "linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
]  # fmt: skip
MajoritySign = Literal["total", "frequency"]


@dataclass(frozen=True, slots=True)
class Factors:
    """One adapter's part in one module: a (r, in) and b (out, r) in float32, its scaling, and the adapter's weight."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    weight: float


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter and its weight."""

    path: Path
    weight: float
    config: dict[str, Any]
    tensors: Checkpoint

    def names(self, module: str) -> tuple[str, str] | None:
        """Tensor names of a module's A and B; None where one of them is missing."""
        for a, b in (("A.weight", "B.weight"), ("embedding_A", "embedding_B")):
            names = f"{adapters.PREFIX}{module}.lora_{a}", f"{adapters.PREFIX}{module}.lora_{b}"
            if all(name in self.tensors.entries for name in names):
                return names
        return None

    def factors(self, module: str) -> Factors | None:
        """Its part in a module; None where it does not adapt it."""
        if (names := self.names(module)) is None:
            return None
        a, b = (self.tensors.tensor(name).float() for name in names)
        return Factors(a, b, adapters.scaling(self.config, module), self.weight)


def combine(
    parts: Sequence[tuple[Path, float]],
    out: Path,
    *,
    method: Method = "linear",
    rank: int | None = None,
    density: float | None = None,
    majority_sign: MajoritySign = "total",
    seed: int = 0,
    replace: bool = False,
    emit: Emit = lambda event: None,
) -> AdapterInfo:
    """Combine adapters into a new one at `out`.

    Args:
        parts: folders and weights; a weight may be negative (its effect is taken away). One adapter alone is scaled.
        rank: of the result, for the svd methods; None: the largest of theirs.
        density: share of the values that are kept, for ties, dare and magnitude_prune, in (0, 1].
        majority_sign: how ties elects: by the sum of the values or by their number.
        seed: for dare; what is dropped is a function of it and the module's name.
        replace: an earlier adapter at `out` may be replaced.

    Raises:
        InputError: the adapters do not belong together, or the method cannot be used on them.
        WorkFailed: the disk is full or cannot be written.
    """
    if len(parts) == 1:
        method, density = "linear", None
    _check_arguments(parts, out, method, rank, density, majority_sign, replace)
    with contextlib.ExitStack() as stack:
        opened = [_open(path, weight, stack) for path, weight in parts]
        _check_bases(opened)
        modules = list(dict.fromkeys(m for part in opened for m in adapters.lora_modules(part.tensors.entries)))
        if not modules:
            raise InputError("none of these adapters holds LoRA matrices", where=str(opened[0].path))
        results: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] = {}
        for done, module in enumerate(modules):
            emit(Stage(name="combine", done=done, total=len(modules), unit="modules"))
            factors = [f for part in opened if (f := part.factors(module)) is not None]
            names = next(n for part in opened if (n := part.names(module)) is not None)
            results[names] = _combine_module(module, factors, method, rank, density, majority_sign, seed)
        emit(Stage(name="combine", done=len(modules), total=len(modules), unit="modules"))
        tensors = _stored_whole(opened)
        config = _config(opened, modules, width := max(a.shape[0] for a, _ in results.values()))
    for names, (a, b) in results.items():
        missing = width - a.shape[0]  # filled with zeros, so that one rank holds everywhere
        tensors[names[0]] = pad(a, (0, 0, 0, missing)).contiguous()
        tensors[names[1]] = pad(b, (0, missing)).contiguous()
    _save(out, tensors, config, parts[0][0])
    return adapters.inspect(out)


def _check_arguments(
    parts: Sequence[tuple[Path, float]],
    out: Path,
    method: str,
    rank: int | None,
    density: float | None,
    majority_sign: str,
    replace: bool,
) -> None:
    if not parts:
        raise InputError("no adapter is given")
    if method not in get_args(Method):
        raise InputError(f"method {method!r} is not one of {', '.join(get_args(Method))}")
    for path, weight in parts:
        if not math.isfinite(weight):
            raise InputError(f"the weight of this adapter is {weight}", where=str(path))
        if out.resolve() == path.resolve() or out.resolve() in path.resolve().parents:
            raise InputError("the combined adapter would replace what it is made from", where=str(out))
    if rank is not None and (rank < 1 or not method.endswith("svd")):
        raise InputError(f"rank {rank}: must be at least 1, and only the svd methods take one")
    if method in ("linear", "cat", "svd"):
        if density is not None:
            raise InputError(f"method {method} takes no density: it keeps all values")
    elif density is None or not 0 < density <= 1:
        raise InputError(f"method {method} needs a density above 0 and at most 1, the share of values it keeps")
    if majority_sign not in get_args(MajoritySign):
        raise InputError(f"majority sign {majority_sign!r} is not one of {', '.join(get_args(MajoritySign))}")
    recover_folder(out)
    if out.exists() and not (replace and (out / adapters.CONFIG).is_file()):
        problem = "exists and is not an adapter; only an adapter is replaced" if replace else "already exists"
        raise InputError(problem, where=str(out), remedy="choose another folder")


def _open(path: Path, weight: float, stack: contextlib.ExitStack) -> Part:
    adapters.inspect(path, digest=False)
    config, file = adapters.read_config(path), path / adapters.WEIGHTS
    adapters.require_mergeable(config, path)
    for key, name in (("use_dora", "DoRA"), ("lora_bias", "lora_bias")):
        if config.get(key):
            raise InputError(f"this adapter uses {name}, which cannot be combined", where=str(path / adapters.CONFIG))
    part = Part(path, weight, config, stack.enter_context(Checkpoint([file])))
    for name in part.tensors.entries:
        if not name.startswith(adapters.PREFIX):
            raise InputError(f"tensor {name}: its name does not start with {adapters.PREFIX}", where=str(file))
    for module in adapters.lora_modules(part.tensors.entries):
        if (names := part.names(module)) is None:
            raise InputError(f"module {module}: one of its two matrices is missing", where=str(file))
        a, b = (part.tensors.entries[name].shape for name in names)
        if not (len(a) == len(b) == 2 and a[0] == b[1] == adapters.rank(config, module)):
            raise InputError(f"module {module}: its matrices do not have the rank of the config", where=str(file))
    return part


def _check_bases(parts: list[Part]) -> None:
    def base(part: Part) -> tuple[str, Any]:
        name = part.config.get("base_model_name_or_path") or ""
        return (str(Path(name).resolve()) if Path(name).is_dir() else name), part.config.get("revision")

    for part in parts[1:]:
        if base(part) != base(parts[0]):
            mine, first = (" at ".join(filter(None, base(p))) or "unknown" for p in (part, parts[0]))
            raise InputError(f"its base is {mine}, that of the first adapter {first}", where=str(part.path))


def _combine_module(
    module: str,
    parts: list[Factors],
    method: Method,
    rank: int | None,
    density: float | None,
    majority_sign: MajoritySign,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) of the result, with scaling 1, from the adapters that have the module."""
    if len({(p.a.shape[1], p.b.shape[0]) for p in parts}) > 1:
        raise InputError(f"module {module} has different sizes in the adapters")
    ranks = [p.a.shape[0] for p in parts]
    keep = rank or max(ranks)
    if method in ("cat", "svd"):
        a, b = torch.cat([p.a * (p.weight * p.scale) for p in parts]), torch.cat([p.b for p in parts], dim=1)
        return (a, b) if method == "cat" else _truncated_product(b, a, keep)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state(seed, module))
        if method.endswith("_svd"):
            updates, weights = [p.scale * (p.b @ p.a) for p in parts], [p.weight for p in parts]
            whole = _arithmetic(method.removesuffix("_svd"), updates, weights, density, majority_sign)
            u, s, vh = torch.linalg.svd(whole, full_matrices=False)
            return vh[:keep], u[:, :keep] * s[:keep]
        if len(set(ranks)) > 1:
            remedy = "cat and the svd methods combine different ranks"
            problem = f"module {module} has ranks {', '.join(map(str, ranks))}; {method} needs equal ones"
            raise InputError(problem, remedy=remedy)
        into_b = [math.sqrt(abs(p.weight * p.scale)) for p in parts]
        into_a = [math.copysign(root, p.weight * p.scale) for root, p in zip(into_b, parts, strict=True)]
        a = _arithmetic(method, [p.a for p in parts], into_a, density, majority_sign)
        return a, _arithmetic(method, [p.b for p in parts], into_b, density, majority_sign)


def random_state(seed: int, module: str) -> int:
    """The seed of a module's random choices."""
    return int.from_bytes(hashlib.sha256(f"{seed} {module}".encode()).digest()[:7])


def _arithmetic(
    method: str, tensors: list[torch.Tensor], weights: list[float], density: float | None, majority_sign: str
) -> torch.Tensor:
    """The weighted combination of equally shaped tensors by one of PEFT's methods."""
    from peft.utils import merge_utils

    w = torch.tensor(weights)
    if method == "linear":
        return merge_utils.task_arithmetic(tensors, w)
    assert density is not None
    if method in ("ties", "dare_ties"):
        return getattr(merge_utils, method)(tensors, w, density, majority_sign)
    return getattr(merge_utils, method)(tensors, w, density)


def _truncated_product(left: torch.Tensor, right: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best rank-`rank` factors (A, B) of left @ right, from the small matrices alone: SVD of the product of their
    QR triangles (the product itself, out x in, is never built)."""
    q1, r1 = torch.linalg.qr(left.double())
    q2, r2 = torch.linalg.qr(right.double().T)
    u, s, vh = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    return (vh[:rank] @ q2.T).float(), (q1 @ (u[:, :rank] * s[:rank])).float()


def _stored_whole(parts: list[Part]) -> dict[str, torch.Tensor]:
    """Tensors that are no update (`modules_to_save`, copies of embeddings): kept where all that have one agree."""
    kept: dict[str, torch.Tensor] = {}
    for part in parts:
        for name in part.tensors.entries:
            if adapters.FACTOR.fullmatch(name.removeprefix(adapters.PREFIX)):
                continue
            tensor = part.tensors.tensor(name)
            if name in kept and not torch.equal(kept[name], tensor):
                raise InputError(
                    f"tensor {name} is stored whole by several adapters and differs",
                    where=str(part.path / adapters.WEIGHTS),
                    remedy="adapters that save the same module in full (modules_to_save) cannot be combined",
                )
            kept[name] = tensor
    return kept


def _config(parts: list[Part], modules: list[str], rank: int) -> dict[str, Any]:
    """The first adapter's config with the result's rank, a scaling of 1, and everybody's modules."""
    configs = [part.config for part in parts]
    targets = [c.get("target_modules") for c in configs]
    limited = any(c.get(k) for c in configs for k in ("layers_to_transform", "exclude_modules"))
    union = {t for names in targets if isinstance(names, list) for t in names}
    listed = all(isinstance(names, list) for names in targets) and not limited
    saved = sorted({m for c in configs for m in c.get("modules_to_save") or ()})
    changed = {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": sorted(union) if listed else modules,
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
        "modules_to_save": saved or None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    return {**configs[0], **changed}


def _save(out: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Path) -> None:
    from safetensors.torch import save_file

    with folder_atomic(out) as part:
        copy_tokenizer(tokenizer, part)
        save_file(tensors, part / adapters.WEIGHTS, metadata={"format": "pt"})
        write_json(part / adapters.CONFIG, config)
