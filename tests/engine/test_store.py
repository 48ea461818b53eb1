"""The workspace on disk: found from anywhere, runs that never collide, states that say what happened."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import events, store
from engine.errors import InputError, WorkFailed
from engine.store import ProjectFolder, Run, Workspace


def add_project(root: Path, name: str, text: str = "") -> ProjectFolder:
    folder = root / "projects" / name
    folder.mkdir(parents=True)
    (folder / "project.toml").write_text(text)
    return ProjectFolder(folder, root)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """With two projects; the current folder is inside it."""
    monkeypatch.delenv(store.WORKSPACE_VARIABLE, raising=False)
    add_project(tmp_path, "starter", "[train]\nepochs = 2.0\n")
    add_project(tmp_path, "support-desk")
    (tmp_path / "projects" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


# --- finding


def test_a_workspace_is_found_upward(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = workspace.root / "projects" / "starter" / "runs" / "0001"
    deep.mkdir(parents=True)
    for folder in (workspace.root, workspace.root / "projects", deep):
        monkeypatch.chdir(folder)
        assert Workspace.find().root == workspace.root


def test_what_is_given_goes_before_the_environment_and_that_before_the_current_folder(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, given = tmp_path_factory.mktemp("named"), tmp_path_factory.mktemp("given")
    monkeypatch.setenv(store.WORKSPACE_VARIABLE, str(named))
    assert Workspace.find().root == named
    assert Workspace.find(given).root == given
    monkeypatch.setenv(store.WORKSPACE_VARIABLE, "")
    assert Workspace.find().root == workspace.root


def test_no_workspace_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(store.WORKSPACE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not inside a workspace") as caught:
        Workspace.find()
    assert caught.value.where == str(tmp_path)
    assert "loraworkbench new" in (caught.value.remedy or "")
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(InputError, match="no such folder"):
            Workspace.find(wrong)


def test_projects_are_folders_with_a_project_file(workspace: Workspace) -> None:
    assert [p.name for p in workspace.projects()] == ["starter", "support-desk"]
    assert workspace.projects()[0].load().train.epochs == 2.0
    assert workspace.projects()[0].load(["train.epochs=5"]).train.epochs == 5.0
    assert Workspace(workspace.root / "data").projects() == []


@pytest.mark.parametrize(
    "name", ["starter", "projects/starter", "projects/starter/project.toml", "{root}/projects/starter"]
)
def test_a_project_by_name_folder_or_file(workspace: Workspace, name: str) -> None:
    found = workspace.project(name.format(root=workspace.root))
    assert (found.name, found.workspace) == ("starter", workspace.root)


def test_a_project_outside_keeps_the_workspace(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = add_project(tmp_path_factory.mktemp("other"), "elsewhere")
    assert workspace.project(str(other.path)).workspace == workspace.root


def test_an_unknown_project_is_answered_with_the_nearest(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no project 'startr'") as caught:
        workspace.project("startr")
    assert caught.value.remedy == "did you mean `starter`?"
    with pytest.raises(InputError) as caught:
        workspace.project("xyz")
    assert caught.value.remedy == "projects here: starter, support-desk"
    with pytest.raises(InputError) as caught:
        Workspace(workspace.root / "data").project("xyz")
    assert caught.value.remedy == "projects here: none"


def test_paths_of_the_project_file(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert workspace.resolve("data/x.jsonl") == workspace.root / "data/x.jsonl"
    assert workspace.resolve("/data/x.jsonl") == Path("/data/x.jsonl")
    assert workspace.resolve("~/x.jsonl") == Path("/home/someone/x.jsonl")
    assert workspace.resolve("~nobody-of-this-name/x") == workspace.root / "~nobody-of-this-name/x"


def test_what_is_shipped_is_found() -> None:
    assert (store.shipped("engine") / "store.py").is_file()
    with pytest.raises(InputError, match="data/other does not come with this installation"):
        store.shipped("data/other")


def test_what_is_shipped_is_found_in_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the user's own, which `pip install --user` makes."""
    (tmp_path / "share" / "loraworkbench" / "data" / "thing").mkdir(parents=True)
    for scheme in (store.sysconfig.get_default_scheme(), store.sysconfig.get_preferred_scheme("user")):

        def path_of(name: str, asked: str, here: str = scheme) -> str:
            return str(tmp_path if asked == here else tmp_path / "empty")

        with monkeypatch.context() as installed:
            installed.setattr(store.sysconfig, "get_path", path_of)
            assert store.shipped("data/thing") == tmp_path / "share" / "loraworkbench" / "data" / "thing"


# --- runs


def test_runs_are_numbered_and_found(workspace: Workspace) -> None:
    project = workspace.project("starter")
    assert project.runs() == []
    made = [project.new_run() for _ in range(3)]
    assert [r.label for r in made] == ["starter/0001", "starter/0002", "starter/0003"]
    (project.runs_folder / "notes").mkdir()
    (project.runs_folder / "0009").write_text("a file")
    (project.runs_folder / "²").mkdir()  # a digit to Python, and no number
    assert [r.path for r in project.runs()] == [r.path for r in made]
    for name in ("starter/2", "starter/0002", "starter-0002", "projects/starter/2", str(made[1].path)):
        assert workspace.run(name).path == made[1].path, name
    assert workspace.run("starter").path == made[2].path
    assert project.run(1).path == project.run("0001").path == made[0].path


def test_runs_are_ordered_by_number_past_four_digits(workspace: Workspace) -> None:
    project = workspace.project("starter")
    for name in ("9999", "10000", "0001"):
        (project.runs_folder / name).mkdir(parents=True)
    assert [r.path.name for r in project.runs()] == ["0001", "9999", "10000"]
    assert project.new_run().path.name == "10001"


@pytest.mark.parametrize("number", ["7", "abc", "-1", "²", ""])
def test_an_unknown_run_is_answered_with_those_there_are(workspace: Workspace, number: str) -> None:
    project = workspace.project("starter")
    with pytest.raises(InputError, match="none yet"):
        project.run(number)
    project.new_run()
    with pytest.raises(InputError, match=r"in project starter \(runs: 0001\)"):
        project.run(number)


def test_the_newest_of_no_runs(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no runs yet") as caught:
        workspace.run("starter")
    assert caught.value.remedy == "`loraworkbench train starter` makes one"
    with pytest.raises(InputError, match="no project 'startr'"):
        workspace.run("startr/1")


MAKE_RUNS = """
import sys
from pathlib import Path
from engine.store import ProjectFolder
project = ProjectFolder(Path(sys.argv[1]), Path(sys.argv[2]))
sys.stdin.readline()
print(*(project.new_run().path.name for _ in range(20)))
"""


def test_processes_that_start_at_once_get_runs_of_their_own(workspace: Workspace) -> None:
    project = workspace.project("starter")
    arguments = [sys.executable, "-c", MAKE_RUNS, str(project.path), str(workspace.root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[1])}
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 60
    assert [r.path.name for r in project.runs()] == sorted(names)


def test_threads_that_start_at_once_get_runs_of_their_own(workspace: Workspace) -> None:
    project, made = workspace.project("starter"), []
    barrier = threading.Barrier(8)

    def make() -> None:
        barrier.wait()
        made.extend(project.new_run().path for _ in range(10))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == 80


def test_a_run_that_cannot_be_made_is_said(workspace: Workspace) -> None:
    project = workspace.project("starter")
    project.runs_folder.write_text("a file where the folder should be")
    with pytest.raises(WorkFailed, match="cannot write"):
        project.new_run()


# --- states


def started(**values: Any) -> events.Started:
    pid = os.getpid()
    given = {
        "verb": "train",
        "pid": pid,
        "pid_started": store.process_start(pid),
        "project": "starter",
        "device": "CPU",
    }
    return events.Started(**{**given, **values})


def step(number: int, loss: float = 2.0) -> events.Step:
    return events.Step(
        step=number, steps=10, loss=loss, learning_rate=1e-4, gradient_norm=1.0, tokens=1, supervised_tokens=1,
        seconds=1.0, tokens_per_second=1.0, memory_bytes=0, epoch=0.1,
    )  # fmt: skip


@pytest.fixture
def state_of(tmp_path: Path) -> Callable[..., store.RunState]:
    """The state of a run that said these events."""

    def fold(*said: events.Event, torn: bytes = b"") -> store.RunState:
        run = Run(tmp_path / "starter" / "runs" / "0001")
        run.events.unlink(missing_ok=True)
        log = events.EventLog(run.events)
        for event in said:
            log(event)
        with run.events.open("ab") as file:
            file.write(torn)
        return run.state()

    return fold


def test_a_run_without_events_is_empty(tmp_path: Path, state_of: Callable[..., store.RunState]) -> None:
    assert Run(tmp_path).state() == store.RunState("empty")
    assert state_of() == store.RunState("empty")
    assert state_of(torn=b'{"kind":"started"') == store.RunState("empty")


def test_states_of_a_run(state_of: Callable[..., store.RunState]) -> None:
    gone = started(pid_started=store.process_start(os.getpid()) - 1000.0)  # another process had our number before us
    assert state_of(started()).state == "running"
    assert state_of(gone).state == "killed"
    assert state_of(gone, step(1), torn=b'{"kind":"finished","re').state == "killed"
    assert state_of(started(), events.Finished(reason="done")).state == "done"
    assert state_of(gone, events.Finished(reason="early stopping")).state == "done"
    assert state_of(started(), step(3), events.Finished(reason="stopped")).state == "stopped"
    failed = state_of(started(), events.Failed(problem="the disk is full"))
    assert (failed.state, failed.problem) == ("failed", "the disk is full")


def test_a_state_tells_the_last_step(state_of: Callable[..., store.RunState]) -> None:
    state = state_of(started(), step(1, 3.0), step(2, 1.25), events.Note(text="saved"))
    assert (state.verb, state.step, state.steps, state.loss) == ("train", 2, 10, 1.25)
    assert state.started is not None
    assert state.seen is not None
    assert state.started <= state.seen
    assert state_of(started(resumed_from_step=2)).step is None


def test_a_resumed_run_is_what_its_last_process_is(state_of: Callable[..., store.RunState]) -> None:
    before = (started(pid_started=1.0), step(1), events.Finished(reason="stopped"))
    assert state_of(*before, started()).state == "running"
    assert state_of(*before, started(pid_started=1.0)).state == "killed"
    assert state_of(*before, started(), events.Finished(reason="done")).state == "done"
    assert state_of(*before, started()).step == 1


@pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1, 10**30])
def test_a_number_that_is_no_process(pid: int) -> None:
    assert not store.process_lives(pid, 1.0)


def test_a_process_that_ended_does_not_live() -> None:
    """Nor does a zombie, which has ended but was not waited for."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = store.process_start(process.pid)
    assert store.process_lives(process.pid, began)
    assert process.stdin
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not store.process_lives(process.pid, began)
    process.wait()
    assert not store.process_lives(process.pid, began)
    assert store.process_start(process.pid) == 0.0


# --- locks


HOLD = """
import sys
from pathlib import Path
from engine.store import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_one_process_works_in_a_run(workspace: Workspace) -> None:
    run = workspace.project("starter").new_run()
    environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[1])}
    arguments = [sys.executable, "-c", HOLD, str(run.path)]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert other.stdout
    assert other.stdout.readline() == "held\n"
    with pytest.raises(WorkFailed, match="another process is working in this run") as caught, run.lock():
        pytest.fail("two hold the lock")
    assert caught.value.where == str(run.path)
    assert caught.value.remedy == "follow it with `loraworkbench watch starter/0001`"
    other.kill()
    other.communicate()
    with run.lock():  # the lock of a killed process is free
        pass
    with run.lock():
        pass


def test_a_lock_is_free_after_a_failure(workspace: Workspace) -> None:
    run = workspace.project("starter").new_run()
    with pytest.raises(ZeroDivisionError), run.lock():
        _ = 1 / 0
    with run.lock(), pytest.raises(WorkFailed), run.lock():
        pytest.fail("two hold the lock")
