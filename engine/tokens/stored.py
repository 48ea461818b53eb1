"""Tokenised examples in a file, for the next time: the same rows, tokenizer and settings are tokenised once.

    SHA-256 of what follows (32 bytes) | a numpy .npz: ids, weights, lengths, meta (JSON)

Comes from and goes to: `dataset`. Written and read a piece at a time, so that beside the examples themselves there is no
copy of them. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.files import file_atomic
from engine.tokens.examples import Example

_DIGEST_BYTES = 32


def cache_key(parts: Iterable[str | bytes]) -> str:
    """A name for what is made from `parts`: their SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def save_examples(path: Path, examples: Sequence[Example], extra: dict[str, Any]) -> None:
    """Store examples in one file with a JSON of what else belongs to them."""
    meta = {"where": [e.where for e in examples], "reference": [e.reference for e in examples],
            "cut": [e.cut for e in examples], "extra": extra}  # fmt: skip
    lengths = np.array([len(e) for e in examples], np.int64)
    with file_atomic(path) as file:
        file.write(bytes(_DIGEST_BYTES))
        with zipfile.ZipFile(file, "w") as members:
            _write_member(members, "ids", np.dtype(np.int32), int(lengths.sum()), (e.ids for e in examples))
            _write_member(members, "weights", np.dtype(np.float32), int(lengths.sum()), (e.weights for e in examples))
            _write_member(members, "lengths", lengths.dtype, len(lengths), [lengths])
            text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
            _write_member(members, "meta", text.dtype, len(text), [text])
        digest = _digest(file)
        file.seek(0)
        file.write(digest)


def _write_member(
    members: zipfile.ZipFile, name: str, dtype: np.dtype, count: int, pieces: Iterable[np.ndarray]
) -> None:
    """One flat array of `count` elements, as `numpy.savez` would write it."""
    with members.open(f"{name}.npy", "w", force_zip64=True) as member:
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(member, head)
        for piece in pieces:
            member.write(piece.astype(dtype, copy=False).tobytes())


def _digest(file: BinaryIO) -> bytes:
    file.seek(_DIGEST_BYTES)
    return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]


def load_examples(path: Path) -> tuple[list[Example], dict[str, Any]] | None:
    """What `save_examples` stored, or None where there is no such file or it is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(_DIGEST_BYTES) != _digest(file):
                return None
            file.seek(_DIGEST_BYTES)
            with np.load(file, allow_pickle=False) as stored:
                meta = json.loads(stored["meta"].tobytes())
                ends = np.cumsum(stored["lengths"])[:-1]
                ids, weights = np.split(stored["ids"], ends), np.split(stored["weights"], ends)
    except OSError:
        return None
    if not meta["where"]:
        return [], meta["extra"]
    made = zip(ids, weights, meta["where"], meta["reference"], meta["cut"], strict=True)
    return [Example(*fields) for fields in made], meta["extra"]
