"""Fixtures of the tests that run the command line, and of those that load tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from engine import __main__, events
from tests.engine.commandline import Call, Outcome, finished, log_of, pairs, write_project, write_rows

if TYPE_CHECKING:
    from engine.models.loaded import Loaded


@pytest.fixture(scope="session")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny base: (family, **keys of its config); made once."""
    made: dict[str, Path] = {}

    def base(family: str = "llama", **overrides: Any) -> Path:
        from tests.engine import tiny

        name = "-".join([family, *(f"{k}={v}" for k, v in overrides.items())])
        if name not in made:
            made[name] = tiny.save_tiny(tmp_path_factory.mktemp("base") / family, family, **overrides)
        return made[name]

    return base


@pytest.fixture(scope="session")
def load(base_of: Callable[..., Path]) -> Callable[..., Loaded]:
    """Load a fresh tiny base of a family: (family, **keys of [model])."""

    def make(family: str = "llama", **model: Any) -> Loaded:
        from tests.engine import tiny

        return tiny.tiny_loaded(base_of(family), **model)

    return make


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in a workspace of its own: (exit code, stdout, stderr)."""
    (tmp_path / "projects").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LORAWORKBENCH_WORKSPACE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def invoke(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as ended:
            __main__.main(list(arguments))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return invoke


@pytest.fixture(scope="module")
def tokenizer_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without weights: what `check` and `rows` need."""
    from tests.engine import tiny  # torch, which most tests here do without

    folder = tmp_path_factory.mktemp("base")
    tiny.tiny_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 256}))
    return folder


@pytest.fixture
def demo(call: Call, tokenizer_only: Path) -> Path:
    """A project of 20 rows and a base without weights; returns its data file."""
    data = write_rows(Path("data/demo.jsonl"), pairs(20))
    write_project(
        "demo", f'[model]\nbase = "{tokenizer_only}"\n[data]\ntrain = "data/demo.jsonl"\ntest_fraction = 0.2\n'
    )
    return data


@pytest.fixture
def five_runs(call: Call) -> Path:
    write_project("p", "")
    folder = Path("projects/p/runs")
    failed = events.Failed(problem="NaN in step 3\x1b[2J", where="data:7", remedy="look")
    for number, said in enumerate(([finished("done")], [finished("stopped")], [failed], [], []), 1):
        log_of(folder / f"{number:04d}", *said, pid=2**22 + 1 if number == 4 else None)
    return folder
