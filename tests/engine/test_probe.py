"""The memory of a run: measured before its first step without changing what is trained, and the change that makes it fit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import architecture, estimate, events, smaller, store
from engine.console import told
from engine.models import memory
from engine.models.loaded import Loaded
from engine.training import probe
from tests.engine.commandline import Call, pairs, write_project, write_rows
from tests.engine.training import examples_of, project_of, training_of, weights_of


def test_the_largest_micro_batch_is_run_and_nothing_changes(load: Callable[..., Loaded], tmp_path: Path) -> None:
    project = project_of(
        steps=7, examples_per_step=5, micro_batch_tokens=70, learning_rate=1e-2, lora_dropout=0.2, save_every=0
    )
    straight = training_of(load(), project, examples_of(20), tmp_path / "a")
    straight.run()
    training, sizes = training_of(load(), project, examples_of(20), tmp_path / "b"), []
    real = training.loaded.hidden

    def watched(batch: Any) -> torch.Tensor:
        sizes.append(len(batch.ids))
        return real(batch)

    training.loaded.hidden = watched  # type: ignore[method-assign]
    found = probe.measure(training)
    assert not training.optimizer.state and all(p.grad is None for _, p in training.loaded.parameters())
    training.run()
    first, *others = sizes
    assert first == found.tokens == max(others) <= 70
    assert found.bytes is not None and found.bytes > 10**7
    expected = weights_of(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(training).items())


def test_too_little_memory_is_found_out_and_leaves_the_step_to_be_halved(
    load: Callable[..., Loaded], tmp_path: Path
) -> None:
    training = training_of(load(), project_of(steps=2, examples_per_step=6), examples_of(12), tmp_path)
    real = training.loaded.hidden

    def small(batch: Any) -> torch.Tensor:
        if len(batch.ids) > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(batch)

    training.loaded.hidden = small  # type: ignore[method-assign]
    found = probe.measure(training)
    assert found.bytes is None and found.tokens > 60
    assert training.run() == "done"


def test_a_run_says_both_before_its_first_step(call: Call, base_of: Callable[..., Path]) -> None:
    write_rows(Path("data/rows.jsonl"), pairs(12))
    base = base_of("llama")
    text = f'[model]\nbase = "{base}"\nquantization = "none"\n[data]\ntrain = "data/rows.jsonl"\n[train]\nsteps = 2\n'
    write_project("p", text)
    code, out, err = call("train", "p", "--set", "train.examples_per_step=4", "--set", "launch.device=cpu")
    assert code == 0, err
    said = events.read(store.Workspace(Path()).project("p").runs()[-1].events)[0]
    kinds = [type(e) for e in said]
    (memory,) = [e for e in said if isinstance(e, events.Memory)]
    assert kinds.index(events.Memory) < kinds.index(events.Step)
    assert memory.estimated_bytes and memory.measured_bytes and memory.tokens > 8
    assert "peak memory" in out + err and "estimated" in out + err


@pytest.mark.parametrize(
    ("estimated", "measured", "words"),
    [
        (
            1_100_000_000,
            1_000_000_000,
            "peak memory 1.0 GB, measured with 1,024 tokens at once; estimated 1.1 GB (+10%)",
        ),
        (None, 1_000_000_000, "peak memory 1.0 GB, measured with 1,024 tokens at once"),
        (
            9_000_000_000,
            None,
            "1,024 tokens at once do not fit; smaller micro-batches will be tried; estimated 9.0 GB",
        ),
    ],
)
def test_words(estimated: int | None, measured: int | None, words: str) -> None:
    assert told(events.Memory(tokens=1024, estimated_bytes=estimated, measured_bytes=measured)) == [words]


# --- what would make it fit


def changes(base: Path, room: int, step: int | None = 4096, longest: int | None = 300, **train: Any) -> Any:
    project = project_of(micro_batch_tokens=4096, max_length=1024, lora_r=64, **train)
    table = project.model_copy(update={"model": project.model.model_copy(update={"base": str(base)})})
    return table, smaller.that_fits(table, store.Workspace(base), "cuda", room, step, longest)


def test_the_first_change_that_fits_is_the_one_that_costs_least(base_of: Callable[..., Path]) -> None:
    base = base_of("llama")
    table, _ = changes(base, 0)

    def needed(**values: Any) -> int:
        changed = table.model_copy(update={"train": table.train.model_copy(update=values)})
        return estimate.of_base(architecture.read(base), changed, "cuda", 4096, 300).total

    full = needed()
    for room in (full, needed(micro_batch_tokens=2048)):
        found = changes(base, room)[1]
        assert found.line == "train.micro_batch_tokens = 2048" and found.bytes == needed(micro_batch_tokens=2048)
        assert "would need" in smaller.words(found) and "same result" in smaller.words(found)
    assert changes(base, needed(micro_batch_tokens=2048) - 1)[1].line == "train.micro_batch_tokens = 1024"
    offered = [line for line, *_ in smaller._changes(table, 4096, 300)]
    assert offered[:3] == [f"train.micro_batch_tokens = {n}" for n in (2048, 1024, 512)]  # 256: a row is longer
    assert offered[3].startswith("train.activation_checkpointing")
    assert changes(base, 10**6)[1] is None
    assert "no single change" in smaller.words(None).lower()


def test_every_change_offered_is_one_that_the_project_file_takes() -> None:
    import tomlkit

    from engine import spec

    seen = set()
    project = project_of(micro_batch_tokens=4096, max_length=2048, lora_r=64)
    for line, price, changed, _ in smaller._changes(project, 4096, None):
        (table, key), value = line.partition(" = ")[0].split("."), tomlkit.parse(line)
        assert spec.parse(tomlkit.dumps(value)) and price
        assert getattr(getattr(changed, table), key) == value[table][key]
        seen.add(f"{table}.{key}")
    assert seen == {
        "train.micro_batch_tokens", "train.activation_checkpointing", "model.quantization", "lora.r", "train.max_length"
    }  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_the_peak_begins_anew() -> None:
    cpu, before = torch.device("cpu"), memory.used_bytes(torch.device("cpu"))
    held = torch.ones(50_000_000)
    assert memory.peak_bytes(cpu) > before + 150_000_000
    del held
    memory.forget_peak(cpu)
    assert memory.peak_bytes(cpu) < before + 100_000_000


HELD = """
import torch
from engine.models import memory
memory.hold()
cpu = torch.device("cpu")
torch.ones(10)
before = memory.used_bytes(cpu)
blocks = [torch.ones(1_000_000) for _ in range(100)]
del blocks
held = memory.used_bytes(cpu) - before
memory.trim()
print(held, memory.used_bytes(cpu) - before)
"""


@pytest.mark.skipif(memory._mallopt is None, reason="needs glibc")
def test_freed_memory_is_held_until_it_is_trimmed() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    said = subprocess.run([sys.executable, "-c", HELD], env=environment, capture_output=True, text=True, check=True)
    held, left = map(int, said.stdout.split())
    assert held > 350_000_000 and left < 50_000_000


PRODUCTS = """
import ctypes
from engine import libraries
libraries.prepare()
import torch
class Figures(ctypes.Structure):  # of glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in "arena b c d mapped f g in_use i j".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Figures
weight = torch.ones(48, 32, dtype=torch.bfloat16)
def multiply(rows):
    for n in rows:
        torch.nn.functional.linear(torch.ones(n, 32, dtype=torch.bfloat16), weight)
multiply(range(1, 80))
before = libc.mallinfo2().in_use
multiply(range(80, 500))
print(libc.mallinfo2().in_use - before)
"""


@pytest.mark.skipif(not hasattr(memory._libc, "mallinfo2"), reason="needs glibc 2.33")
def test_products_of_ever_other_shapes_are_not_kept() -> None:
    """16 MB here with the libraries' own bounds, on a CPU that multiplies bf16 in oneDNN."""
    environment = {k: v for k, v in os.environ.items() if "CACHE_CAPACITY" not in k}
    said = subprocess.run([sys.executable, "-c", PRODUCTS], env=environment, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 1_000_000
