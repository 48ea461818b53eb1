"""The adapter's card: what it was made of, by which command, and, once it is evaluated, what was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import spec
from engine.jobs import record
from engine.store import Run


def row(model: str, scope: str, perplexity: float | None, match: float | None = None) -> dict[str, Any]:
    shared = {"split": "test", "tokens": 21923, "interval": (1.5, 2.5) if perplexity else None}
    return {"model": model, "scope": scope, "perplexity": perplexity, "exact_match": match, **shared}


ROWS = [row("base", "completion", 14.21, 0.0), row("p-0001", "completion", 2.0, 0.985), row("p-0001", "all", None)]


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["/bin/loraworkbench", "train", "p", "--set", "data.system=be kind"])
    data: Any = SimpleNamespace(
        train=SimpleNamespace(examples=[1, 2]), digest="abc123", template=SimpleNamespace(kind="chat")
    )
    (tmp_path / "p/runs/0001/adapter").mkdir(parents=True)
    run = Run(tmp_path / "p" / "runs" / "0001")
    (run.adapter / record.CARD).write_text(record.card(run, spec.parse(""), data, 7), encoding="utf-8")
    return run.adapter


def test_the_card_names_data_hash_and_command(adapter: Path) -> None:
    text = (adapter / record.CARD).read_text(encoding="utf-8")
    assert "2 rows of `data/word_problems/train.jsonl`; SHA-256 of the tokens abc123" in text
    assert "Command: `loraworkbench train p --set 'data.system=be kind'`" in text
    assert "Not measured yet." in text and "[lora]" in text


def test_what_is_measured_is_put_into_the_card_in_place_of_what_was(adapter: Path) -> None:
    before = (adapter / record.CARD).read_text(encoding="utf-8")
    record.tell_card(adapter, ROWS[:1], "p-0001")
    record.tell_card(adapter, ROWS, "p-0001")
    text = (adapter / record.CARD).read_text(encoding="utf-8")
    assert "Not measured yet." not in text and text.count("| rows |") == 1
    assert "| test | completion | 21,923 | 2.0000 | 1.5000 to 2.5000 | 14.2100 | 98.5% | 0.0% |" in text
    assert "| test | all | 21,923 | - |  | - | - | - |" in text
    assert text.endswith(before.partition("<!-- end of results -->")[2])


def test_a_card_that_is_not_ours_is_left_alone(adapter: Path) -> None:
    (adapter / record.CARD).write_text("# mine", encoding="utf-8")
    record.tell_card(adapter, ROWS, "p-0001")
    assert (adapter / record.CARD).read_text(encoding="utf-8") == "# mine"
    (adapter / record.CARD).unlink()
    record.tell_card(adapter, ROWS, "p-0001")
    assert not (adapter / record.CARD).exists()
