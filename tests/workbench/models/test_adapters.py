"""Adapters found, measured, compared; merged models and their reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workbench.conftest import PROJECT
from tests.workbench.evaluations import document, write_adapter, write_evaluation, write_job
from workbench.models import adapters
from workbench.models.evaluation import BASE

REPORT: dict[str, Any] = {
    "base": "/x/tiny", "adapter": "/w/projects/demo/runs/0001/adapter", "base_weights": "original", "tensors": 56,
    "merged": 42, "changed": 42, "largest_change": 0.031, "largest_change_in": "model.q", "bytes": 10_300_000,
    "seconds": 0.2, "sha256": {"model.safetensors": "ab" * 32}, "notes": ["A note."],
    "verification": {
        "kl": 2e-6, "adapter_kl": 0.83, "largest_logit_difference": 0.01, "same_next_token": 1.0, "prompts": 24,
        "perplexity_adapter": 1.2676, "perplexity_merged": 1.2674, "tokens": 1311, "reference": "tiny as none", "holds": True,
    },
}  # fmt: skip


def write_merged(root: Path, name: str, **changed: Any) -> Path:
    """A merged model's folder, of which only the report is there."""
    folder = root / "projects" / "demo" / "merged" / name
    folder.mkdir(parents=True)
    (folder / "merge.json").write_text(json.dumps({**REPORT, **changed}))
    return folder


@pytest.fixture
def two(workspace: Path) -> Path:
    for number, rank in (("0001", 8), ("0002", 16)):
        write_adapter(workspace, f"demo/{number}", r=rank)
        toml = workspace / "projects" / "demo" / "runs" / number / "project.toml"
        toml.write_text(PROJECT.replace("r = 8", f"r = {rank}"))
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]))
    return workspace


def test_scan(two: Path) -> None:
    known: dict[Path, Any] = {}
    entries = {e.label: e for e in adapters.scan(two, "demo", known)}
    one, other = entries["demo/0001"], entries["demo/0002"]
    assert one.info is not None and (one.info.rank, one.info.targets, one.info.sha256) == (8, ("q_proj", "v_proj"), "")
    assert one.row is not None and one.row.exact_match == 0.65 and one.base is not None and one.base.model == BASE
    assert other.row is None and other.base is None
    hashed = {e.label: e for e in adapters.scan(two, "", known, digest=True)}
    assert hashed["demo/0001"].info is not None and len(hashed["demo/0001"].info.sha256) == 64
    assert adapters.scan(two, "", known)[0].info is not None and adapters.scan(two, "other", known) == []


def test_a_broken_adapter_is_listed_with_its_reason(two: Path) -> None:
    (two / "projects" / "demo" / "runs" / "0002" / "adapter" / "adapter_model.safetensors").write_bytes(b"\x01")
    write_adapter(two, "demo/0003", r="many\x1b[2J")
    found = {e.label: e.problem for e in adapters.scan(two, "demo", {}, digest=True)}
    assert not found["demo/0001"] and found["demo/0002"] and "many" in found["demo/0003"]


def test_only_what_differs_is_compared(two: Path) -> None:
    entries = sorted(adapters.scan(two, "demo", {}), key=lambda e: e.label)
    rows = dict(adapters.differing(entries))
    assert rows["rank"] == ["8", "16"] and rows["lora.r"] == ["8", "16"] and rows["scaling"] == ["2", "1"]
    assert rows.keys() == {"rank", "scaling", "parameters", "size", "lora.r"}
    assert adapters.differing(entries[:1]) == []


def test_merged_models(two: Path) -> None:
    write_merged(two, "b", verification=None)
    (made,) = adapters.merged(two, "demo")
    assert made.verdict == "not verified" and made.adapters == "demo/0001"
    elsewhere = two / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "merge.json").write_text(json.dumps(REPORT))
    job = write_job(two, "demo", "merge", [])
    result = two / "projects" / "demo" / "jobs" / job.rsplit("/", 1)[1] / "result.json"
    result.write_text(json.dumps({"out": str(elsewhere)}))
    (two / "projects" / "demo" / "merged" / "c").mkdir()
    (two / "projects" / "demo" / "merged" / "c" / "merge.json").write_text("[1]")
    found = {m.path.name: m for m in adapters.merged(two, "")}
    assert found.keys() == {"b", "elsewhere"} and found["elsewhere"].verdict == "holds"
    report = dict(adapters.report(found["elsewhere"]))
    assert report["verified"] == "yes; against tiny as none" and report["KL"].startswith("2.00e-06 nats")
    assert report["perplexity"] == "merged 1.2674, base + adapter 1.2676 (1,311 tokens)"


@pytest.mark.parametrize("verification", [{"holds": "x", "kl": None}, 3, {"kl": "\x1b[2J", "prompts": True}])
def test_a_report_of_another_shape_is_shown_as_far_as_it_goes(two: Path, verification: Any) -> None:
    write_merged(
        two, "odd", verification=verification, bytes="many", sha256=[1], notes=None, largest_change_in="\x1b[2J"
    )
    (made,) = adapters.merged(two, "demo")
    assert all("\x1b" not in text for _, text in adapters.report(made)) and made.verdict != "holds"
