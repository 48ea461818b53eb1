"""Starting, stopping and deleting: what is refused and in which words, which process is asked to stop, where errors go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import events
from engine.errors import InputError, WorkFailed
from engine.store import Run, process_start
from tests.workbench.conftest import PROJECT, started, steps, write_run
from workbench.jobs import launch

WAITS = "import signal,sys,time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint(1, flush=True)\ntime.sleep(60)"


@pytest.fixture
def process() -> Iterator[subprocess.Popen]:
    """A process that leaves with 7 when it is asked to stop."""
    made = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE)
    assert made.stdout is not None
    made.stdout.readline()
    yield made
    made.kill()
    made.wait()
    made.stdout.close()


def test_mistakes_are_told_with_their_places(workspace: Path) -> None:
    assert launch.check(workspace, "demo") == []
    (workspace / "projects" / "demo" / "project.toml").write_text(PROJECT.replace("r = 8", "r = 0\nrnk = 4"))
    wrong = launch.check(workspace, "demo")
    assert [(w.line, w.column) for w in wrong] == [(7, 1), (8, 1)]
    assert "`lora.r` is 0" in wrong[0].text and "unknown key `lora.rnk`" in wrong[1].text
    with pytest.raises(InputError, match="no project 'dmo'"):
        launch.check(workspace, "dmo")


def test_a_new_run_has_the_resolved_project_file(workspace: Path) -> None:
    write_run(workspace, "demo/0004", [])
    label = launch.new_run(workspace, "demo")
    assert label == "demo/0005"
    text = (workspace / "projects" / "demo" / "runs" / "0005" / "project.toml").read_text()
    assert "r = 8" in text and "learning_rate" in text


def test_stopping_asks_the_process_of_the_newest_start(workspace: Path, process: subprocess.Popen) -> None:
    said = [started(os.getpid(), 1.0), *steps(2), started(process.pid, process_start(process.pid)), *steps(1, first=3)]
    write_run(workspace, "demo/0001", said)
    assert launch.running_process(workspace, "demo/0001") == process.pid
    with pytest.raises(InputError, match="another process by now"):
        launch.stop(workspace, "demo/0001", pid=os.getpid())
    assert launch.stop(workspace, "demo/0001", pid=process.pid) == process.pid
    assert process.wait(10) == 7
    with pytest.raises(InputError, match="does not run: it is killed"):
        launch.stop(workspace, "demo/0001")
    assert launch.running_process(workspace, "demo/0001") is None


def test_a_number_that_another_process_has_by_now_is_left_alone(workspace: Path, process: subprocess.Popen) -> None:
    write_run(workspace, "demo/0001", [started(process.pid, process_start(process.pid) - 500), *steps(2)])
    with pytest.raises(InputError, match="does not run"):
        launch.stop(workspace, "demo/0001")
    assert process.poll() is None


def test_what_cannot_be_stopped_resumed_or_deleted_says_why(workspace: Path, process: subprocess.Popen) -> None:
    write_run(workspace, "demo/0001", [])
    with pytest.raises(InputError, match="has not said its first word yet"):
        launch.stop(workspace, "demo/0001")
    write_run(workspace, "demo/0002", [started(), events.Finished(reason="done")])
    with pytest.raises(InputError, match="is done"):
        launch.launch(workspace, "demo/0002")
    write_run(workspace, "demo/0003", [started(process.pid, process_start(process.pid))])
    for act in (launch.launch, launch.delete):
        with pytest.raises(InputError, match="is running"):
            act(workspace, "demo/0003")
    with pytest.raises(InputError, match="no run 0009"):
        launch.delete(workspace, "demo/0009")


def test_a_deleted_run_is_in_the_trash(workspace: Path) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(2)])
    gone = launch.delete(workspace, "demo/0001")
    assert not folder.exists()
    assert gone.parent == workspace / ".trash"
    assert len(events.read(gone / "events.jsonl")[0]) == 3


def test_the_engine_is_ours_whatever_the_workspace_holds(workspace: Path) -> None:
    (workspace / "engine").mkdir()
    (workspace / "engine" / "__init__.py").write_text("raise SystemExit('a decoy')")
    script = "import engine, sys; print(engine.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=workspace,
        env=launch.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()) == Path(launch.engine.__file__).resolve()
    done = subprocess.run(
        [sys.executable, "-m", "engine", "--version"], cwd=workspace, env=launch.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "loraworkbench" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_run_that_cannot_begin_says_why(workspace: Path) -> None:
    """The real engine: its base does not exist."""
    file = workspace / "projects" / "demo" / "project.toml"
    file.write_text('[model]\nbase = "data/nothing-here"\n' + PROJECT)
    label = launch.new_run(workspace, "demo")
    said = ""
    try:
        launch.launch(workspace, label)  # its first word may come before it fails
    except WorkFailed as error:
        said = str(error)
    run = Run(workspace / "projects" / "demo" / "runs" / "0001")
    end = time.monotonic() + 60
    while run.state().state == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert run.state().state in ("failed", "empty")
    assert "nothing-here" in f"{said} {run.state().problem} {run.log.read_text()}"


@pytest.mark.slow
def test_a_started_run_survives_us_and_stops_when_asked(tmp_path: Path) -> None:
    """The real engine on the starter: started by a process that is killed, stopped after a step, resumable."""
    from engine.store import shipped

    root = tmp_path / "workspace"
    folder = root / "projects" / "starter"
    folder.mkdir(parents=True)
    (root / "data").mkdir()
    (root / "data" / "starter").symlink_to(shipped("data/starter"))
    (root / "data" / "word_problems").symlink_to(shipped("data/word_problems"))
    text = shipped("projects/starter").joinpath("project.toml").read_text()
    (folder / "project.toml").write_text(
        text.replace("steps = 150", "steps = 400").replace("per_step = 16", "per_step = 2")
    )
    script = (
        "import os, signal, sys; from pathlib import Path; from workbench.jobs import launch; root = Path(sys.argv[1]);"
        "launch.launch(root, launch.new_run(root, 'starter')); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(root)], env=launch.environment(), check=False)
    assert done.returncode == -signal.SIGKILL
    run = Run(folder / "runs" / "0001")
    end = time.monotonic() + 120
    while run.state().step is None and time.monotonic() < end:
        time.sleep(0.1)
    assert run.state().state == "running"
    launch.stop(root, "starter/0001")
    while run.state().state == "running" and time.monotonic() < end:
        time.sleep(0.1)
    assert run.state().state == "stopped"
    assert list(run.checkpoints.glob("step-*/state.json"))
