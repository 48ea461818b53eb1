"""`train` in several processes, from its first line to its end: stopped, lost, resumed, started by others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from engine import events
from engine.store import Run
from tests.engine.commandline import ROOT, Call, document, subprocess_of, write_project
from tests.engine.ranking import MINUTE, STEPS, run_to_be, said, stand_in_tools, wait_for


@pytest.fixture
def demo(call: Call, base_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A project for two processes; returns its run to be."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return run_to_be("demo", base_of("llama"))


@pytest.fixture(params=["data", "fsdp"])
def training(demo: Run, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A training of two processes that has written its first checkpoint."""
    write_project("demo", f'{Path("projects/demo/project.toml").read_text()}strategy = "{request.param}"\n')
    process = subprocess_of("train", "demo", stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: said(demo, events.Saved) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.communicate()


def rank(training: subprocess.Popen[str], number: int) -> psutil.Process:
    children = psutil.Process(training.pid).children()
    return next(c for c in children if c.environ()["RANK"] == str(number))


def check_resumed(demo: Run, *options: str) -> None:
    """The run goes on from its newest checkpoint, to its end."""
    newest = max(e.step for e in said(demo, events.Saved))
    process = subprocess_of("train", "demo", "--resume", "1", *options)
    out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    assert said(demo, events.Started)[-1].resumed_from_step == newest
    assert [e.step for e in said(demo, events.Step)][-(STEPS - newest) :] == list(range(newest + 1, STEPS + 1))
    assert demo.state().state == "done" and (demo.adapter / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 0])
def test_a_rank_that_is_killed_ends_the_run_within_a_minute(
    training: subprocess.Popen[str], demo: Run, number: int
) -> None:
    other = rank(training, 1 - number)
    rank(training, number).kill()
    begun = time.time()
    _, err = training.communicate(timeout=2 * MINUTE)
    assert training.returncode == 1
    failed = said(demo, events.Failed)
    assert len(failed) == 1 and failed[0].t - begun < MINUTE
    assert f"rank {number}" in failed[0].problem and "--resume 1" in failed[0].remedy
    assert f"rank {number}" in err
    assert demo.state().state == "failed" and not other.is_running()
    check_resumed(demo)


@pytest.mark.slow
def test_a_rank_that_does_not_answer_ends_the_run_within_a_minute(training: subprocess.Popen[str], demo: Run) -> None:
    """It is not dead, and its connections are open: as if its machine were cut off."""
    rank(training, 1).send_signal(signal.SIGSTOP)
    begun = time.time()
    training.communicate(timeout=2 * MINUTE)
    (failed,) = said(demo, events.Failed)
    assert failed.t - begun < MINUTE
    assert failed.problem.startswith("rank 1 is lost: nothing was heard of it for ")
    assert training.returncode == 1 and demo.state().state == "failed"


@pytest.mark.slow
def test_a_stop_reaches_all_ranks_and_the_run_goes_on_in_one_process(
    training: subprocess.Popen[str], demo: Run
) -> None:
    training.send_signal(signal.SIGTERM)
    out, err = training.communicate(timeout=MINUTE)
    assert training.returncode == 130, (out, err)
    assert demo.state().state == "stopped" and "the checkpoint is written" in err
    assert said(demo, events.Saved)[-1].step == said(demo, events.Step)[-1].step
    check_resumed(demo, "--set", "launch.processes=1")


@pytest.mark.slow
def test_the_batch_file_trains(demo: Run, tmp_path: Path) -> None:
    """Run as Slurm would on one machine: `srun` and `scontrol` are stand-ins, torchrun and the training are not."""
    made = subprocess_of("launch-script", "demo", "--slurm", "--json", "--set", "train.steps=4")
    out, _ = made.communicate()
    stand_in_tools(tmp_path / "tools", "localhost", "other")
    given = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost,other"}
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path / 'tools'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", json.loads(out)["file"]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert demo.state().state == "done" and len(said(demo, events.Step)) == 4
    assert any(e.text == "2 processes train together (gloo)" for e in said(demo, events.Note))


def test_the_batch_file_says_what_launch_asks_for(demo: Run, call: Call) -> None:
    more = ["--set", "launch.machines=3", "--set", "launch.processes=8", "--set", "launch.device=cuda"]
    found = document(call("launch-script", "demo", "--slurm", "--json", *more))
    assert (found["processes"], found["machines"], found["submit"]) == (8, 3, f"sbatch {found['file']}")
    text = Path(found["file"]).read_text()
    assert text.startswith("#!/bin/bash\n")
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert asked == [
        "--job-name=lora-demo",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--cpus-per-task=8",
        f"--chdir={Path.cwd()}",
        "--output=lora-%j.log",
    ]
    assert f"srun --kill-on-bad-exit=1 {sys.executable} -m torch.distributed.run" in text
    assert '--nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node=8 --max-restarts=0' in text
    assert '--rdzv-backend=c10d --rdzv-endpoint="$head_node:$port"' in text
    assert f'--workspace {Path.cwd()} train {Path.cwd()}/projects/demo "$@"' in text
    assert "|| set -- --set launch.machines=3 --set launch.processes=8" in text  # a resumed run has them already
    assert subprocess.run(["bash", "-n", found["file"]], check=False).returncode == 0
    assert (
        "--gpus-per-node" not in Path(document(call("launch-script", "demo", "--slurm", "--json"))["file"]).read_text()
    )


def test_what_cannot_be_started_is_said(demo: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = call("train", "demo", "--set", "launch.machines=2")
    assert code == 2 and "launch.machines = 2" in err and "launch-script demo --slurm" in err
    code, _, err = call("launch-script", "demo")
    assert code == 2 and "--slurm" in err
    code, _, err = call("train", "demo", "--resume", "1", "--set", "launch.processes=1", "--set", "train.seed=3")
    assert code == 2 and "a run goes on as it began" in err
    code, _, err = call("train", "demo", "--set", "launch.strategy=fsdp", "--set", "model.quantization=int8")
    assert code == 2 and "cannot divide int8 weights" in err
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call("train", "demo")
    assert code == 2 and "names no rank" in err
