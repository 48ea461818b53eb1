"""Which tensors a merged checkpoint holds, and what each is made from.

Comes from: the base's checkpoint and layout, and the changes that an adapter asks for. Goes to: `stream`. Here is
decided whether parameters that share a tensor may go on sharing it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from engine.errors import InputError
from engine.merging.deltas import UNCHANGED, Change
from engine.models.layout import Layout
from engine.safetensors_io import FLOATS, Checkpoint, Entry, Planned

CHUNK = 1 << 22  # bytes copied at once
CODES = {name: code for code, name in FLOATS.items()}


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor to write: what it becomes, the base's tensor it starts from, and what is done to it."""

    planned: Planned
    source: Entry
    change: Change = UNCHANGED
    rounded: bool = False
    transposed: bool = False

    @property
    def copied(self) -> bool:
        """Its bytes are the base's."""
        return self.change == UNCHANGED and not self.rounded and self.planned.dtype == self.source.dtype


def plan_outputs(
    base: Checkpoint, adapter: Checkpoint, places: Layout, changes: Mapping[str, Change], dtype: str
) -> tuple[list[Output], bool]:
    """Every tensor of the merged checkpoint, in the base's order, and whether tied parameters had to be parted.

    Parameters that share a tensor keep sharing it if the adapter does the same to all of them; otherwise every tied
    parameter gets its own. A replacement in place reaches all of them.

    Args:
        dtype: what to write floating tensors in, as torch names it; "auto": each in its own.

    Raises:
        InputError: a tensor to be changed has a dtype that cannot be computed with.
    """
    changes = dict(changes)
    untied = False
    for first, second in places.ties:
        if (first not in changes and second not in changes) or not _tied(base, places, first, second):
            continue
        one, other = changes.get(first, UNCHANGED), changes.get(second, UNCHANGED)
        if other.in_place and one.replacement is None:
            one = Change(other.replacement, one.delta, True)
        if one.in_place and other.replacement is None:
            other = Change(one.replacement, other.delta, True)
        changes[first], changes[second] = one, other
        untied = untied or not one.same(other, adapter)
    parameters = {name: parameter for parameter, name in places.stored.items()}
    outputs: list[Output] = []
    for name, entry in base.entries.items():
        parameter = parameters.get(name, "")
        outputs.append(_output(name, entry, parameter, places, changes, dtype))
        for first, second in places.ties if untied else ():  # one switch in the config parts all of them
            if first == parameter and second not in places.stored:
                outputs.append(_output(second, entry, second, places, changes, dtype))
    return outputs, untied


def _tied(base: Checkpoint, places: Layout, first: str, second: str) -> bool:
    """Whether transformers ties the two: a checkpoint with both, and different ones, overrules its config."""
    if second not in places.stored:
        return True
    one, other = (base.entries[places.stored[p]] for p in (first, second))
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(pieces(base, one), pieces(base, other), strict=True))


def _output(
    name: str, entry: Entry, parameter: str, places: Layout, changes: Mapping[str, Change], dtype: str
) -> Output:
    change = changes.get(parameter, UNCHANGED)
    floating = entry.dtype in FLOATS
    if change != UNCHANGED and not floating:
        raise InputError(f"tensor {name} is {entry.dtype}, which cannot be merged into", where=str(entry.file))
    written = CODES[dtype] if floating and dtype != "auto" else entry.dtype
    rounded = parameter in places.four_bit and change.replacement is None
    transposed = places.kinds.get(parameter.removesuffix(".weight")) == "conv1d"
    return Output(Planned(name, written, entry.shape), entry, change, rounded, transposed)


def pieces(base: Checkpoint, entry: Entry) -> Iterator[memoryview]:
    """The bytes of a tensor, piece by piece, each in a buffer of its own."""
    for offset in range(0, entry.size, CHUNK):
        piece = memoryview(bytearray(min(CHUNK, entry.size - offset)))
        base.read_into(entry, offset, piece)
        yield piece
