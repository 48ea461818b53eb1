"""The command line: what each verb prints and returns, with which exit code, and that light verbs stay light."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import __main__, __version__, events, spec
from engine.store import Workspace, process_start
from engine.verbs import watch
from tests.engine import tiny

ROOT = Path(__file__).resolve().parents[2]
VERBS = [
    "quickstart",
    "new",
    "check",
    "rows",
    "train",
    "eval",
    "generate",
    "merge",
    "adapters",
    "runs",
    "watch",
    "doctor",
]

Outcome = tuple[int, str, str]
Call = Callable[..., Outcome]


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


def document(outcome: Outcome, code: int = 0) -> Any:
    """The one JSON document of a call that ended with `code`."""
    assert outcome[0] == code, outcome
    return json.loads(outcome[1])


def subprocess_of(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "engine", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **{**pipes, **options})


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def pairs(count: int) -> list[dict[str, str]]:
    return [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}. #### {2 * n}"} for n in range(count)]


def write_project(name: str, text: str) -> Path:
    """projects/NAME/project.toml in the current folder."""
    file = Path("projects") / name / "project.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tokenizer_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without weights: what `check` and `rows` need."""
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


# --- the frame


def test_no_arguments_show_help(call: Call) -> None:
    code, out, _ = call()
    assert code == 0 and all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0 and "--json" in out and "--workspace" in out
    assert ("--set" in out) == (verb in ["check", "rows", "train", "eval", "generate", "merge"])


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"loraworkbench {__version__}\n", "")


def test_a_command_line_that_is_not_understood_is_bad_input(call: Call) -> None:
    code, out, err = call("trian")
    assert code == 2 and out == "" and "train" in err
    assert call("runs", "--nonsense")[0] == 2
    assert "Missing argument" in document(call("check", "--json"), 2)["error"]["problem"]


def test_the_workspace_before_or_after_the_verb(call: Call, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "projects").mkdir(parents=True)
    write_rows(other / "rows.jsonl", pairs(2))
    for at, arguments in enumerate((["--workspace", str(other), "new"], ["new", "--workspace", str(other)])):
        assert call(*arguments, f"p{at}", "--data", "rows.jsonl")[0] == 0
        assert (other / "projects" / f"p{at}" / "project.toml").is_file()
    assert "no such folder" in document(call("--workspace", "nowhere", "runs", "--json"), 2)["error"]["problem"]


def test_errors_have_place_and_remedy_and_no_traceback(call: Call) -> None:
    write_project("starter", "")
    code, out, err = call("runs", "startr")
    assert code == 2 and out == ""
    assert err == f"error: {Path.cwd() / 'projects'}: no project 'startr'\n  did you mean `starter`?\n"


def test_light_verbs_import_nothing_heavy(call: Call) -> None:
    write_rows(Path("rows.jsonl"), pairs(3))
    run = Workspace(Path.cwd()).root / "projects" / "p" / "runs" / "0001"
    log_of(run, finished("done"))
    script = """
import json, sys
from engine.__main__ import main
heavy = {"torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate", "textual"}
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as ended:
        assert not ended.code, arguments
    loaded = heavy & set(sys.modules)
    assert not loaded, (arguments, loaded)
    if arguments == ["--help"]:
        assert not {"pydantic", "numpy", "psutil"} & set(sys.modules)
"""
    lines = [["--help"], ["new", "p", "--data", "rows.jsonl"], ["check", "p", "--no-model"], ["runs"], ["adapters"]]
    lines += [["watch", "p"], ["watch", "p", "--json"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, json.dumps(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_libraries_print_stays_out_of_the_document(tmp_path: Path) -> None:
    script = """
import os
from engine.verbs import working
with working(json_document=True) as console:
    print("from Python")
    os.write(1, b"from C\\n")
    console.document({"é": 1})
print("afterwards")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    document_part, _, after = done.stdout.decode().rpartition("afterwards")
    assert json.loads(document_part) == {"é": 1} and after.strip() == ""
    assert b"from Python" in done.stderr and b"from C" in done.stderr


def test_an_unforeseen_exception_leaves_its_traceback_in_a_file(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import runs

    def broken(*_: Any) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(runs, "run", broken)
    code, out, err = call("runs")
    (trace,) = Path("state/loraworkbench").glob("trace-*.txt")
    assert code == 1 and out == "" and "Traceback" not in err and str(trace.resolve()) in err
    assert "KeyError: 'gone'" in trace.read_text()
    assert "unexpected KeyError" in document(call("runs", "--json"), 1)["error"]["problem"]


def test_ctrl_c_is_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import runs

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupted)
    code, out, err = call("runs")
    assert (code, out, err) == (130, "", "stopped: interrupted\n")


def test_a_reader_that_leaves_early_is_no_failure(call: Call) -> None:
    log_of(Path("projects/p/runs/0001"), *(events.Note(text="x" * 1000) for _ in range(200)), finished("done"))
    write_project("p", "")
    process = subprocess_of("watch", "p")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=60) == 0
    process.stderr.close()


# --- new


def test_new_writes_a_file_that_loads_and_says_what_it_found(call: Call) -> None:
    write_rows(Path("data/faq.jsonl"), pairs(3))
    code, out, _ = call("new", "faq", "--data", "data/faq.jsonl", "--base", "Qwen/Qwen3-0.6B-Base")
    assert code == 0 and "loraworkbench train faq" in out
    file = Path("projects/faq/project.toml")
    project = spec.load(file)
    assert project.model.base == "Qwen/Qwen3-0.6B-Base" and project.data.train == "data/faq.jsonl"
    assert project.data.test_fraction == 0.1, "without unseen rows nothing can be measured"
    assert "# data/faq.jsonl: the first 3 rows are prompt_completion: question -> answer." in file.read_text()


def test_new_never_overwrites(call: Call) -> None:
    write_rows(Path("faq.jsonl"), pairs(3))
    file = write_project("faq", "# mine\n")
    assert "exists already" in document(call("new", "faq", "--data", "faq.jsonl", "--json"), 2)["error"]["problem"]
    assert file.read_text() == "# mine\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "7", "a\x1bb", "a b", "x.part", "-x"])
def test_new_refuses_names_that_would_mislead(call: Call, name: str) -> None:
    write_rows(Path("faq.jsonl"), pairs(3))
    assert call("new", "--data", "faq.jsonl", "--", name)[0] == 2
    assert list(Path("projects").iterdir()) == []


def test_new_takes_paths_from_where_it_is_called(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_rows(Path("data/inside.jsonl"), pairs(2))
    outside = write_rows(tmp_path.parent / f"{tmp_path.name}-outside.jsonl", pairs(2))
    monkeypatch.chdir("data")
    found = document(call("new", "p", "--data", "inside.jsonl", "--test", str(outside), "--json"))
    assert found["shape"] == "prompt_completion" and found["columns"] == {"prompt": "question", "completion": "answer"}
    project = spec.load(Path(found["file"]))
    assert (project.data.train, project.data.test) == ("data/inside.jsonl", str(outside))


def test_new_makes_a_workspace_where_there_is_none(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("projects").rmdir()
    fresh = tmp_path / "fresh"
    write_rows(fresh / "r.jsonl", pairs(2))
    monkeypatch.chdir(fresh)
    assert call("new", "p", "--data", "r.jsonl")[0] == 0
    assert (fresh / "projects" / "p" / "project.toml").is_file()


def test_new_names_what_is_missing_and_writes_nothing(call: Call) -> None:
    write_rows(Path("faq.jsonl"), pairs(3))
    assert "did you mean faq.jsonl" in document(call("new", "p", "--data", "faq.json", "--json"), 2)["error"]["remedy"]
    assert call("new", "p", "--data", "faq.jsonl", "--test", "nowhere.jsonl")[0] == 2
    assert not Path("projects/p").exists()


def test_new_with_unclear_rows_leaves_the_choice_in_the_file(call: Call) -> None:
    write_rows(Path("odd.jsonl"), [{"left": "a", "right": "b\x1b[2J"}] * 3)
    code, out, _ = call("new", "odd", "--data", "odd.jsonl")
    assert code == 0 and "warning:" in out and "data.prompt_column" in out and "\x1b" not in out
    assert spec.load(Path("projects/odd/project.toml")).data.shape == "auto"


# --- check


def test_check_lists_every_mistake_at_once(call: Call) -> None:
    write_project("bad", '[train]\nlearnin_rate = 1e-4\nepochs = "3"\n[lora]\nr = 0\n')
    found = document(call("check", "bad", "--set", "eval.windw=3", "--json"), 2)
    assert not found["ok"] and len(found["problems"]) == 4
    (typo,) = [p for p in found["problems"] if p["where"].endswith("project.toml:2:1")]
    assert "did you mean `learning_rate`" in typo["problem"]
    code, out, _ = call("check", "bad")
    assert code == 2 and "3 problems:" in out


def test_check_reports_data_and_base_together(call: Call) -> None:
    write_project("bad", '[model]\nbase = "./nowhere"\n[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\n')
    found = document(call("check", "bad", "--json"), 2)
    assert [p["where"] for p in found["problems"]] == [str(Path.cwd() / "nowhere"), "a.jsonl", "b.jsonl"]


@pytest.mark.usefixtures("demo")
def test_check_without_the_model(call: Call) -> None:
    found = document(call("check", "demo", "--no-model", "--json"))
    assert found["ok"] and found["data"]["shape"] == "prompt_completion" and found["data"]["ledger"]["read"] == 20
    assert "lengths" not in found


@pytest.mark.usefixtures("demo")
def test_check_measures_rows_as_they_are_before_cutting(call: Call) -> None:
    whole = document(
        call("check", "demo", "--set", "train.examples_per_step=5", "--json"), 2
    )  # the base has no weights
    lengths = whole["lengths"]["train"]
    assert [p["problem"] for p in whole["problems"]] == ["no model.safetensors and no model.safetensors.index.json"]
    assert lengths["rows"] == 16 and lengths["cut"] == 0 and 0 < lengths["min"] <= lengths["median"] <= lengths["max"]
    assert whole["steps_per_epoch"] == 4 and whole["steps"] == 12
    assert 0 < lengths["supervised"] < lengths["tokens"]
    short = document(call("check", "demo", "--set", f"train.max_length={lengths['max'] - 1}", "--json"), 2)
    assert short["lengths"]["train"]["max"] == lengths["max"] and short["lengths"]["train"]["cut"] > 0
    assert short["lengths"]["train"]["tokens"] < lengths["tokens"]
    assert any("longest has" in warning for warning in short["warnings"])


def test_check_refuses_rows_that_the_base_cannot_take(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(10), {"question": "long " * 120, "answer": "yes"}])
    found = document(call("check", "demo", "--set", "data.test_fraction=0.0", "--json"), 2)
    assert any("this base takes 256" in p["problem"] and p["where"].endswith(":11") for p in found["problems"])


def test_check_says_that_too_many_rows_are_refused(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(5), "{broken\n", {"question": "no answer"}])
    for more in ([], ["--no-model"]):
        found = document(call("check", "demo", *more, "--set", "data.test_fraction=0.0", "--json"), 2)
        (problem,) = [p for p in found["problems"] if "refused" in p["problem"]]
        assert problem["where"] == "data/demo.jsonl:6" and "2 of 7 rows" in problem["problem"]
        assert any("no unseen rows" in warning for warning in found["warnings"])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "phi3"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj", "c_attn", "query_key_value", "qkv_proj"]])
def test_trainable_parameters_are_those_that_peft_makes(family: str, targets: Any) -> None:
    from peft import LoraConfig, get_peft_model

    from engine.tables import LoraTable
    from engine.verbs.check import trainable_parameters

    causal = tiny.tiny_model(family)
    shapes = {name: tuple(p.shape) for name, p in causal.state_dict().items()}
    lora = LoraTable(r=4, target_modules=targets, rank_pattern={"down_proj": 2})
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, rank_pattern=dict(lora.rank_pattern))
    made = get_peft_model(causal, config)
    assert trainable_parameters(shapes, lora) == sum(p.numel() for p in made.parameters() if p.requires_grad)


# --- rows


@pytest.mark.usefixtures("demo")
def test_rows_contract(call: Call) -> None:
    found = document(call("rows", "demo", "--json"))
    ledger = found["ledger"]
    assert set(ledger) >= {"read", "kept", "cut", "refused", "duplicates", "nothing_to_learn"}
    assert ledger["read"] == ledger["kept"] + ledger["cut"] + ledger["refused"] == 20
    assert found["shape"] == "prompt_completion" and "row" not in found


@pytest.mark.usefixtures("demo")
def test_a_row_as_the_model_sees_it(call: Call) -> None:
    whole = ["--set", "data.test_fraction=0.0"]
    found = document(call("rows", "demo", *whole, "--row", "3", "--limit", "2", "--json"))
    row = found["row"]
    assert row["where"] == "data/demo.jsonl:3" and [r["where"] for r in found["shown"]][1] == "data/demo.jsonl:4"
    learned = [s["text"] for s in row["segments"] if s["weight"]]
    assert learned == ["It is 4. #### 4<|im_end|>"] and not row["cut"]
    assert row["text"] == "".join(s["text"] for s in row["segments"]) == tiny.tiny_tokenizer().decode(row["ids"])
    assert row["supervised"] == sum(w > 0 for w in row["weights"][1:]) and row["tokens"] == len(row["ids"])
    code, out, _ = call("rows", "demo", *whole, "--where", "demo.jsonl:3", "--tokens")
    assert code == 0 and "⟦It is 4. #### 4<|im_end|>⟧" in out
    assert sum(line.split()[1] == "1" for line in out.split("token\n")[1].splitlines()) == row["supervised"]


def test_text_of_a_row_cannot_act_on_the_terminal(call: Call, demo: Path) -> None:
    write_rows(demo, [{"question": "a\x1b[2Jb", "answer": "c\x9bd"}])
    code, out, _ = call("rows", "demo", "--tokens", "--set", "data.test_fraction=0.0")
    assert code == 0 and "a\\x1b[2Jb" in out and not {"\x1b", "\x9b"} & set(out)


def test_refused_rows_are_listed_even_where_train_would_stop(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(5), *["{broken\n"] * 30])
    code, out, _ = call("rows", "demo")
    assert code == 0 and "`train` will stop" in out and out.count("data/demo.jsonl:") == 21
    assert "... and 10 more" in out
    assert call("rows", "demo", "--all")[1].count("data/demo.jsonl:") == 31
    found = document(call("rows", "demo", "--json"))
    assert len(found["ledger"]["refusals"]) == found["ledger"]["refused"] == 30


def test_a_row_that_is_not_there_says_why(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(3), {"question": "no answer"}, *pairs(2)])
    whole = ("--set", "data.test_fraction=0.0", "--json")
    by_number = document(call("rows", "demo", "--row", "4", *whole), 2)["error"]
    assert by_number == document(call("rows", "demo", "--where", "data/demo.jsonl:4", *whole), 2)["error"]
    assert by_number["problem"].startswith("this row was refused: missing column") and by_number["where"].endswith(":4")
    assert document(call("rows", "demo", "--row", "70", *whole), 2)["error"]["problem"] == "there is no row 70"
    assert "no such row" in document(call("rows", "demo", "--where", "x:1", *whole), 2)["error"]["problem"]
    assert "no unseen rows" in document(call("rows", "demo", "--split", "test", *whole), 2)["error"]["problem"]


@pytest.mark.usefixtures("demo")
def test_the_ledger_needs_no_tokenizer(call: Call) -> None:
    code, out, _ = call("rows", "demo", "--set", "model.base=./nowhere")
    assert code == 0 and "not known: " in out and "nowhere" in out
    found = document(call("rows", "demo", "--set", "model.base=./nowhere", "--json"))
    assert found["ledger"]["read"] == 20 and "nowhere" in found["incomplete"]
    assert call("rows", "demo", "--set", "model.base=./nowhere", "--row", "1")[0] == 2


# --- runs, adapters


def finished(reason: str) -> events.Finished:
    return events.Finished(reason=reason, seconds=3.0)


def log_of(run: Path, *said: events.Event, pid: int | None = None) -> Path:
    """A run's folder with a log: `started` by this process (or by `pid`), two steps, and what was `said`."""
    log = events.EventLog(run / "events.jsonl")
    own = os.getpid() if pid is None else pid
    log(events.Started(verb="train", pid=own, pid_started=process_start(own), project="p", device="CPU"))
    numbers: dict[str, Any] = {"learning_rate": 1e-4, "gradient_norm": 1.0, "seconds": 0.1, "tokens_per_second": 1e3}
    for step in (1, 2):
        log(
            events.Step(
                step=step, steps=9, loss=1.5, tokens=9, supervised_tokens=5, memory_bytes=1, epoch=0.1, **numbers
            )
        )
    for event in said:
        log(event)
    log.close()
    return run


@pytest.fixture
def five_runs(call: Call) -> Path:
    write_project("p", "")
    folder = Path("projects/p/runs")
    failed = events.Failed(problem="NaN in step 3\x1b[2J", where="data:7", remedy="look")
    for number, said in enumerate(([finished("done")], [finished("stopped")], [failed], [], []), 1):
        log_of(folder / f"{number:04d}", *said, pid=2**22 + 1 if number == 4 else None)
    return folder


@pytest.mark.usefixtures("five_runs")
def test_runs_say_how_to_go_on(call: Call) -> None:
    found = document(call("runs", "p", "--json"))["runs"]
    assert [r["state"] for r in found] == ["done", "stopped", "failed", "killed", "running"]
    commands = [r["next"].removeprefix("loraworkbench ") for r in found]
    assert commands[1:4] == [f"train p --resume {n}" for n in (2, 3, 4)] and commands[4] == "watch p/0005"
    assert (found[0]["step"], found[0]["steps"], found[0]["loss"]) == (2, 9, 1.5)
    code, out, _ = call("runs")
    assert code == 0 and "p/0003 failed: NaN in step 3\\x1b[2J" in out and "killed" in out and "2/9" in out


def write_adapter(folder: Path, base: str = "some/base") -> None:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": base, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors = {f"{prefix}A.weight": np.zeros((2, 8), np.float32), f"{prefix}B.weight": np.zeros((6, 2), np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")


def test_adapters_are_listed_with_what_was_measured(call: Call, five_runs: Path) -> None:
    write_adapter(five_runs / "0001" / "adapter")
    write_adapter(five_runs / "0002" / "adapter", "evil\x1b[2J")
    (five_runs / "0003" / "adapter").mkdir()
    (five_runs / "0003" / "adapter" / "adapter_config.json").write_text("{")
    row = {"model": "p-0001", "split": "test", "scope": "completion", "perplexity": 3.25, "exact_match": 0.5}
    others = [{**row, "model": "base", "perplexity": 9.0}, {**row, "split": "train"}, {**row, "scope": "all"}]
    (five_runs / "0002" / "evaluation.json").write_text(json.dumps({"rows": [*others, row]}))
    (five_runs / "evaluation.json").write_text("not JSON")
    found = document(call("adapters", "--json"))
    first, second = found["adapters"]
    assert (first["name"], first["r"], first["parameters"], first["targets"]) == ("p-0001", 2, 28, ["q_proj"])
    assert (first["test_perplexity"], first["exact_match"], second["test_perplexity"]) == (3.25, 0.5, None)
    assert found["broken"][0]["where"].startswith(str(Path.cwd() / "projects/p/runs/0003"))
    code, out, _ = call("adapters", "p")
    assert code == 0 and "3.250" in out and "50.0%" in out and "warning:" in out and "\x1b" not in out


# --- watch


@pytest.mark.usefixtures("five_runs")
def test_watch_ends_as_the_run_did(call: Call) -> None:
    code, out, err = call("watch", "p/1")
    assert code == 0 and err == "" and "step 2/9" in out and "done after 3.0 s" in out
    assert call("watch", "p/2")[0] == 130
    code, out, err = call("watch", "p/3")
    assert code == 1 and err == "error: data:7: NaN in step 3\\x1b[2J\n  look\n"
    code, out, err = call("watch", "p/4")
    assert code == 1 and "killed" in err and "train p --resume 4" in err


def test_watch_json_is_the_log_as_it_stands(call: Call, five_runs: Path) -> None:
    log = five_runs / "0001" / "events.jsonl"
    odd = b'{"kind":"later","new":1}\n'
    log.write_bytes(odd + log.read_bytes())
    code, out, _ = call("watch", "p/1", "--json")
    assert code == 0 and out.encode() == log.read_bytes()
    kinds = [json.loads(line)["kind"] for line in call("watch", "p/4", "--json")[1].splitlines()]
    assert kinds == ["started", "step", "step", "failed"], "a killed run gets an end"


def test_watch_goes_past_a_torn_line_and_an_earlier_end(call: Call, five_runs: Path) -> None:
    run = five_runs / "0002"
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"step","st')
    log_of(run, finished("done"))
    code, out, _ = call("watch", "p/2", "--json")
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert code == 0 and kinds == ["started", "step", "step", "finished"] * 2


def test_watch_follows_a_run_that_has_not_begun(call: Call) -> None:
    write_project("p", "")
    run = Path("projects/p/runs/0001")
    run.mkdir(parents=True)

    def work() -> None:
        time.sleep(0.3)
        log_of(run)
        time.sleep(0.3)
        log = events.EventLog(run / "events.jsonl")
        log(events.Note(text="later"))
        log(finished("done"))
        log.close()

    worker = threading.Thread(target=work)
    worker.start()
    code, out, _ = call("watch", "p")
    worker.join()
    assert code == 0 and out.index("step 2/9") < out.index("later") < out.index("done after")


def test_a_run_that_never_began_was_killed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project("p", "")
    Path("projects/p/runs/0001").mkdir(parents=True)
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", -1.0)
    assert call("watch", "p")[0] == 1


def test_ctrl_c_leaves_the_run_alone(call: Call) -> None:
    write_project("p", "")
    log_of(Path("projects/p/runs/0001"))  # its process, this one, lives on
    process = subprocess_of("watch", "p", bufsize=1)
    assert process.stdout is not None
    seen = ""
    while "step 1/9" not in seen:
        seen = process.stdout.readline()
        assert seen
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "no longer watching" in out and err == ""


# --- generate, doctor


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def two_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders 0001 with an adapter that does nothing and 0002 with one that does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("runs")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    made = get_peft_model(tiny.tiny_model("llama"), config)
    made.save_pretrained(str(folder / "0001" / "adapter"))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    made.save_pretrained(str(folder / "0002" / "adapter"))
    return folder


@pytest.fixture
def talking(call: Call, small_base: Path, two_adapters: Path) -> Path:
    """A project on a tiny base with two runs."""
    lines = (
        f'[model]\nbase = "{small_base}"\nquantization = "none"\ndtype = "float32"\n[generate]\nmax_new_tokens = 5\n'
    )
    write_project("talk", lines)
    shutil.copytree(two_adapters, "projects/talk/runs")
    return Path("projects/talk")


@pytest.mark.usefixtures("talking")
def test_generate_answers_with_proof(call: Call) -> None:
    asked = ["--prompt", "The train\x1b[2J", "--prompt", "Anna", "--adapter", "1", "--adapter", "2"]
    found = document(call("generate", "talk", *asked, "--json"))["prompts"]
    assert [p["prompt"] for p in found] == ["The train\x1b[2J", "Anna"]
    base, idle, active = found[1]["answers"]
    assert [a["model"] for a in (base, idle, active)] == ["base", "talk-0001", "talk-0002"]
    assert base["adapter_sha256"] is None and len(active["adapter_sha256"]) == 64
    assert not idle["changed"] and idle["text"] == base["text"] and idle["kl"] == 0.0
    assert active["changed"] and active["largest_logit_difference"] > 0 and active["kl"] > 0
    code, out, _ = call("generate", "talk", *asked)
    assert code == 0 and "\x1b" not in out and "talk-0001 changed nothing on this prompt" in out


def test_generate_takes_prompts_from_stdin_and_the_project(
    call: Call, talking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    arguments = ["generate", "talk", "--no-base", "--max-new-tokens", "2", "--json"]
    found = document(call(*arguments, "--prompt", "-"))["prompts"]
    assert [p["prompt"] for p in found] == ["one", "two"]
    assert [a["model"] for a in found[0]["answers"]] == ["talk-0002"], "the newest adapter where none is named"
    with (talking / "project.toml").open("a") as file:
        file.write('prompts = ["from the file"]\n')
    assert document(call(*arguments))["prompts"][0]["prompt"] == "from the file"


@pytest.mark.usefixtures("demo")
def test_generate_without_a_prompt_or_an_adapter(call: Call) -> None:
    assert document(call("generate", "demo", "--json"), 2)["error"]["problem"] == "no prompt"
    refused = document(call("generate", "demo", "--prompt", "x", "--no-base", "--json"), 2)
    assert refused["error"]["problem"] == "this project has no adapter yet"


def test_doctor_tries_what_matters(call: Call) -> None:
    found = document(call("doctor", "--json"))
    assert found["ok"] is True
    subjects = [check["subject"] for check in found["checks"]]
    assert {"python", "torch", "cpu", "memory", "disk", "torch build", "4 bits", "hub", "terminal"} <= set(subjects)
    by_name = {check["subject"]: check for check in found["checks"]}
    assert by_name["4 bits"]["level"] == "ok" and "HF_HUB_OFFLINE" in by_name["hub"]["text"]


def test_doctor_judges_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    wanted = ["numpy>=1", "pytest<0.1", "no-such-thing>=2", 'gone>=1; python_version < "3"', 'x; extra == "test"']
    monkeypatch.setattr(doctor, "_requirements", lambda: wanted)
    found = {f.subject: f for f in doctor.versions()}
    assert [(n, f.level) for n, f in found.items()][1:] == [
        ("numpy", "ok"),
        ("pytest", "warning"),
        ("no-such-thing", "problem"),
    ]
    assert found["no-such-thing"].remedy == "pip install 'no-such-thing>=2'"


def test_doctor_says_when_four_bits_are_computed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    monkeypatch.setattr(doctor, "_nf4_errors", lambda device: (1.4, 0.0))
    assert doctor.four_bit().level == "problem"


def test_an_unreachable_hub_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finding = doctor.hub()
    assert finding.level == "ok" and "not reached" in finding.text
