"""The whole job by the command line, as a user runs it: quickstart, real GSM8K, a custom dataset, a stop and a resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
GSM8K = ROOT.parent / "shared" / "gsm8k"
pytestmark = pytest.mark.timeout(900)


def command(workspace: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "engine", "--workspace", str(workspace), *arguments]


def run(workspace: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """One verb with --json: its document."""
    done = subprocess.run(
        command(workspace, *arguments, "--json"), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace of its own, with the projects and data of the repository (the starter base is found by itself)."""
    for name in ("starter", "support-desk"):
        (tmp_path / "projects" / name).mkdir(parents=True)
        shutil.copy2(ROOT / "projects" / name / "project.toml", tmp_path / "projects" / name)
    for name in ("word_problems", "support_desk"):
        shutil.copytree(ROOT / "data" / name, tmp_path / "data" / name)
    return tmp_path


def row_of(document: dict[str, Any], model: str, split: str, scope: str = "completion") -> dict[str, Any]:
    return next(
        r
        for r in document["rows"]
        if (r["model"] == "base") == (model == "base") and (r["split"], r["scope"]) == (split, scope)
    )


@pytest.mark.slow
def test_quickstart_generalises(workspace: Path) -> None:
    """On unseen problems: perplexity falls at least threefold, exact match rises by at least 30 points."""
    document = run(workspace, "quickstart")
    base, adapter = row_of(document, "base", "test"), row_of(document, "adapter", "test")
    assert base["perplexity"] >= 3 * adapter["perplexity"]
    assert adapter["exact_match"] >= base["exact_match"] + 0.30
    assert adapter["tokens"] == base["tokens"] > 10_000
    assert document["merge"]["verification"]["holds"]
    assert (Path(document["merge"]["out"]) / "model.safetensors").is_file()
    assert all(a["changed"] == (a["model"] != "base") for c in document["comparisons"] for a in c["answers"])
    ledger = run(workspace, "rows", "starter")["ledger"]
    assert ledger["read"] == ledger["kept"] + ledger["cut"] + ledger["refused"] == 3400


@pytest.mark.slow
def test_the_starter_learns_a_house_style(workspace: Path) -> None:
    lines = subprocess.run(
        command(workspace, "train", "support-desk", "--json"),
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [json.loads(line)["kind"] for line in (lines[0], lines[-1])] == ["started", "finished"]
    document = run(workspace, "eval", "support-desk")
    base, adapter = row_of(document, "base", "test"), row_of(document, "adapter", "test")
    assert adapter["perplexity"] < base["perplexity"] / 3
    assert adapter["exact_match"] > 0.3


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.is_dir(), reason="real GSM8K is not beside the checkout")
def test_the_starter_project_trains_on_real_gsm8k(workspace: Path) -> None:
    settings = [
        f"data.train={GSM8K / 'train.jsonl'}", f"data.test={GSM8K / 'test.jsonl'}", "data.train_limit=200",
        "data.test_limit=40", "train.steps=12", "train.max_length=768", "train.evaluate_every=0", "eval.train_rows=0",
        "eval.match_rows=8", "eval.exact_match=gsm8k",
    ]  # fmt: skip
    overrides = [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command(workspace, "train", "starter", *overrides), capture_output=True, cwd=ROOT, check=True)
    document = run(workspace, "eval", "starter", *overrides)
    base, adapter = row_of(document, "base", "test"), row_of(document, "adapter", "test")
    assert adapter["tokens"] == base["tokens"] > 1000
    assert adapter["perplexity"] < base["perplexity"]
    assert adapter["exact_match"] is not None


def wait_for(path: Path, text: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and text in path.read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    raise AssertionError(f"{text!r} did not come up in {path}")


@pytest.mark.slow
def test_a_stopped_run_is_resumed_to_the_same_bits(workspace: Path) -> None:
    """SIGINT: exit 130 and a checkpoint; SIGKILL: killed; resumed twice: the uninterrupted run's adapter."""
    settings = [
        part for s in ("train.steps=24", "train.save_every=4", "train.evaluate_every=0") for part in ("--set", s)
    ]
    subprocess.run(command(workspace, "train", "starter", *settings), capture_output=True, cwd=ROOT, check=True)
    runs = workspace / "projects" / "starter" / "runs"

    process = subprocess.Popen(command(workspace, "train", "starter", *settings), stdout=subprocess.DEVNULL, cwd=ROOT)
    wait_for(runs / "0002" / "events.jsonl", '"step":5,')
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert run(workspace, "runs", "starter")["runs"][-1]["state"] == "stopped"

    process = subprocess.Popen(
        command(workspace, "train", "starter", "--resume", "2"), stdout=subprocess.DEVNULL, cwd=ROOT
    )
    wait_for(runs / "0002" / "events.jsonl", '"step":13,')
    process.kill()
    process.wait()
    assert run(workspace, "runs", "starter")["runs"][-1]["state"] == "killed"

    subprocess.run(command(workspace, "train", "starter", "--resume", "2"), capture_output=True, cwd=ROOT, check=True)
    one, two = (runs / n / "adapter" / "adapter_model.safetensors" for n in ("0001", "0002"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_detached_run_survives_its_terminal(workspace: Path) -> None:
    """Started in a session that is then hung up; followed from another."""
    starter = command(
        workspace, "train", "starter", "--detach", "--json", "--set", "train.steps=8", "--set", "train.evaluate_every=0"
    )
    parent = subprocess.Popen(starter, stdout=subprocess.PIPE, start_new_session=True, text=True, cwd=ROOT)
    assert parent.stdout is not None
    told = json.loads(parent.stdout.read())
    assert told["job"] == "starter/0001" and told["path"].endswith("projects/starter/runs/0001") and told["pid"] > 0
    parent.wait(60)
    with_signal = os.getpgid(0)
    assert with_signal != parent.pid
    watched = subprocess.run(
        command(workspace, "watch", "starter/1", "--json"), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert watched.returncode == 0, watched.stderr
    kinds = [json.loads(line)["kind"] for line in watched.stdout.splitlines()]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert kinds.count("step") == 8


@pytest.mark.slow
def test_a_full_disk_says_so(workspace: Path) -> None:
    """A file-size limit of the process stands for the disk that fills up while a checkpoint is written."""
    limited = ["bash", "-c", 'ulimit -f 512; trap "" XFSZ; exec "$@"', "bash"]
    settings = [
        part for s in ("train.steps=6", "train.save_every=2", "train.evaluate_every=0") for part in ("--set", s)
    ]
    done = subprocess.run(
        [*limited, *command(workspace, "train", "starter", *settings)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((workspace / "projects" / "starter" / "runs" / "0001" / "checkpoints").glob("step-*"))
