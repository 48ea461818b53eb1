"""Training on a machine that fails: killed at any moment, a disk that fills up, a gradient that is not a number."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from engine.errors import WorkFailed
from engine.models.loaded import Loaded
from engine.tokens.examples import Example
from engine.training import checkpoint, lora
from tests.engine.training import examples_of, project_of, training_of, weights_of

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)  # some twenty trainings, killed and gone on with: 3 minutes alone, over 5 on a busy machine
def test_killed_at_every_moment(base_of: Callable[..., Path], tmp_path: Path) -> None:
    """Twice on its way, then resumed: the same bytes as if nothing had happened, and never a half of anything."""
    command = [sys.executable, "-m", "tests.engine.killing_training", str(base_of("llama")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


class Disk:
    """A disk with room for so many writes: opening a file for writing, making or renaming a folder, half a tensor file."""

    def __init__(self) -> None:
        self.folder, self.left, self.full = "", math.inf, False

    def write(self) -> None:
        self.left -= 1
        self.full = self.full or self.left < 0
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or not str(arguments[:1]).count(self.folder):
            return
        if event in ("os.mkdir", "os.rename") or (event == "open" and set(str(arguments[1] or "")) & set("wax+")):
            self.write()

    def save_file(self, tensors: dict[str, torch.Tensor], path: Path, metadata: Any = None) -> None:
        """As safetensors does it, which writes from Rust: its error is one of its own, and half of the file stays."""
        data = safetensors.torch.save(tensors, metadata)
        try:
            path.write_bytes(data[: len(data) // 2])
            self.write()
        except OSError as error:
            raise SafetensorError("I/O error: No space left on device (os error 28)") from error
        path.write_bytes(data)


DISK = Disk()
sys.addaudithook(DISK.hear)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(safetensors.torch, "save_file", DISK.save_file)
    DISK.folder = str(tmp_path)
    yield DISK
    DISK.folder, DISK.left, DISK.full = "", math.inf, False


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_write(load: Callable[..., Loaded], tmp_path: Path, disk: Disk) -> None:
    """It is said, with the place; what was complete can be loaded; with room again the run ends in the same weights."""
    project = project_of(steps=3, examples_per_step=2, learning_rate=1e-2, save_every=1, keep_checkpoints=2, lora_r=2)
    examples, room = examples_of(6), 0
    straight = training_of(load(), project, examples, tmp_path / "straight")
    straight.run()
    expected = weights_of(straight)
    while True:
        folder = tmp_path / str(room)
        training = training_of(load(), project, examples, folder)
        disk.left, disk.full = room, False
        failure = None
        try:
            training.run()
            lora.save_adapter(folder / "adapter", training.loaded, {}, "card")
            break
        except WorkFailed as error:
            failure = error
        finally:
            disk.left, disk.full = math.inf, False
        assert "cannot write: No space left" in failure.problem
        assert str(failure.where).startswith(str(folder))
        assert "free some space" in str(failure.remedy)
        assert not (folder / "adapter").exists()
        assert not list(folder.glob("**/*.part"))
        again = training_of(load(), project, examples, folder)
        done = again.resume()
        assert done == max([0, *checkpoint.steps_in(folder / "checkpoints")])
        assert done in (training.progress.step, training.progress.step - 1)
        again.run()
        lora.save_adapter(folder / "adapter", again.loaded, {}, "card")
        assert all(torch.equal(value, expected[name]) for name, value in weights_of(again).items())
        room += 1
    assert room > 20


def test_a_gradient_that_is_not_a_number_stops_a_finite_loss(load: Callable[..., Loaded], tmp_path: Path) -> None:
    """The optimizer does not see it, and the rows of the step are named."""
    training = training_of(load(), project_of(steps=2, examples_per_step=4), examples_of(4), tmp_path)
    before = weights_of(training)
    handle = training.loaded.parameters()[3][1].register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(WorkFailed, match="NaN or infinite in step 1") as caught:
        training.run()
    handle.remove()
    assert str(caught.value.where).count("rows.jsonl:") == 4
    assert all(torch.equal(value, before[name]) for name, value in weights_of(training).items())
    assert training.run() == "done"  # without the fault it goes on from there


def test_a_micro_batch_without_supervised_tokens_adds_nothing(load: Callable[..., Loaded], tmp_path: Path) -> None:
    """One row of the step has nothing to learn: the same weights as a step of the others alone."""
    examples = examples_of(4)
    masked = Example(examples[0].ids, np.zeros_like(examples[0].weights), "rows.jsonl:0")
    found = []
    for name, rows in (("with", [*examples, masked]), ("without", examples)):
        project = project_of(steps=1, examples_per_step=len(rows), micro_batch_tokens=1, learning_rate=1e-2)
        training = training_of(load(), project, rows, tmp_path / name)
        training.run()
        found.append(weights_of(training))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
