"""What an adapter does to each parameter of its base: the low-rank update, the replacement, and where they come from.

Comes from: an adapter's config and tensors, and the base's `Layout`. Goes to: `merge`. Every tensor of the adapter gets
exactly one use here, or the adapter is refused with the tensor's name.

In the orientation in which a weight is stored, every update is W + scale * left @ right (rows x r, r x columns):

    linear     W (out, in)         left = B (out, r)                right = A (r, in)
    conv1d     W (in, out)         left = A.T (in, r)               right = B.T (r, out)
    embedding  W (tokens, width)   left = embedding_A.T (tokens, r) right = embedding_B.T (r, width)
    bias       b (out, 1)          left = B.bias (out, 1)           right = 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from engine import adapters
from engine.errors import InputError
from engine.models.layout import Kind, Layout
from engine.safetensors_io import Checkpoint, Entry


@dataclass(frozen=True, slots=True)
class Delta:
    """A low-rank update of one parameter; `a`, `b` and `magnitude` are names of adapter tensors.

    Attributes:
        scale: alpha / r or alpha / sqrt(r) of this module.
        magnitude: DoRA's vector (out,): the updated weight's rows are rescaled to these lengths.
    """

    kind: Kind | Literal["bias"]
    a: str | None
    b: str
    scale: float
    magnitude: str | None = None

    def names(self) -> list[str]:
        """Adapter tensors that it uses."""
        return [name for name in (self.a, self.b, self.magnitude) if name]

    def factors(self, adapter: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
        """left (rows, r) and right (r, columns) in float64, oriented as the weight is stored."""
        b = adapter.tensor(self.b).double()
        if self.a is None:
            return b[:, None], torch.ones(1, 1, dtype=torch.float64)
        a = adapter.tensor(self.a).double()
        return (b, a) if self.kind == "linear" else (a.T.contiguous(), b.T.contiguous())

    def norm(self, adapter: Checkpoint) -> float:
        """Frobenius norm of scale * left @ right, by two products of r x r: tr((left' left) (right right'))."""
        left, right = self.factors(adapter)
        square = float(((left.T @ left) * (right @ right.T)).sum())
        return abs(self.scale) * max(0.0, square) ** 0.5

    def same(self, other: Delta, adapter: Checkpoint) -> bool:
        """Whether both update their parameters alike, whatever their tensors are called."""
        if self == other:
            return True
        if self.scale != other.scale or self.magnitude or other.magnitude:
            return False
        mine, theirs = self.factors(adapter), other.factors(adapter)
        return all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one parameter: first `replacement` (an adapter tensor) takes the base's place, then `delta`.

    Attributes:
        in_place: the replacement is of the base's own tensor, so parameters tied to it follow (a resized or targeted
            embedding); otherwise it belongs to this parameter alone (`modules_to_save`).
    """

    replacement: str | None = None
    delta: Delta | None = None
    in_place: bool = False

    def names(self) -> list[str]:
        """Adapter tensors that it uses."""
        return ([self.replacement] if self.replacement else []) + (self.delta.names() if self.delta else [])

    def same(self, other: Change, adapter: Checkpoint) -> bool:
        """Whether both do the same to parameters that start equal (what PEFT does with `ensure_weight_tying`)."""
        mine, theirs = self.replacement, other.replacement
        if mine != theirs and not (mine and theirs and torch.equal(adapter.tensor(mine), adapter.tensor(theirs))):
            return False
        if self.delta is None or other.delta is None:
            return self.delta is other.delta
        return self.delta.same(other.delta, adapter)


UNCHANGED = Change()


def plan(config: Mapping[str, Any], tensors: Mapping[str, Entry], layout: Layout, where: str) -> dict[str, Change]:
    """Parameter of the base -> what the adapter does to it.

    Args:
        config: the adapter's config; `require_mergeable` has passed it.
        tensors: the adapter's tensors.
        where: the adapter's place, for messages.

    Raises:
        InputError: naming the first tensor that has no use, or that does not fit the base.
    """
    parts: dict[str, dict[str, str]] = {}
    changes: dict[str, Change] = {}
    for name in tensors:
        if not name.startswith(adapters.PREFIX):
            raise InputError(f"tensor {name}: its name does not start with {adapters.PREFIX}", where=where)
        short = name.removeprefix(adapters.PREFIX)
        if match := adapters.FACTOR.fullmatch(short):
            parts.setdefault(match["module"], {})[match["part"]] = name
        else:
            parameter = short.replace(".base_layer.", ".")
            _require(parameter, tensors[name], layout, layout.shapes.get(parameter), where)
            if parameter in changes:
                both = f"{changes[parameter].replacement} and {name}"
                raise InputError(f"tensors {both} are both {parameter}", where=where)
            changes[parameter] = Change(replacement=name, in_place=not _saved_in_full(config, parameter))
    for module, found in parts.items():
        for parameter, delta in _module(config, module, found, tensors, layout, where).items():
            before = changes.get(parameter, UNCHANGED)
            changes[parameter] = Change(before.replacement, delta, before.in_place)
    used = [name for change in changes.values() for name in change.names()]
    if sorted(used) != sorted(tensors):
        raise AssertionError(f"{where}: {sorted(set(tensors) ^ set(used))} not used exactly once")
    return changes


def _saved_in_full(config: Mapping[str, Any], parameter: str) -> bool:
    """Whether PEFT keeps this parameter as a copy of its own: its module is one of `modules_to_save`."""
    return any(f".{name}." in f".{parameter}" for name in config.get("modules_to_save") or ())


def _module(
    config: Mapping[str, Any],
    module: str,
    found: Mapping[str, str],
    tensors: Mapping[str, Entry],
    layout: Layout,
    where: str,
) -> dict[str, Delta]:
    """The updates of one LoRA module's parameters: its weight, and its bias with `lora_bias`."""
    name = next(iter(found.values()))
    kind, weight = layout.kinds.get(module), f"{module}.weight"
    if kind is None:
        known = any(p.startswith(f"{module}.") for p in layout.shapes)
        problem = "is not a linear layer or an embedding" if known else "is not in the base"
        raise InputError(f"tensor {name}: module {module} {problem}", where=where)
    a, b = ("embedding_A", "embedding_B") if kind == "embedding" else ("A.weight", "B.weight")
    expected = {a, b}
    if config.get("use_dora"):
        if kind != "linear":
            raise InputError(f"tensor {name}: DoRA on {kind} layers is not supported", where=where)
        expected.add("magnitude_vector")
    if config.get("lora_bias"):
        expected.add("B.bias")
    if odd := sorted(expected ^ found.keys()):
        problem = f"tensor {found[odd[0]]} does not belong there" if odd[0] in found else f"lora_{odd[0]} is missing"
        raise InputError(f"module {module} ({kind}): {problem}", where=where)
    rank, scale = adapters.rank(config, module), adapters.scaling(config, module)
    rows, columns = layout.shapes[weight]
    out, into = (rows, columns) if kind == "linear" else (columns, rows)
    shapes = {a: (rank, into), b: (out, rank), "B.bias": (out,), "magnitude_vector": (out,)}
    for part in sorted(expected):
        _require(weight if part != "B.bias" else f"{module}.bias", tensors[found[part]], layout, shapes[part], where)
    deltas = {weight: Delta(kind, found[a], found[b], scale, found.get("magnitude_vector"))}
    if "B.bias" in found:
        deltas[f"{module}.bias"] = Delta("bias", None, found["B.bias"], scale)
    return deltas


def _require(parameter: str, tensor: Entry, layout: Layout, shape: tuple[int, ...] | None, where: str) -> None:
    """Refuse a tensor whose parameter the checkpoint does not hold as it is, or whose shape is not `shape`."""
    if parameter not in layout.shapes:
        raise InputError(f"tensor {tensor.name}: the base has no {parameter}", where=where)
    if layout.tensor_of(parameter) is None:
        raise InputError(
            f"tensor {tensor.name}: the base's files do not hold {parameter} as one tensor",
            where=where,
            remedy="it is fused, split or transposed when the base is loaded (experts, often), which cannot be merged",
        )
    if tensor.shape != shape:
        raise InputError(
            f"tensor {tensor.name} is {list(tensor.shape)} where {list(shape or ())} is needed for {parameter}",
            where=where,
            remedy="was the adapter trained on another base, or on one with a resized vocabulary?",
        )
