"""Merges that are killed: whatever the moment, the final place holds a whole model or none, and the next merge works."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.merging.merge import merge
from engine.safetensors_io import INDEX, SINGLE
from tests.engine.merging import assert_same_function, train_adapter

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pair(base_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny base, and LoRA on all its linear layers."""
    base = base_of("llama")
    return base, train_adapter(base, tmp_path_factory.mktemp("all") / "adapter", target_modules="all-linear")


SLOWLY = """
import sys, time
from pathlib import Path
from engine.merging import merge, stream

stream.BLOCK = 64
def emit(event):
    if event.done > event.total / 2:
        print("half", flush=True)
        time.sleep(60)
merge.merge(*map(Path, sys.argv[1:4]), max_shard_bytes=50_000, emit=emit)
"""


def test_killed_in_the_middle(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """What is left cannot be taken for a model, and the next merge clears it away."""
    base, adapter = pair
    command = [sys.executable, "-c", SLOWLY, str(base), str(adapter), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert [p.name for p in tmp_path.iterdir()] == ["out.part"]
    left = {p.name for p in (tmp_path / "out.part").iterdir()}
    assert left
    assert not left & {"config.json", INDEX, SINGLE}
    merge(base, adapter, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert_same_function(base, adapter, tmp_path / "out")


@pytest.mark.slow
def test_killed_at_every_moment(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The final place holds all of a model or none, the one that was replaced comes back, and nothing is left lying."""
    base, one = pair
    other = train_adapter(base, tmp_path / "other", target_modules=["q_proj"])
    (folder := tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "tests.engine.killing", *map(str, (base, one, other, folder))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(moments) > 50 for moments in done.stdout.split()), done.stdout
    assert_same_function(base, other, folder / "out")
