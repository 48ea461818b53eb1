"""Job folders: `eval` and `merge` in one, followed, stopped, listed; what a stop leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from engine import events, store
from engine.errors import InputError, Stopped, WorkFailed
from engine.jobs import job as jobs
from engine.verbs.detaching import options
from tests.engine.commandline import Call, document, finished, log_of, pairs, write_project, write_rows

PROJECT = """\
[model]
base = "{base}"
quantization = "none"
dtype = "float32"
[data]
train = "data/rows.jsonl"
test_fraction = 0.25
[eval]
bootstrap = 100
exact_match = "last_number"
[generate]
max_new_tokens = 4
[launch]
device = "cpu"
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    from tests.engine import tiny

    made = get_peft_model(
        tiny.tiny_model("llama"), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    made.save_pretrained(str(folder := tmp_path_factory.mktemp("adapter")))
    return folder


@pytest.fixture
def project(call: Call, base_of: Any, adapter: Path) -> store.ProjectFolder:
    """A project on a tiny base, 16 rows, one run with an adapter."""
    write_rows(Path("data/rows.jsonl"), pairs(16))
    write_project("p", PROJECT.format(base=base_of()))
    shutil.copytree(adapter, "projects/p/runs/0001/adapter")
    return store.Workspace(Path.cwd()).project("p")


def said(job: store.Job) -> list[events.AnyEvent]:
    return events.read(job.events)[0]


def test_job_folders_are_numbered_and_named(tmp_path: Path) -> None:
    (tmp_path / "projects" / "p").mkdir(parents=True)
    (tmp_path / "projects" / "p" / "project.toml").write_text("")
    workspace = store.Workspace(tmp_path)
    folder = workspace.project("p")
    assert folder.jobs() == []
    first, second = folder.new_job("eval", ["--split=test"]), folder.new_job("merge", [])
    assert [j.label for j in folder.jobs()] == ["p/jobs/0001", "p/jobs/0002"] == [first.label, second.label]
    assert first.ordered() == ("eval", ["--split=test"]) and first.state().state == "empty"
    assert isinstance(workspace.followed("p/jobs/2"), store.Job)
    assert workspace.followed(str(second.path)).label == second.label
    assert isinstance(workspace.followed(str(folder.new_run().path)), store.Run)
    for name in ("p/jobs/7", "p/jobs/x", "q/jobs/1"):
        with pytest.raises(InputError):
            workspace.followed(name)
    second.order.write_text("[1]")
    assert second.ordered() == ("", [])
    with first.lock(), pytest.raises(WorkFailed, match="working in this job"), store.Job(first.path).lock():
        pass


def test_options_survive_what_begins_with_a_dash() -> None:
    given = options(("--weight", [-1.0, 0.5]), ("--out", None), ("--set", ["a.b=-c d"]))
    assert given == ["--weight=-1.0", "--weight=0.5", "--set=a.b=-c d"]


def test_eval_in_a_job_folder(call: Call, project: store.ProjectFolder) -> None:
    job = project.new_job("eval", [])
    outcome = call("eval", "p", "--adapter", "1", f"--job={int(job.path.name)}")
    assert outcome[0] == 0, outcome
    found = said(job)
    assert isinstance(found[0], events.Started) and found[0].verb == "eval"
    assert isinstance(found[-1], events.Finished) and found[-1].reason == "done"
    assert [e.seq for e in found] == list(range(len(found)))
    assert any(isinstance(e, events.Stage) and e.name.startswith("perplexity of p-0001") for e in found)
    saved = [e for e in found if isinstance(e, events.Saved)]
    result = json.loads(job.result.read_text())
    assert result == json.loads(Path("projects/p/runs/0001/evaluation.json").read_text())
    assert [s.what for s in saved] == ["evaluation"] and {r["model"] for r in result["rows"]} == {"base", "p-0001"}
    assert call("watch", "p/jobs/1")[0] == 0
    listed = document(call("runs", "p", "--jobs", "--json"))["jobs"]
    assert [(j["job"], j["state"], j["verb"]) for j in listed] == [("p/jobs/0001", "done", "eval")]


def test_the_base_alone_where_there_is_an_adapter(call: Call, project: store.ProjectFolder) -> None:
    code, out, _ = call("eval", "p", "--base-only", "--split=test", "--json")
    assert code == 0 and {r["model"] for r in json.loads(out)["rows"]} == {"base"}
    assert Path("projects/p/runs/evaluation.json").is_file()
    for more in (["--adapter=1"], ["--no-base"]):
        code, _, err = call("eval", "p", "--base-only", *more)
        assert code == 2 and "--base-only goes with neither" in err


def test_a_stopped_evaluation_writes_nothing(
    call: Call, project: store.ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.evaluation import matrix

    real = matrix.evaluate

    def interrupted(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **more)

    monkeypatch.setattr(matrix, "evaluate", interrupted)
    job = project.new_job("eval", [])
    code, _, err = call("eval", "p", "--job=1")
    assert code == 130 and "nothing was written" in err
    last = said(job)[-1]
    assert isinstance(last, events.Finished) and last.reason == "stopped" and job.state().state == "stopped"
    assert not job.result.exists() and not list(Path("projects/p").rglob("evaluation.json"))
    assert call("watch", "p/jobs/1")[0] == 130


@pytest.mark.parametrize("stage", ["merge", "verify the merge"])
def test_a_stopped_merge_leaves_nothing(
    call: Call, project: store.ProjectFolder, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    real = jobs.until_stopped

    def pressing(emit: Any, stop: Any, words: str) -> Any:
        speak = real(emit, stop, words)

        def told(event: events.Event) -> None:
            if isinstance(event, events.Stage) and event.name == stage:
                os.kill(os.getpid(), signal.SIGTERM)
            speak(event)

        return told

    job = project.new_job("merge", [])
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "until_stopped", pressing)
        assert call("merge", "p", "--adapter", "1", "--weight", "0.5", "--job=1")[0] == 130
    assert job.state().state == "stopped" and not job.result.exists()
    assert not any(Path("projects/p/merged").iterdir())
    other = project.new_job("merge", [])
    assert call("merge", "p", "--adapter", "1", "--weight", "0.5", "--job=2")[0] == 0
    result = json.loads(other.result.read_text())
    assert result["verification"]["holds"] and (Path(result["out"]) / "config.json").is_file()
    assert [p.name for p in Path("projects/p/merged").iterdir()] == [Path(result["out"]).name]


def test_a_failed_job_keeps_its_traceback(call: Call, project: store.ProjectFolder) -> None:
    job = project.new_job("merge", [])
    (target := Path("projects/p/merged/p-0001")).mkdir(parents=True)
    assert call("merge", "p", "--job=1")[0] == 2
    state = job.state()
    assert state.state == "failed" and state.problem == "already exists" and "InputError" in job.log.read_text()
    assert list(target.iterdir()) == []


def test_ties_takes_a_density(call: Call, project: store.ProjectFolder) -> None:
    shutil.copytree("projects/p/runs/0001", "projects/p/runs/0002")
    both = ["--adapter", "1", "--adapter", "2", "--method", "ties"]
    assert "needs a density" in call("merge", "p", *both)[2]
    assert call("merge", "p", *both, "--density", "0.5")[0] == 0


def test_a_stop_lets_news_of_what_is_complete_through() -> None:
    stop, heard = jobs.StopRequest(), []
    emit = jobs.until_stopped(heard.append, stop, "over")
    emit(events.Stage(name="a", done=0))
    stop.asked = True
    emit(events.Saved(what="merged model", path="x", bytes=1))
    with pytest.raises(Stopped, match="over"):
        emit(events.Stage(name="a", done=1))
    assert [type(e) for e in heard] == [events.Stage, events.Saved]


def test_watch_of_a_killed_job_says_how_to_go_on(call: Call) -> None:
    write_project("p", "")
    job = store.Workspace(Path.cwd()).project("p").new_job("merge", [])
    log_of(job.path, pid=2**22 + 1)
    code, _, err = call("watch", "p/jobs/1")
    assert code == 1 and "loraworkbench merge p --detach" in err
    log_of(job.path, finished("done"))
    assert call("watch", "p/jobs/1")[0] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.optimizer=paged_adamw_8bit"], "needs a GPU"),
        (["lora.dora=true", "model.quantization=int8"], "does not work on an int8 base"),
    ],
)
def test_what_needs_a_gpu_is_refused_before_anything_is_read(
    call: Call, project: store.ProjectFolder, settings: list[str], said: str
) -> None:
    given = [part for each in settings for part in ("--set", each)]
    found = document(call("check", "p", *given, "--json"), 2)
    assert [each["problem"] for each in found["problems"] if said in each["problem"]]
    code, out, err = call("train", "p", *given)
    assert code == 2 and said in err and "rows" not in out


def stages(project: store.ProjectFolder) -> list[str]:
    """The stages of the newest run, once each, as they end."""
    told = events.read(project.runs()[-1].events)[0]
    return [e.name.split(" ")[0] for e in told if isinstance(e, events.Stage) and e.done == e.total]


def test_too_many_broken_rows_are_refused_before_the_base_is_loaded(call: Call, project: store.ProjectFolder) -> None:
    write_rows(Path("data/rows.jsonl"), [*pairs(16), "{broken\n", "{broken\n"])
    code, _, err = call("train", "p")
    assert code == 2 and "2 of 14 rows cannot be used" in err and "rows.jsonl:17" in err
    assert stages(project) == ["read"]


def test_rows_are_tokenised_once_and_a_next_run_finds_them(call: Call, project: store.ProjectFolder) -> None:
    """The first time beside the loading of the base, where that can be, with the same training."""
    trained = []
    for expected in (["read", "load", "tokenise", "tokenise"], ["read", "load"]):
        assert call("train", "p", "--set", "train.steps=2", "--set", "train.save_every=0")[0] == 0
        told = stages(project)
        assert told[: len(expected)] == expected and told.count("tokenise") == expected.count("tokenise")
        run = project.runs()[-1]
        ledger = (run.path / "ledger.json").read_bytes()
        trained.append((ledger, (run.adapter / "adapter_model.safetensors").read_bytes()))
    assert trained[0] == trained[1]


def test_a_row_that_is_too_long_is_named_though_a_copy_met_it_first(call: Call, project: store.ProjectFolder) -> None:
    write_rows(Path("data/rows.jsonl"), [*pairs(16), {"question": "a " * 50, "answer": "b"}])
    code, _, err = call("train", "p", "--set", "train.max_length=60", "--set", "train.overlong=stop")
    assert code == 2 and "rows.jsonl:17" in err and "raise train.max_length" in err


def test_the_adapter_that_early_stopping_keeps_is_said_to_be_the_best(call: Call, project: store.ProjectFolder) -> None:
    settings = ["train.steps=20", "train.evaluate_every=1", "train.early_stopping=1", "train.learning_rate=0.5"]
    settings += ["train.examples_per_step=4", "train.save_every=1", "train.schedule=constant"]
    code, out, _ = call("train", "p", *(part for each in settings for part in ("--set", each)))
    run = project.runs()[-1]
    told = events.read(run.events)[0]
    measured = {e.step: e.nll for e in told if isinstance(e, events.Scored)}
    best = min(measured, key=lambda step: measured[step])
    assert code == 0 and best != max(measured)  # or there is nothing to go back from
    assert [e.step for e in told if isinstance(e, events.Saved) and e.what == "adapter"] == [best]
    assert f"the adapter is that of step {best}, where the unseen loss was lowest" in out
    assert f"- {best} steps," in (run.adapter / "README.md").read_text(encoding="utf-8")
    name = "adapter_model.safetensors"
    (kept,) = run.checkpoints.glob(f"*{best:06d}/**/{name}")
    assert (run.adapter / name).read_bytes() == kept.read_bytes()
