"""The table of runs: sorted by any column, differences of settings, results read from folders that may hold anything."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from engine import events
from tests.workbench.conftest import started, steps, write_run
from workbench.jobs.results import ResultReader, of_evaluation, read_result
from workbench.models.run_table import COLUMNS, RunResult, RunRow, differences, flat, ordered
from workbench.models.workspace import RunInfo


def row(number: int, **given: object) -> RunRow:
    loss = given.pop("loss", None)
    info = RunInfo(f"demo/{number:04d}", Path(f"{number:04d}"), "done", loss=loss)  # type: ignore[arg-type]
    return RunRow(info, RunResult(**given))  # type: ignore[arg-type]


def test_what_is_not_known_stands_at_the_end_either_way() -> None:
    rows = [row(1, loss=2.0), row(2), row(3, loss=1.0), row(4, loss=math.nan), row(5, loss=2.0)]
    numbers = lambda reverse: [int(r.info.number) for r in ordered(rows, "loss", reverse)]  # noqa: E731
    assert numbers(False) == [3, 1, 5, 2, 4]
    assert numbers(True) == [1, 5, 3, 2, 4]
    for column in COLUMNS:
        for reverse in (False, True):
            assert sorted(r.info.number for r in ordered(rows, column, reverse)) == [
                "0001",
                "0002",
                "0003",
                "0004",
                "0005",
            ]
    for column in COLUMNS.values():
        assert all(isinstance(column.text(r), str) for r in rows)


def test_only_what_differs_is_listed() -> None:
    one = flat({"lora": {"r": 8, "targets": ["q", "v"], "pattern": {}}, "train": {"steps": 10, "note": "[b]x[/]\x1b"}})
    two = flat({"lora": {"r": 16, "targets": ["q", "v"], "pattern": {}}, "train": {"steps": 10, "flag": True}})
    assert differences({"a": one, "b": two}) == [
        ("lora.r", ["8", "16"]), ("train.note", ["[b]x[/]\\x1b", "-"]), ("train.flag", ["-", "true"])
    ]  # fmt: skip
    assert differences({"a": one}) == []


def test_results_of_a_run(workspace: Path) -> None:
    scored = events.Scored(
        model="adapter", split="test", scope="completion", nll=50.0, tokens=100, perplexity=1.6, step=3
    )
    folder = write_run(
        workspace, "demo/0001", [started(), *steps(3), scored, events.Finished(reason="done", seconds=12.5)]
    )
    rows = [
        {"model": "base", "split": "test", "scope": "completion", "perplexity": 9.0},
        {"model": "demo-0001", "split": "train", "scope": "completion", "perplexity": 1.1},
        {"model": "demo-0001", "split": "test", "scope": "all", "perplexity": 5.0},
        {"model": "demo-0001", "split": "test", "scope": "completion", "perplexity": 1.25, "exact_match": 0.5},
    ]
    (folder / "evaluation.json").write_text(json.dumps({"rows": rows}))
    found = read_result("demo/0001", folder)
    assert (found.unseen, found.seconds, found.perplexity, found.exact_match) == (0.5, 12.5, 1.25, 0.5)
    assert found.settings["lora.r"] == 8
    assert found.problem == ""


@pytest.mark.parametrize("text", ["", "[]", "{", '{"rows": 3}', '{"rows": [3]}', "\udcff", '{"rows": null}'])
def test_a_broken_evaluation_is_told_and_hides_nothing_else(workspace: Path, text: str) -> None:
    folder = write_run(workspace, "demo/0001", [started(), *steps(3)])
    (folder / "evaluation.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = read_result("demo/0001", folder)
    assert found.problem.startswith("evaluation.json: ")
    assert found.settings["train.steps"] == 10


def test_no_row_is_no_result() -> None:
    assert of_evaluation({}, "demo/0001") == (None, None)
    assert of_evaluation({"rows": []}, "demo/0001") == (None, None)


def test_only_what_changed_is_read_again(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.jobs import results

    folders = {f"demo/{n:04d}": write_run(workspace, f"demo/{n:04d}", [started(), *steps(2)]) for n in (1, 2)}
    read: list[str] = []
    real = results.read_result
    monkeypatch.setattr(results, "read_result", lambda label, path: read.append(label) or real(label, path))
    reader = ResultReader()
    reader.read(folders)
    reader.read(folders)
    assert read == ["demo/0001", "demo/0002"]
    events.EventLog(folders["demo/0002"] / "events.jsonl")(events.Finished(reason="stopped", seconds=3.0))
    assert reader.read(folders)["demo/0002"].seconds == 3.0
    assert read == ["demo/0001", "demo/0002", "demo/0002"]
