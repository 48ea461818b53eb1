"""The tensors of a merged checkpoint computed block by block and written to shards as they come.

Comes from: `plan`. Goes to: weight files in the folder that `merge` is filling. Blocks of rows are read, updated
in float64, rounded once and written behind the next block's computing; nothing larger is ever held, except one weight at
a time that goes through 4 bits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from engine.errors import WorkFailed
from engine.events import Emit, Stage
from engine.files import write_json
from engine.merging.behind import behind
from engine.merging.deltas import UNCHANGED
from engine.merging.plan import Output, pieces
from engine.models import nf4
from engine.models.nf4 import FourBit
from engine.safetensors_io import FLOATS, INDEX, Checkpoint, ShardWriter, plan_shards

BLOCK = 1 << 19  # elements computed at once: 4 MiB in float64, which stays in the processor's cache


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute on `count` threads while in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class MergeStream:
    """Writes outputs to shards and keeps count.

    Attributes:
        changed: merged tensors that differ from the base in a stored bit.
        largest: the largest relative change, and in which tensor.
    """

    def __init__(self, base: Checkpoint, adapter: Checkpoint, how: FourBit | None, emit: Emit, total: int) -> None:
        self.base, self.adapter, self.how, self.emit, self.total = base, adapter, how, emit, total
        self.changed, self.largest = 0, (0.0, "")
        self._done, self._told, self._threads = 0, 0.0, torch.get_num_threads()

    def write(self, outputs: list[Output], folder: Path, max_shard_bytes: int) -> dict[str, str]:
        """All weight files, the index last; file name -> SHA-256."""
        by_name = {o.planned.name: o for o in outputs}
        shards = plan_shards((o.planned for o in outputs), max_shard_bytes)
        self._tell()
        with threads(1):  # blocks are too small to share out: on a busy machine threads would wait for each other
            digests = {f: self._shard(folder / f, [by_name[t.name] for t in tensors]) for f, tensors in shards.items()}
        if len(shards) > 1:
            places = {t.name: file for file, tensors in shards.items() for t in tensors}
            index = {"metadata": {"total_size": self.total}, "weight_map": dict(sorted(places.items()))}
            write_json(folder / INDEX, index)
        return digests

    def _shard(self, path: Path, outputs: list[Output]) -> str:
        """One weight file; its SHA-256."""
        with ShardWriter(path, [o.planned for o in outputs]) as writer, behind(writer.write) as write:
            for output in outputs:
                for piece in pieces(self.base, output.source) if output.copied else self._computed(output):
                    write(piece)
                    self._done += len(piece)
                    self._tell()
        return writer.sha256

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= 0.1 or self._done == self.total:
            self._told = now
            self.emit(Stage(name="merge", done=self._done, total=self.total, unit="bytes"))

    def _computed(self, output: Output) -> Iterator[memoryview]:
        """The bytes of a tensor that is changed, rounded or cast, block of rows by block of rows."""
        dtype = getattr(torch, FLOATS[output.planned.dtype])
        delta, size, differs = output.change.delta, 0.0, False
        plain = delta is not None and not delta.magnitude and not output.change.replacement
        difference = delta.norm(self.adapter) ** 2 if delta is not None and plain else 0.0
        for own, new in self._blocks(output):
            stored = new.to(dtype)
            if stored.numel():
                low, high = stored.aminmax()
                if not (low.isfinite() and high.isfinite()):
                    large = "; float16 ends at 65504: try another dtype" if dtype == torch.float16 else ""
                    problem = f"tensor {output.planned.name} would hold NaN or infinity"
                    raise WorkFailed(problem, where=str(output.source.file), remedy=f"base or adapter is broken{large}")
            if new is not own:
                if not plain:
                    difference += float(torch.linalg.vector_norm(new - own)) ** 2
                values = own.flatten()
                size += float(torch.dot(values, values))
                differs = differs or not torch.equal(stored, own.to(dtype))
            yield stored.reshape(-1).view(torch.uint8).numpy().data
        if output.change != UNCHANGED:
            self.changed += differs
            relative = (difference / size) ** 0.5 if size else float(difference > 0)
            self.largest = max(self.largest, (relative, output.planned.name))

    def _blocks(self, output: Output) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks (rows, columns) of the weight as it starts and as it becomes, in float64; one object if unchanged."""
        entry, change, delta = output.source, output.change, output.change.delta
        whole = self._rounded(output) if output.rounded else None
        left, right = delta.factors(self.adapter) if delta else (None, None)
        lengths = self.adapter.tensor(delta.magnitude).double() if delta and delta.magnitude else None
        step = max(1, BLOCK // max(1, entry.elements // max(1, entry.rows)))
        for first in range(0, entry.rows, step):
            last = min(first + step, entry.rows)
            start = self.base.tensor(entry.name, first, last) if whole is None else whole[first:last]
            own = new = start.reshape(last - first, -1).double()
            if change.replacement:
                new = self.adapter.tensor(change.replacement, first, last).reshape(last - first, -1).double()
            if delta and left is not None and right is not None:
                new = torch.addmm(new, left[first:last], right, alpha=delta.scale)
            if lengths is not None:  # DoRA, equation 5: rows of V + dV brought to the learnt lengths
                new = new * (lengths[first:last] / torch.linalg.vector_norm(new, dim=1))[:, None]
            yield own, new

    def _rounded(self, output: Output) -> torch.Tensor:
        """The whole weight through 4 bits. bitsandbytes quantizes a conv1d weight transposed."""
        assert self.how is not None
        weight = self.base.tensor(output.source.name)
        with threads(self._threads):
            return nf4.rounded(weight.T, self.how).T if output.transposed else nf4.rounded(weight, self.how)
