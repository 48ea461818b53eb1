"""What is said before a run is started: whether it fits, its parts, and the one change that would make it fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine import events
from engine.errors import InputError
from engine.store import shipped
from tests.workbench.conftest import Start, started, until, write_run
from workbench.commands.preflight import question
from workbench.models.machine import Machine
from workbench.models.preflight import assess
from workbench.models.run import RunModel
from workbench.widgets.run_header import facts

GIB = 2**30


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A workspace with a project on the base that is shipped."""
    folder = tmp_path / "room" / "projects" / "small"
    folder.mkdir(parents=True)
    text = '[model]\nbase = "starter"\n[data]\ntrain = "x.jsonl"\n[train]\nmicro_batch_tokens = 8192\nexamples_per_step = 64\n'
    (folder / "project.toml").write_text(text + "max_length = 512\n")
    return folder.parents[1]


def machine(free: int) -> Machine:
    return Machine(ram_used=8 * GIB - free, ram_total=8 * GIB, cores=2)


def test_what_fits_is_said_in_a_line(starter: Path) -> None:
    found = assess(starter, "small", machine(7 * GIB))
    assert found.fits and found.change is None
    assert found.line.startswith("needs about") and found.line.endswith("free on RAM")


def test_what_does_not_fit_names_the_change_that_would(starter: Path) -> None:
    needed = assess(starter, "small", machine(7 * GIB)).estimate
    assert needed is not None
    free = needed.total * 9 // 10
    found = assess(starter, "small", machine(free))
    assert found.fits is False and found.estimate is not None and found.change is not None
    assert found.change.bytes <= free < found.estimate.total
    asked = question(found)
    assert "too little" in asked and f"With {found.change.line} it would need" in asked
    hopeless = assess(starter, "small", machine(100 * 10**6))
    assert hopeless.change is None and "No single change is enough" in question(hopeless)


def test_a_base_that_is_not_here_is_not_estimated(starter: Path) -> None:
    file = starter / "projects" / "small" / "project.toml"
    file.write_text(file.read_text().replace('"starter"', '"someone/unknown"'))
    found = assess(starter, "small", machine(GIB))
    assert found.fits is None and found.line.startswith("memory not known: ")
    shutil.rmtree(file.parent)
    with pytest.raises(InputError):
        assess(starter, "small", machine(GIB))


async def test_starting_asks_where_it_does_not_fit(start: Start, workspace: Path, monkeypatch: Any) -> None:
    from workbench.jobs import launch

    begun: list[Any] = []
    monkeypatch.setattr(launch, "new_run", lambda *a: begun.append(a))
    file = workspace / "projects" / "demo" / "project.toml"
    base = shipped("data/starter")
    file.write_text(f'[model]\nbase = "{base}"\n[data]\ntrain = "data/rows.jsonl"\n')
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.gauges.machine = machine(50 * 10**6)
        await pilot.press("f5")
        await until(pilot, lambda: type(app.screen).__name__ == "Confirm")
        await pilot.press("escape")
        await until(pilot, lambda: type(app.screen).__name__ != "Confirm")
    assert not begun


def test_a_run_shows_what_was_measured_beside_what_was_estimated(workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started()])
    model = RunModel("demo/0001")
    model.fold([started(), events.Memory(tokens=512, estimated_bytes=1_100_000_000, measured_bytes=1_000_000_000)])
    words = "peak memory 1.0 GB, measured with 512 tokens at once; estimated 1.1 GB (+10%)"
    assert words in facts(model).plain
    assert any(words in line.text for line in model.lines)
