"""The table of a project's runs: what stands in its columns, how it is sorted, which settings differ between runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.text import one_line
from workbench.models.plot import number
from workbench.models.workspace import RunInfo


@dataclass(frozen=True, slots=True)
class RunResult:
    """What is read of a run besides its state.

    Attributes:
        unseen: nats per token of the newest measurement while training. seconds: of its newest process.
        perplexity, exact_match: of evaluation.json, on unseen rows where it has them.
        settings: the resolved project file, "train.steps" -> value.
        problem: why something could not be read.
    """

    unseen: float | None = None
    seconds: float | None = None
    perplexity: float | None = None
    exact_match: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A line of the table."""

    info: RunInfo
    result: RunResult


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, what it sorts by (None: at the end), what it shows; `right`: numbers."""

    title: str
    value: Callable[[RunRow], Any]
    text: Callable[[RunRow], str]
    right: bool = True


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


STATE_ORDER = ("running", "done", "stopped", "failed", "killed", "empty")

COLUMNS: dict[str, Column] = {
    "run": Column("run", lambda r: int(r.info.number), lambda r: r.info.number, False),
    "state": Column("state", lambda r: STATE_ORDER.index(r.info.state), lambda r: r.info.state, False),
    "steps": Column("step", lambda r: r.info.step, lambda r: _step(r.info)),
    "loss": Column("loss", lambda r: r.info.loss, lambda r: _number(r.info.loss)),
    "unseen": Column("unseen", lambda r: r.result.unseen, lambda r: _number(r.result.unseen)),
    "perplexity": Column("perplexity", lambda r: r.result.perplexity, lambda r: _number(r.result.perplexity)),
    "match": Column("exact", lambda r: r.result.exact_match, lambda r: _share(r.result.exact_match)),
    "seconds": Column("took", lambda r: r.result.seconds, lambda r: _clock(r.result.seconds)),
    "started": Column("began", lambda r: r.info.started, lambda r: _date(r.info.started), False),
}


def _step(info: RunInfo) -> str:
    return "" if info.step is None else f"{info.step:,}/{info.steps or 0:,}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"


def _clock(value: float | None) -> str:
    """ "1:42", "2:47:03"."""
    if value is None or not math.isfinite(value):
        return ""
    minutes, seconds = divmod(round(max(0.0, value)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _date(value: float | None) -> str:
    return "" if value is None else time.strftime("%m-%d %H:%M", time.localtime(value))


def ordered(rows: Iterable[RunRow], column: str, reverse: bool = False) -> list[RunRow]:
    """Rows by a column; those without a value (also NaN) stand at the end either way, equal ones by number."""
    value = COLUMNS[column].value

    def known(row: RunRow) -> bool:
        found = value(row)
        return found is not None and not (isinstance(found, float) and math.isnan(found))

    by_number = sorted(rows, key=lambda r: int(r.info.number))
    return sorted(filter(known, by_number), key=value, reverse=reverse) + [r for r in by_number if not known(r)]


def differences(settings: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Keys whose values are not the same in all of several runs (label -> settings), with each run's value as text."""
    keys = dict.fromkeys(k for s in settings.values() for k in s)
    found = []
    for key in keys:
        values = [_shown(s.get(key)) for s in settings.values()]
        if len(set(values)) > 1:
            found.append((key, values))
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return one_line(value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value))


def flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables in tables as one: "train.steps"."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value
    return found
