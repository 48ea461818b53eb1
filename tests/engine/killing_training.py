"""Kill trainings, at every moment at which they touch the disk and at random times. Run by test_train_faults:

    python -m tests.engine.killing_training BASE FOLDER

A moment is one of `killing.TOUCHES` in FOLDER, or the middle of a file of weights. Each training is a fork of this process.
It is killed, goes on and is killed again, and goes on to its end: the checkpoint and the adapter are then those of the
training that nobody killed, byte for byte, and whatever a death has left at a final place is whole. Prints how many
moments there were, or fails.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from engine.files import recover_folder
from engine.training import checkpoint, lora
from tests.engine import tiny
from tests.engine.killing import killed_at, state
from tests.engine.training import examples_of, project_of, training_of

STEPS, TIMED = 5, 12


def save_in_two(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """safetensors' save_file, with a moment at which half of the file is there (it writes from Rust, which is not heard)."""
    data = safetensors.torch.save(tensors, metadata)
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        path.open("rb").close()
        file.write(data[len(data) // 2 :])


def train(loaded: Any, folder: Path) -> None:
    """The whole run, from the newest checkpoint, to the saved adapter. Only called in a fork: the base is changed."""
    project = project_of(steps=STEPS, examples_per_step=2, learning_rate=1e-2, save_every=2, lora_dropout=0.1, lora_r=2)
    training = training_of(loaded, project, examples_of(6), folder)
    training.resume()
    training.run()
    lora.save_adapter(folder / "adapter", loaded, {}, "card")


def check(folder: Path, adapter: Any) -> None:
    """What has a final name is whole."""
    recover_folder(folder / "adapter")
    if state(folder / "adapter") not in (None, adapter):
        sys.exit(f"half an adapter: {sorted(state(folder / 'adapter') or {})}")
    for step in checkpoint.steps_in(folder / "checkpoints"):
        checkpoint._read(checkpoint.path_of(folder / "checkpoints", step))


def result(folder: Path) -> tuple[Any, Any, list[str]]:
    """The adapter, the last checkpoint, and what there is beside them."""
    names = sorted(str(p.relative_to(folder)) for p in folder.glob("**/*") if p.is_dir())
    return state(folder / "adapter"), state(checkpoint.path_of(folder / "checkpoints", STEPS)), names


def killed_after(seconds: float, act: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    base, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)  # a forked process has no other
    safetensors.torch.save_file = save_in_two  # type: ignore[assignment]
    loaded, whole, place = tiny.tiny_loaded(base), folder / "whole", folder / "run"
    begun = time.monotonic()
    killed_at(10**9, whole, partial(train, loaded, whole))
    seconds, expected = time.monotonic() - begun, result(whole)
    act = partial(train, loaded, place)

    def finish(what: str) -> None:
        check(place, expected[0])
        killed_at(10**9, place, act)
        if (found := result(place)) != expected:
            sys.exit(f"{what}: another result, {found}\nfor {expected}")
        shutil.rmtree(place)

    rng, moments = random.Random(0), 0
    while killed_at(moments, place, act):
        check(place, expected[0])
        killed_at(rng.randrange(40), place, act)
        finish(f"killed at moment {moments}")
        moments += 1
    for number in range(TIMED):
        for _ in range(2):
            killed_after(rng.uniform(0.0, seconds), act)
            check(place, expected[0])
        finish(f"killed by the clock, {number}")
    print(moments)


if __name__ == "__main__":
    main()
