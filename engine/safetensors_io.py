"""safetensors files by byte range: what is in them, any piece of a tensor, and shards written as they are computed.

Comes from: the files of a base model or an adapter. Goes to: `adapters` (headers only), `merge` (pieces in, shards
out), `combine`. A file is 8 bytes (little-endian length of the header), the header (JSON: name -> dtype, shape,
data_offsets), and the tensors back to back: https://github.com/huggingface/safetensors#format. Pieces are read with
`preadv` into one buffer instead of through a mapping, so that resident memory is that buffer and never the file.
No torch at import: only `Checkpoint.tensor` loads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from engine.errors import InputError, WorkFailed

if TYPE_CHECKING:
    import torch

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes; the limit of the format's own reader
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""The dtypes that can be computed with here, and torch's name for each."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: `begin` is the byte in the file where its `size` bytes start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Length of the first axis (1 for a scalar)."""
        return self.shape[0] if self.shape else 1


def size_of(dtype: str, shape: Iterable[int]) -> int:
    """Bytes of a tensor."""
    return math.prod(shape) * BITS[dtype] // 8


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: the file is missing, unreadable or not a JSON object; with file:line where there is one.
    """
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}:{error.colno}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})", where=str(path)) from error
    if not isinstance(value, dict):
        raise InputError(f"a JSON object is expected, not {type(value).__name__}", where=str(path))
    return value


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors of one file, in the order of their bytes, and its metadata.

    Raises:
        InputError: the file is missing, cut short, or its header contradicts itself or the file's length.
    """
    broken = "the download or the copy was probably cut short: fetch the file again"
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            count = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else LONGEST_HEADER + 1
            if count > min(LONGEST_HEADER, length - 8):
                raise InputError("not a safetensors file, or one cut short", where=str(path), remedy=broken)
            raw = json.loads(file.read(count))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(path)) from error
    except ValueError as error:  # JSON and UTF-8 errors both
        raise InputError(f"the safetensors header is not valid JSON: {error}", where=str(path)) from error
    try:
        metadata = {str(k): str(v) for k, v in raw.pop("__metadata__", {}).items()}
        entries = [_entry(name, item, path, 8 + count) for name, item in raw.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the safetensors header is malformed: {error!r}", where=str(path)) from error
    entries.sort(key=lambda e: (e.begin, e.size))
    end = 8 + count
    for entry in entries:
        if entry.begin != end:
            raise InputError(f"bytes of tensor {entry.name} overlap or leave a hole", where=str(path), remedy=broken)
        end += entry.size
    if end != length:
        raise InputError(f"{length} bytes long, its header says {end}", where=str(path), remedy=broken)
    return {entry.name: entry for entry in entries}, metadata


def _entry(name: str, item: Mapping[str, Any], path: Path, data: int) -> Entry:
    begin, end = item["data_offsets"]
    shape = tuple(item["shape"])
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"{name}: shape and offsets must be whole numbers")
    if size_of(item["dtype"], shape) != end - begin:
        raise ValueError(f"{name}: {item['dtype']} {list(shape)} does not take {end - begin} bytes")
    return Entry(name, item["dtype"], shape, path, data + begin, end - begin)


class Checkpoint:
    """The tensors of one or several safetensors files, read by piece. Use as a context manager.

    Attributes:
        entries: name -> `Entry`, in file order.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        self._descriptors: dict[Path, int] = {}
        for file in files:
            for name, entry in read_header(file)[0].items():
                if name in self.entries:
                    raise InputError(f"tensor {name} is also in {self.entries[name].file.name}", where=str(file))
                self.entries[name] = entry

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """The model in a folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

        Raises:
            InputError: neither is there, a shard is missing or broken, or index and shards disagree.
        """
        if (folder / SINGLE).exists():
            return cls([folder / SINGLE])
        index = folder / INDEX
        if not index.exists():
            remedy = "fetch the model's .safetensors files"
            if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
                remedy = (
                    "its .bin files are pickles, which can run code and are not read; write safetensors once with "
                    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
                )
            raise InputError(f"no {SINGLE} and no {INDEX}", where=str(folder), remedy=remedy)
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) and Path(v).name == v for v in places.values()):
            raise InputError("`weight_map` must map tensor names to file names", where=str(index))
        checkpoint = cls(folder / name for name in dict.fromkeys(places.values()))
        for name, file in places.items():
            if name not in checkpoint.entries or checkpoint.entries[name].file.name != file:
                raise InputError(f"tensor {name} is not in {file}", where=str(index))
        return checkpoint

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def read_into(self, entry: Entry, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` with the tensor's bytes from `offset` on.

        Raises:
            WorkFailed: the file cannot be read, or has become shorter since it was opened.
        """
        view = memoryview(buffer)
        if offset + len(view) > entry.size:
            raise ValueError(f"{entry.name}: {offset} + {len(view)} bytes asked of {entry.size}")
        try:
            if entry.file not in self._descriptors:
                self._descriptors[entry.file] = os.open(entry.file, os.O_RDONLY | os.O_CLOEXEC)
            descriptor, done = self._descriptors[entry.file], 0
            while done < len(view):
                got = os.preadv(descriptor, [view[done:]], entry.begin + offset + done)
                if got == 0:
                    raise WorkFailed(f"ended while tensor {entry.name} was read", where=str(entry.file))
                done += got
        except OSError as error:
            raise WorkFailed(f"cannot read: {error.strerror}", where=str(entry.file)) from error

    def tensor(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` (exclusive; None: the end) of a floating tensor, in its own dtype: (rows, ...).

        Raises:
            InputError: the tensor's dtype is not one of `FLOATS`.
        """
        import torch

        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise InputError(f"tensor {name} is {entry.dtype}, which cannot be computed with", where=str(entry.file))
        shape = (entry.rows if last is None else last) - first, *entry.shape[1:]
        dtype = getattr(torch, FLOATS[entry.dtype])
        buffer = bytearray(size_of(entry.dtype, shape))
        self.read_into(entry, size_of(entry.dtype, (first, *entry.shape[1:])), buffer)
        flat = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
        return flat.view(shape if entry.shape else ())


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return size_of(self.dtype, self.shape)


def plan_shards(tensors: Iterable[Planned], max_shard_bytes: int) -> dict[str, list[Planned]]:
    """File name -> its tensors, in the order given, each file at most `max_shard_bytes` of tensors (or one tensor).

    Within a file wider dtypes come first, which keeps every tensor aligned to its element.
    """
    groups: list[list[Planned]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.size > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.size
    for group in groups:
        group.sort(key=lambda t: -BITS[t.dtype])
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05}-of-{len(groups):05}.safetensors": group for i, group in enumerate(groups, 1)}


class ShardWriter:
    """One safetensors file whose tensors arrive as bytes, in the planned order; the header, of known sizes, goes first.

    Attributes:
        sha256: of the whole file, once closed.
    """

    def __init__(self, path: Path, tensors: list[Planned]) -> None:
        self.path, self.sha256, self._hash = path, "", hashlib.sha256()
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [end, end + tensor.size],
            }  # fmt: skip
            end += tensor.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._left = end
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._put(struct.pack("<Q", len(text)) + text)

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        while view:  # an unbuffered file may take less than it is given
            view = view[self._file.write(view) :]

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the tensors."""
        self._put(data)
        self._left -= memoryview(data).nbytes

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise ValueError(f"{self.path.name}: {self._left} bytes are missing")
        self.sha256 = self._hash.hexdigest()
