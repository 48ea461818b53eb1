"""The adapters view: list, details, comparison, merged models; merging, export, deleting."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine import events, store
from tests.workbench.conftest import Start, at_sizes, started, text_of, until, write_run
from tests.workbench.evaluations import HOSTILE, document, write_adapter, write_evaluation, write_job
from tests.workbench.models.test_adapters import write_merged
from workbench import clipboard
from workbench.editors.adapters_view import AdaptersView
from workbench.jobs import detach
from workbench.modals.confirm import AskLine, Confirm
from workbench.modals.evaluate import Evaluate
from workbench.modals.merge import Merge, numbers
from workbench.models.evaluation import BASE
from workbench.widgets.cycle import Cycle
from workbench.widgets.sortable_table import SortableTable

SIZES = [(80, 24), (120, 40), (200, 50)]


@pytest.fixture
def two(workspace: Path) -> Path:
    for at, (number, rank) in enumerate((("0001", 8), ("0002", 16))):
        write_run(workspace, f"demo/{number}", [started(), events.Finished(reason="done")])
        folder = write_adapter(workspace, f"demo/{number}", r=rank)
        for file in folder.iterdir():
            os.utime(file, (1000.0 + at, 1000.0 + at))
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]))
    return workspace


async def opened(pilot: Pilot, count: int = 2, uri: str = "adapters:demo") -> AdaptersView:
    app: Any = pilot.app
    app.open(uri)
    await until(pilot, lambda: getattr(app.workbench.editors.front, "uri", "") == uri)
    view = app.workbench.editors.front
    await until(pilot, lambda: not view._scanning and view.query_one("#list", SortableTable).count == count)
    await until(pilot, lambda: view.query_one("#list").has_focus)
    return view


@at_sizes
async def test_list_and_details(start: Start, two: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        view = await opened(pilot)
        text = text_of(pilot)
        assert "▸   " in text and "demo/0002" in text and "not measured" in text and "65.0%" in text
        assert all(len(line) <= size[0] for line in text.split("\n"))
        await pilot.press("j", "enter")
        await until(pilot, lambda: view.level == "details")
        text = text_of(pilot)
        assert "q_proj, v_proj (2 modules)" in text and "2 (alpha / r)" in text and "sha256" in text
        await pilot.press("escape")
        await until(pilot, lambda: view.level == "list" and view.query_one("#list").has_focus)
        assert view.entry is not None and view.entry.label == "demo/0001"
        await pilot.press("o", "o")
        await until(pilot, lambda: [e.label for e in view._entries] == ["demo/0001", "demo/0002"])
        assert view.entry.label == "demo/0001", "the cursor stays on its adapter"


@at_sizes
async def test_settings_that_differ(start: Start, two: Path, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        view = await opened(pilot)
        await pilot.press("m", "m", "c")
        await until(pilot, lambda: view.level == "compare" and "unseen ppl" in text_of(pilot))
        text = text_of(pilot)
        assert any({"rank", "8", "16"} <= set(line.split()) for line in text.split("\n"))
        assert "Settings in which 2 adapters differ" in text and "DoRA" not in text.split("Settings in which")[1]


async def test_merged_models_and_their_report(start: Start, two: Path) -> None:
    write_merged(two, "demo-0001")
    write_merged(two, "bad", verification={"holds": False, "kl": 1.0})
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        assert "2 merged models (v)" in text_of(pilot)
        await pilot.press("v")
        await until(pilot, lambda: view.level == "merged" and view.query_one("#merged").has_focus)
        text = text_of(pilot)
        assert "holds" in text and "does not hold" in text and "1.267" in text
        while "demo-0001" not in str(view._merged[view.query_one("#merged", SortableTable).cursor].path.name):
            await pilot.press("j")
        await pilot.press("enter")
        await until(pilot, lambda: "yes; against tiny as none" in text_of(pilot))
        assert "merged 1.2674, base + adapter 1.2676 (1,311 tokens)" in text_of(pilot)
        await pilot.press("escape", "escape")
        await until(pilot, lambda: view.level == "list")


async def test_hostile_adapters(start: Start, two: Path) -> None:
    write_adapter(two, "demo/0003", base_model_name_or_path=HOSTILE, target_modules=[HOSTILE])
    write_adapter(two, "demo/0004", r=HOSTILE)
    for size in SIZES:
        async with start(size) as pilot:
            view = await opened(pilot, 4)
            for _ in range(4):
                await pilot.press("enter")
                await until(pilot, lambda view=view: view.level == "details")
                assert "\x1b" not in text_of(pilot) and "‮" not in text_of(pilot)
                await pilot.press("escape", "j")


async def test_of_all_projects_and_of_none(start: Start, two: Path) -> None:
    (two / "projects" / "empty").mkdir()
    (two / "projects" / "empty" / "project.toml").write_text("")
    async with start((120, 40)) as pilot:
        await opened(pilot, 2, "adapters:")
        await opened(pilot, 0, "adapters:empty")
        assert "project empty has no adapter yet" in text_of(pilot)
        await pilot.press("enter", "m", "c")
        await until(pilot, lambda: "only one adapter to compare" in text_of(pilot))
        await pilot.press("M")
        await until(pilot, lambda: "has no adapter yet: F5 trains one" in text_of(pilot))


@at_sizes
async def test_the_merge_dialog(
    start: Start, two: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(detach, "start", lambda *given: asked.append(given) or "demo/jobs/0001")
    async with start(size) as pilot:
        await opened(pilot)
        await pilot.press("M")
        await until(pilot, lambda: isinstance(pilot.app.screen, Merge) and "[x] demo/0002" in text_of(pilot))
        dialog = pilot.app.screen
        assert "\u2039 original \u203a" in text_of(pilot) and "Method" not in text_of(pilot)
        await pilot.press("j", "space")
        await until(pilot, lambda: "The best approximation of the weighted sum" in text_of(pilot))
        dialog.query_one("#method", Cycle).focus()
        await pilot.press("right", "right", "right")
        await until(pilot, lambda: dialog.query_one("#density-field").display)
        dialog.query_one("#density", Input).value = "2"
        dialog.query_one("#weights", Input).focus()
        await pilot.press(*"1 x", "enter")
        await until(pilot, lambda: "Weights: 2 numbers" in text_of(pilot))
        dialog.query_one("#weights", Input).value = "1, -0.5"
        await pilot.press("enter")
        await until(pilot, lambda: "Density: a number above 0" in text_of(pilot))
        dialog.query_one("#density", Input).value = "0.25"
        dialog.query_one("#base", Cycle).action_step(1)
        dialog.query_one("#replace", Cycle).action_step(1)
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: asked)
        root, project, verb, arguments = asked[0]
        assert (root, project, verb) == (two, "demo", "merge")
        assert arguments == [
            "--adapter=demo/0002", "--adapter=demo/0001", "--weight=1", "--weight=-0.5", "--method=ties", "--density=0.25",
            "--base-weights=nf4", f"--out={two}/projects/demo/merged/demo-0002+demo-0001-nf4", "--replace", "--verify",
        ]  # fmt: skip


def test_numbers() -> None:
    assert numbers("") == [] and numbers("1, .5 -2e1") == [1.0, 0.5, -20.0]
    assert numbers("nan") is None and numbers("1;2") is None


async def test_a_merge_is_followed_to_its_report(start: Start, two: Path) -> None:
    stage = events.Stage(name="merge", done=4_000_000, total=10_300_000, unit="bytes")
    label = write_job(two, "demo", "merge", [stage])
    async with start((120, 40)) as pilot:
        view = await opened(pilot)
        await until(pilot, lambda: f"merge {label} running" in text_of(pilot) and "4.0 MB of 10.3 MB" in text_of(pilot))
        folder = write_merged(two, "demo-0001")
        log = events.EventLog(two / "projects" / "demo" / "jobs" / "0001" / "events.jsonl")
        log(events.Saved(what="merged model", path=str(folder), bytes=10_300_000))
        log(events.Finished(reason="done", seconds=3.0))
        log.close()
        await until(pilot, lambda: view.level == "merged" and "holds" in text_of(pilot))
        assert f"{label} running" not in text_of(pilot)


async def test_evaluating_the_marked_ones(start: Start, two: Path) -> None:
    async with start((120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("j", "m", "e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Evaluate) and "[x] demo/0001" in text_of(pilot))
        assert "[ ] demo/0002" in text_of(pilot)


async def test_export_copies_the_folder(start: Start, two: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "mine"
    async with start((120, 40)) as pilot:
        await opened(pilot)
        for expected in ("copied to", "already exists; nothing was copied"):
            await pilot.press("E")
            await until(pilot, lambda: isinstance(pilot.app.screen, AskLine))
            pilot.app.screen.query_one(Input).value = str(target)
            await pilot.press("enter")
            await until(pilot, lambda said=expected: said in " ".join(text_of(pilot).split()))
        assert sorted(p.name for p in target.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        assert [p.name for p in target.parent.iterdir()] == ["mine"]


async def test_its_path_is_copied(start: Start, two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    monkeypatch.setattr(clipboard, "copy", lambda text, *_: copied.append(text) or "nowhere")
    async with start((80, 24)) as pilot:
        await opened(pilot)
        await pilot.press("j", "y")
        await until(pilot, lambda: copied == [str(two / "projects" / "demo" / "runs" / "0001" / "adapter")])


async def test_deleting_its_run(start: Start, two: Path) -> None:
    async with start((120, 40)) as pilot:
        await opened(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Confirm) and "demo/0002" in text_of(pilot))
        await pilot.press("y")
        await until(pilot, lambda: not (two / "projects" / "demo" / "runs" / "0002").exists())
        await until(pilot, lambda: "1 adapter;" in text_of(pilot))
        assert any((two / ".trash").iterdir())


@pytest.mark.slow
async def test_a_real_merge(start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine: a short training on the starter base, its adapter merged, the proof on the screen."""
    from workbench.jobs import launch

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (workspace / "projects" / "demo" / "project.toml").write_text(
        '[model]\nbase = "starter"\n[data]\ntrain = "data/rows.jsonl"\ntest_fraction = 0.5\n[train]\nsteps = 3\n'
        '[launch]\ndevice = "cpu"\n'
    )
    label = await asyncio.to_thread(launch.new_run, workspace, "demo")
    await asyncio.to_thread(launch.launch, workspace, label)
    run: Any = store.Workspace(workspace).run(label)
    async with start((120, 40)) as pilot:
        await until(pilot, lambda: run.state().state == "done", 300.0)
        view = await opened(pilot, 1)
        await pilot.press("M")
        await until(pilot, lambda: isinstance(pilot.app.screen, Merge))
        await pilot.press("enter")
        await until(pilot, lambda: len(view._merged) == 1, 300.0)
        await until(pilot, lambda: view.level == "merged" and "holds" in text_of(pilot), 30.0)
        assert (view._merged[0].path / "model.safetensors").is_file()
