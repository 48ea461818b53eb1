"""The job of merging: what it may replace, what is proved, code that comes with a base, a disk that fills up."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from engine import files, spec, store
from engine.errors import InputError, WorkFailed
from engine.jobs import merging
from engine.merging.combine import combine
from engine.safetensors_io import SINGLE
from tests.engine.commandline import Call, document, pairs, write_project, write_rows
from tests.engine.merging import IDS, assert_same_function, rewrite, train_adapter

Merge = Callable[..., dict[str, Any]]

MODEL = '[model]\nbase = "{base}"\nquantization = "none"\ndtype = "float32"\n[data]\ntrain = "data/rows.jsonl"\n'


@pytest.fixture(scope="module")
def adapter(base_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_adapter(base_of("llama"), tmp_path_factory.mktemp("q") / "adapter", target_modules=["q_proj"])


@pytest.fixture
def job(base_of: Callable[..., Path], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """Merge the adapter into a tiny Llama in a workspace of its own: (out, more lines of [model], options)."""
    monkeypatch.chdir(tmp_path)
    write_rows(Path("data/rows.jsonl"), pairs(6))

    def run(out: Path, more: str = "", base: Path | None = None, **options: Any) -> dict[str, Any]:
        project = spec.parse(MODEL.format(base=base or base_of("llama")).replace("[data]", f"{more}\n[data]"))
        folder = store.ProjectFolder(tmp_path / "projects" / "p", tmp_path)
        return merging.merge(folder, project, [(adapter, 1.0)], out, lambda event: None, **options)

    return run


def beside(out: Path) -> list[str]:
    return sorted(p.name for p in out.parent.iterdir() if p != out) if out.parent.exists() else []


def test_a_proved_merge(job: Merge, base_of, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged" / "m"
    found = job(out)
    assert found["verification"]["holds"]
    assert found["verification"]["kl"] < 1e-6 < found["verification"]["adapter_kl"]
    told = json.loads(json.dumps(found))
    assert json.loads((out / "merge.json").read_text()) == {k: v for k, v in told.items() if k != "out"}
    assert_same_function(base_of("llama"), adapter, out)
    assert beside(out) == []


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
def test_into_the_rounded_base_however_the_project_holds_it(job: Merge, tmp_path: Path, quantization: str) -> None:
    """The proof compares with the base as the merge took it, also where training held it otherwise."""
    found = job(tmp_path / "m", base_weights="nf4", prove=quantization == "none")
    assert found["rounded"] > 0
    if quantization == "none":
        assert "rounded to nf4" in found["verification"]["reference"] and found["verification"]["kl"] < 1e-6


def test_only_a_model_is_replaced_and_never_what_it_is_made_from(
    job: Merge, base_of, adapter: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(base_of("llama"), tmp_path / "base"))
    for wrong in (base, tmp_path, adapter):
        with pytest.raises(InputError, match="would replace what it is made from"):
            job(wrong, base=base, replace=True, prove=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a model's folder"):
        job(tmp_path / "mine", replace=True, prove=False)
    job(tmp_path / "m", prove=False)
    with pytest.raises(InputError, match="already exists"):
        job(tmp_path / "m", prove=False)
    job(tmp_path / "m", prove=False, replace=True)
    assert (tmp_path / "mine" / "thesis.txt").exists() and (base / SINGLE).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "data", "m", "mine"]


def test_a_model_that_is_not_base_and_adapter_is_kept_beside(
    job: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.merging import merge as module

    def wrong(base: Path, adapter: Path, out: Path, **options: Any) -> Any:
        report = real(base, adapter, out, **options)
        rewrite_model(out)
        return report

    def rewrite_model(folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = load_file(folder / SINGLE)
        tensors["model.layers.0.mlp.up_proj.weight"] *= -1
        save_file(tensors, folder / SINGLE, metadata={"format": "pt"})

    real = module.merge
    monkeypatch.setattr(module, "merge", wrong)
    out = tmp_path / "merged" / "m"
    with pytest.raises(WorkFailed, match="differs from base \\+ adapter") as caught:
        job(out)
    assert caught.value.where == str(out.with_name("m.unverified"))
    assert beside(out) == ["m.unverified"] and not out.exists()
    assert json.loads((out.with_name("m.unverified") / "merge.json").read_text())["verification"]["holds"] is False


@pytest.mark.parametrize("full", ["model.safetensors", "config.json", "tokenizer.json", "merge.json"])
def test_a_disk_that_fills_up(job: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """Whichever file has no room: it is said where, an earlier model stays, and nothing is left beside it."""
    out = tmp_path / "merged" / "m"
    job(out, prove=False)
    earlier = {p.name: files.sha256(p) for p in out.iterdir()}

    def no_space(path: object) -> None:
        if Path(str(path)).name.startswith(full) and Path(str(path)).is_relative_to(out.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    opened, copied = Path.open, shutil.copyfile
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *a, **k: (no_space(self), opened(self, *a, **k))[1])
        patch.setattr(shutil, "copyfile", lambda a, b: (no_space(b), copied(a, b))[1])
        with pytest.raises(WorkFailed, match="No space left") as caught:
            job(out, prove=False, replace=True)
    assert str(out) in str(caught.value.where) and "free some space" in str(caught.value.remedy)
    assert beside(out) == []
    assert {p.name: files.sha256(p) for p in out.iterdir()} == earlier


# A base that brings code.

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(base_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A base whose config names classes in a file of its own, and the file that this makes when it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "it-ran"
    base = Path(shutil.copytree(base_of("llama"), tmp_path / "own"))
    (base / "own.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((base / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    config |= {"model_type": "own_llama", "architectures": ["OwnForCausalLM"], "auto_map": names}
    (base / "config.json").write_text(json.dumps(config))
    return base, marker


def test_code_of_a_base_is_not_run_unasked(job: Merge, with_code: tuple[Path, Path], tmp_path: Path) -> None:
    base, marker = with_code
    with pytest.raises(InputError) as caught:
        job(tmp_path / "m", base=base, prove=False)
    assert "trust_remote_code" in str(caught.value.remedy)
    assert not marker.exists() and not (tmp_path / "m").exists()


def test_code_of_a_base_that_is_trusted_is_merged_proved_and_taken_along(
    job: Merge, with_code: tuple[Path, Path], tmp_path: Path
) -> None:
    base, marker = with_code
    found = job(tmp_path / "m", "trust_remote_code = true", base=base)
    assert found["verification"]["holds"] and marker.exists()
    assert (tmp_path / "m" / "own.py").exists()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m", trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM" and model(IDS).logits.isfinite().all()


# Several adapters, from the command line.


@pytest.mark.parametrize("how", [{"density": 0.5}, {"density": 0.5, "majority_sign": "frequency"}])
def test_ties_by_the_command_line_is_what_combine_makes(
    call: Call, base_of, adapter: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    write_rows(Path("data/rows.jsonl"), pairs(6))
    write_project("p", MODEL.format(base=base_of("llama")))
    one = Path("projects/p/runs/0001/adapter")
    other = Path("projects/p/runs/0002/adapter")
    for folder in (one, other):
        shutil.copytree(adapter, folder)
    rewrite(other, lambda t: [v.mul_(-0.7).roll(1) for v in t.values()])
    options = [f"--{name.replace('_', '-')}={value}" for name, value in how.items()]
    both = ["--adapter", "1", "--weight", "0.9", "--adapter", "2", "--weight", "0.4", "--method", "ties"]
    out = document(call("merge", "p", *both, *options, "--no-verify", "--json"))["out"]
    combine([(one, 0.9), (other, 0.4)], tmp_path / "ties", method="ties", **how)
    assert_same_function(base_of("llama"), tmp_path / "ties", Path(out))
    refused = document(call("merge", "p", *both, "--density", "1.5", "--out", "x", "--json"), 2)["error"]
    assert "density" in refused["problem"]
    linear = [*both[:-1], "linear", "--density", "0.5", "--out", "x", "--json"]
    assert "takes no density" in document(call("merge", "p", *linear), 2)["error"]["problem"]
