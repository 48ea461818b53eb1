"""The command line: its frame, `new`, `runs` and `adapters`; that light verbs stay light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine import __version__, events, spec
from engine.store import Workspace
from tests.engine.commandline import (
    ROOT,
    VERBS,
    Call,
    document,
    finished,
    log_of,
    pairs,
    subprocess_of,
    write_project,
    write_rows,
)

# --- the frame


def test_no_arguments_show_help(call: Call) -> None:
    code, out, _ = call()
    assert code == 0 and all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(call: Call, verb: str) -> None:
    code, out, _ = call(verb, "--help")
    assert code == 0 and "--json" in out and "--workspace" in out
    assert ("--set" in out) == (verb in ["check", "rows", "train", "eval", "generate", "merge", "launch-script"])


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
    assert err == "error: projects: no project 'startr'\n  did you mean `starter`?\n"


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


def test_what_libraries_warn_of_goes_to_a_log_or_nowhere() -> None:
    script = """
import contextlib, io, warnings
from engine.verbs import working
log = io.StringIO()
with working() as console:
    warnings.warn("to nobody", FutureWarning)
    with contextlib.redirect_stderr(log):
        warnings.warn("to the log", FutureWarning)
print("to nobody" in log.getvalue(), "FutureWarning: to the log" in log.getvalue())
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("False True\n", "")


def test_threads_that_wait_sleep_soon(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    call("--version")
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    call("--version")
    assert "GOMP_SPINCOUNT" not in os.environ


def test_an_unforeseen_exception_leaves_its_traceback_in_a_file(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import runs

    def broken(*_: Any) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(runs, "run", broken)
    code, out, err = call("runs")
    (trace,) = Path("state/loraworkbench").glob("trace-*.txt")
    assert code == 1 and out == "" and "Traceback" not in err and f"error: {trace}: " in err
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


# --- runs, adapters


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
