"""Evaluations as the engine writes them (made with its own `results`), adapters, job folders, for tests of the views."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine import events
from engine.evaluation.metrics import RowScore
from engine.evaluation.results import BASE, SCOPES, Cell, Counts, Evaluation, Item
from engine.files import write_json
from engine.store import Workspace, process_start
from engine.tables import EvalTable

HOSTILE = "[red]x[/] \x1b[31m\x1b[2J ‮ abc ‬ 🙂 مرحبا "

Answer = Callable[[str, int], str]


def nats(model: str, at: int) -> float:
    """Nats of one row: base 40 and more; an adapter far less, but for every tenth row."""
    return 40.0 + at % 7 if model == BASE else (55.0 if at % 10 == 3 else 4.0 + at % 5)


def answer_of(model: str, at: int) -> str:
    """Base is right on every fifth row; an adapter on all but every third."""
    right = at % 5 == 0 if model == BASE else at % 3 != 0
    return f"It is {at if right else at + 1}."


def document(
    models: list[str],
    rows: int = 20,
    splits: tuple[str, ...] = ("test", "train"),
    answer: Answer = answer_of,
    long: str = "",
    nll: Callable[[str, int], float] = nats,
) -> dict[str, Any]:
    """What `eval --json` prints: 10 completion tokens a row, 15 in all; `long` is put before every prompt."""
    table = EvalTable(bootstrap=100)
    cells: dict[tuple[str, str], Cell] = {}
    for model in models:
        for split in splits:
            items, scores = [], {scope: [] for scope in SCOPES}
            for at in range(rows):
                value, text = nll(model, at), answer(model, at)
                for scope, tokens in zip(SCOPES, (10, 15), strict=True):
                    scores[scope].append(RowScore(f"data/rows.jsonl:{at + 1}", value * tokens / 10, tokens, 40))
                said = "".join(c for c in text if c.isdigit()) or None
                items.append(
                    Item(
                        model, split, f"data/rows.jsonl:{at + 1}", {s: scores[s][at].nll for s in SCOPES},
                        {s: scores[s][at].tokens for s in SCOPES}, f"{long}What is {at}?", f"It is {at}.", text, True,
                        str(at), said, said == str(at),
                    )
                )  # fmt: skip
            cells[model, split] = Cell(model, split, scores, items)
    made = [cell.row(scope, cells.get((BASE, cell.split)), table) for cell in cells.values() for scope in SCOPES]
    counts = {split: Counts(rows, rows, rows, {}) for split in splits}
    items = [item for cell in cells.values() for item in cell.items]
    whole = Evaluation(made, items, {"exact_match": "last_number", "context": 256}, counts).to_json()
    adapters = {m: {"path": f"runs/{m}/adapter", "sha256": "ab" * 32} for m in models if m != BASE}
    return {"project": "demo", "adapters": adapters, **whole}


def write_evaluation(root: Path, label: str, made: dict[str, Any], when: float | None = None) -> Path:
    """A run's evaluation.json; `when`: its time, seconds since the epoch."""
    project, number = label.split("/")
    path = root / "projects" / project / "runs" / number / "evaluation.json"
    write_json(path, made)
    if when is not None:
        os.utime(path, (when, when))
    return path


def write_adapter(root: Path, label: str, **config: Any) -> Path:
    """An adapter of two modules in PEFT layout, all zeros."""
    project, number = label.split("/")
    folder = root / "projects" / project / "runs" / number / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    given = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/tiny", **config}
    (folder / "adapter_config.json").write_text(json.dumps(given))
    header, data, r = {}, b"", given["r"] if isinstance(given["r"], int) else 8
    for name in ("q_proj", "v_proj"):
        for part, shape in (("A", [r, 4]), ("B", [4, r])):
            size = 4 * shape[0] * shape[1]
            key = f"base_model.model.model.layers.0.self_attn.{name}.lora_{part}.weight"
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
            data += bytes(size)
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return folder


def write_job(root: Path, project: str, verb: str, said: list[events.Event], *, alive: bool = True) -> str:
    """The next job folder, its log begun by this process (or one that is gone); its label."""
    job = Workspace(root).project(project).new_job(verb, ["--adapter=demo/0001"])
    log = events.EventLog(job.events)
    pid = os.getpid() if alive else 2**22 + 1
    log(events.Started(verb=verb, pid=pid, pid_started=process_start(pid), project=project, device="CPU"))
    for event in said:
        log(event)
    log.close()
    return job.label
