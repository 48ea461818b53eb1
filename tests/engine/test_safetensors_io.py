"""The safetensors reader and writer, against the format's own library."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine.errors import InputError, WorkFailed
from engine.safetensors_io import (
    INDEX,
    SINGLE,
    Checkpoint,
    Planned,
    ShardWriter,
    plan_shards,
    read_header,
    read_json,
)

DTYPES = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "I64": torch.int64,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda n: n != "__metadata__"
    ),
    st.tuples(st.sampled_from(sorted(DTYPES)), shapes),
    min_size=1,
    max_size=6,
)


def make(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, 2, shape).to(DTYPES[dtype])


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@quick
@given(tensors, st.integers(1, 200))
def test_what_is_written_is_what_the_library_reads(tmp_path: Path, spec, max_shard_bytes: int) -> None:
    values = {name: make(*item) for name, item in spec.items()}
    planned = [Planned(name, dtype, shape) for name, (dtype, shape) in spec.items()]
    read: dict[str, torch.Tensor] = {}
    for file, group in plan_shards(planned, max_shard_bytes).items():
        assert len(group) == 1 or sum(t.size for t in group) <= max_shard_bytes
        with ShardWriter(tmp_path / file, group) as writer:
            for tensor in group:
                writer.write(raw(values[tensor.name]))
        assert writer.sha256 == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
        read |= load_file(tmp_path / file)
    assert read.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(read[name], value)
        assert read[name].dtype == value.dtype


@quick
@given(tensors)
def test_what_the_library_writes_is_what_is_read(tmp_path: Path, spec) -> None:
    values = {name: make(*item) for name, item in spec.items()}
    save_file(values, tmp_path / SINGLE)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert checkpoint.entries.keys() == values.keys()
        for name, entry in checkpoint.entries.items():
            buffer = bytearray(entry.size)
            checkpoint.read_into(entry, 0, buffer)
            assert bytes(buffer) == raw(values[name])
            if values[name].is_floating_point():
                assert torch.equal(checkpoint.tensor(name), values[name])


def test_rows(tmp_path: Path) -> None:
    value = torch.randn(7, 3, 2).to(torch.bfloat16)
    save_file({"before": torch.randn(5), "w": value}, tmp_path / SINGLE)
    with Checkpoint.open(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor("w", 2, 5), value[2:5])
        assert torch.equal(checkpoint.tensor("w", 6), value[6:])


@quick
@given(st.data())
def test_a_damaged_file_is_refused_with_its_name_or_read_as_before(tmp_path: Path, data) -> None:
    """Any cut and any changed byte of the header: an InputError naming the file, never another exception."""
    path = tmp_path / SINGLE
    save_file({"a": torch.ones(3, 4), "b": torch.ones(2)}, path)
    good = path.read_bytes()
    if data.draw(st.booleans()):
        bad = good[: data.draw(st.integers(0, len(good) - 1))]
        certain = True
    else:
        at = data.draw(st.integers(0, 8 + struct.unpack("<Q", good[:8])[0] - 1))
        bad = good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]
        certain = False
    path.write_bytes(bad)
    if certain:
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_header(path)
        return
    with contextlib.suppress(InputError):  # anything else it raises fails the test
        entries, _ = read_header(path)
        assert sum(e.size for e in entries.values()) == 56  # a name or a dtype of the same width was hit


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": 3},
        [1, 2],
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header) -> None:
    path, text = tmp_path / SINGLE, json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(InputError, match=SINGLE):
        read_header(path)


def test_shards_and_their_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with Checkpoint.open(tmp_path) as checkpoint:
        assert torch.equal(checkpoint.tensor("b"), torch.zeros(3))
    for wrong, complaint in (
        ({"a": "one.safetensors", "b": "one.safetensors"}, "tensor b is not in one.safetensors"),
        ({"a": "one.safetensors", "b": "three.safetensors"}, "three.safetensors"),
        ({"a": "../one.safetensors"}, "weight_map"),
        (None, "weight_map"),
    ):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(InputError, match=complaint):
            Checkpoint.open(tmp_path)
    save_file({"a": torch.ones(2)}, tmp_path / "two.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "two.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(InputError, match="also in"):
        Checkpoint.open(tmp_path)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="save_pretrained"):
        Checkpoint.open(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1000)}, tmp_path / SINGLE)
    with Checkpoint.open(tmp_path) as checkpoint:
        (tmp_path / SINGLE).write_bytes(b"short")
        with pytest.raises(WorkFailed, match="ended"):
            checkpoint.tensor("a")


def test_a_writer_that_is_given_too_little_complains(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="4 bytes are missing"),
        ShardWriter(tmp_path / SINGLE, [Planned("a", "F32", (2,))]) as writer,
    ):
        writer.write(bytes(4))


def test_json_errors_have_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{\n "a": ]\n}')
    with pytest.raises(InputError, match=r"x\.json:2:7"):
        read_json(tmp_path / "x.json")
