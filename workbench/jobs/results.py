"""What a table of runs needs of each run's folder. Blocks; called in a thread, again and again: only what changed is read.

Comes from: `events.jsonl`, `evaluation.json` and the resolved `project.toml`. Goes to: `models.run_table`.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any

from workbench.models.run_table import RunResult, flat


class ResultReader:
    """Reads results, and keeps them while their files stay as they are."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple, RunResult]] = {}

    def read(self, folders: dict[str, Path]) -> dict[str, RunResult]:
        """label -> result, of the runs in these folders."""
        return {label: self._one(label, path) for label, path in folders.items()}

    def _one(self, label: str, path: Path) -> RunResult:
        marks = tuple(_mark(path / name) for name in ("events.jsonl", "evaluation.json", "project.toml"))
        known = self._known.get(path)
        if known is None or known[0] != marks:
            known = self._known[path] = marks, read_result(label, path)
        return known[1]


def _mark(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def read_result(label: str, path: Path) -> RunResult:
    """The result of one run; what cannot be read is None, and the reason is in `problem`."""
    problems: list[str] = []
    unseen, seconds = _of_log(path / "events.jsonl")
    perplexity, match = None, None
    try:
        perplexity, match = of_evaluation(json.loads((path / "evaluation.json").read_bytes()), label)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problems.append(f"evaluation.json: {error}")
    settings: dict[str, Any] = {}
    try:
        settings = flat(tomllib.loads((path / "project.toml").read_text(encoding="utf-8")))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        problems.append(f"project.toml: {error}")
    return RunResult(unseen, seconds, perplexity, match, settings, "; ".join(problems))


def _of_log(path: Path) -> tuple[float | None, float | None]:
    """The newest measured loss, and how long the newest process worked."""
    from engine import events
    from engine.log_ends import LogEnds

    with contextlib.suppress(OSError), LogEnds(path) as log:
        scored, started, last = log.last(events.Scored), log.last(events.Started), log.last(events.Event)
        unseen = scored.nll / scored.tokens if scored is not None and scored.tokens else None
        if isinstance(last, events.Finished):
            return unseen, last.seconds
        return unseen, last.t - started.t if started is not None and last is not None else None
    return None, None


def of_evaluation(document: dict[str, Any], label: str) -> tuple[float | None, float | None]:
    """(perplexity, exact match) of a run's adapter on unseen rows, or on training rows where there are no others."""
    name = label.replace("/", "-")
    rows = [r for r in document.get("rows", []) if r.get("scope") == "completion" and r.get("model") != "base"]
    own = [r for r in rows if r.get("model") == name] or rows
    for split in ("test", "train"):
        for row in own:
            if row.get("split") == split:
                return row.get("perplexity"), row.get("exact_match")
    return None, None
