"""What is begun before torch is there: it is what the run needs, and nothing of it outlives the run's beginning."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.jobs import ahead
from engine.store import Workspace, shipped
from engine.tables import ModelTable
from tests.engine.commandline import ROOT

AHEAD = """
import sys, time
from pathlib import Path
from engine import store
from engine.jobs.ahead import Ahead

workspace, what = store.Workspace(Path(sys.argv[1])), sys.argv[2]
project = workspace.project("starter").load(sys.argv[3:])
told = []
if what == "told":
    with Ahead(project, workspace) as begun:
        assert begun.listen is not None
        begun.listen(told.append)
        assert list(begun.hashes.result()) == ["model.safetensors"]
    assert "torch" not in sys.modules
    from engine.models.tokenizer import tokenizer_of  # with torch, as the run has it
    from engine.tokens import dataset
    import torch
    raw = dataset.read(project, workspace, tokenizer_of(project, workspace)[1], lambda event: None)
    assert raw.is_stored, list((workspace.root / ".cache/tokens").iterdir())
    print(told[-1].name, told[-1].done)
elif what == "ended":
    import psutil
    begun = Ahead(project, workspace)
    (copy,) = psutil.Process().children()
    begun.close()
    assert not psutil.pid_exists(copy.pid)
    begun.close()
else:
    with Ahead(project, workspace) as begun:
        print(begun.listen, begun.hashes)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "projects/starter", tmp_path / "projects/starter", ignore=lambda *_: ["runs"])
    shutil.copytree(ROOT / "data/word_problems", tmp_path / "data/word_problems")
    return tmp_path


def run(workspace: Path, what: str, *settings: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AHEAD, str(workspace), what, *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


pays = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="no copy is made here, or it has no core"
)


@pays
def test_a_copy_without_torch_stores_the_rows_where_the_run_looks_for_them(workspace: Path) -> None:
    assert run(workspace, "told", "data.train_limit=40", "data.test_limit=10").startswith("tokenise unseen rows 10")


@pays
def test_the_copy_ends_when_it_is_closed(workspace: Path) -> None:
    run(workspace, "ended")


@pytest.mark.parametrize(
    "setting", ["data.train=hub:some/rows", "data.test=hub:some/rows", "model.trust_remote_code=true"]
)
def test_what_is_elsewhere_or_may_want_torch_is_left_to_the_run(workspace: Path, setting: str) -> None:
    assert run(workspace, "else", setting).startswith("None <Future")


def test_the_hashes_are_those_of_the_base(tmp_path: Path) -> None:
    file = shipped("data/starter") / "model.safetensors"
    truth = hashlib.sha256(file.read_bytes()).hexdigest()
    assert ahead.hashing(ModelTable(base=str(file.parent)), Workspace(tmp_path)).result(60) == {file.name: truth}
    assert ahead.hashing(ModelTable(base="some/model"), Workspace(tmp_path)).result(60) == {}


def test_a_base_that_is_not_there_is_told_to_who_waits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        ahead.hashing(ModelTable(base="./nowhere"), Workspace(tmp_path)).result(60)


def test_a_file_that_cannot_be_hashed_is_told_to_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(location: str) -> dict[str, str]:
        raise OSError(5, "Input/output error", location)

    monkeypatch.setattr(ahead.record, "base_hashes", broken)
    with pytest.raises(OSError, match="Input/output error"):
        ahead.hashing(ModelTable(base="starter"), Workspace(tmp_path)).result(60)
