"""The explorer: what it shows of a workspace, that it follows the disk, and that deleting is moving."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine import events
from engine.store import process_start
from tests.workbench.conftest import Start, started, steps, text_of, until, write_run
from workbench.jobs.trash import move_to_trash
from workbench.models.outline import outline
from workbench.models.workspace import Scanner
from workbench.views.explorer import Explorer


async def test_runs_appear_as_they_are_made(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        assert "runs (none yet)" in text_of(pilot)
        write_run(workspace, "demo/0001", [started(), *steps(5), events.Finished(reason="done")])
        await until(pilot, lambda: "✓ 0001 loss 1.82" in text_of(pilot))
        write_run(workspace, "demo/0002", [started(), *steps(2, of=10)])
        await until(pilot, lambda: "✗ 0002 killed" in text_of(pilot))


async def test_a_project_that_vanishes_is_no_longer_shown(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        shutil.rmtree(workspace / "projects" / "demo")
        await until(pilot, lambda: "New project" in text_of(pilot) and "demo" not in text_of(pilot))


async def test_delete_asks_then_moves_to_the_trash(start: Start, workspace: Path) -> None:
    folder = write_run(workspace, "demo/0001", [started(), events.Finished(reason="done")])
    async with start() as pilot:
        await until(pilot, lambda: "0001" in text_of(pilot))
        tree = pilot.app.workbench.query_one("#view-explorer")
        tree.focus()
        tree.move_cursor(next(n for n in tree._walk(tree.root) if n.data.key == "demo/0001"))
        await pilot.press("d")
        await until(pilot, lambda: "Move run demo/0001" in text_of(pilot))
        await pilot.press("n")
        await pilot.pause()
        assert folder.is_dir()
        await pilot.press("d")
        await until(pilot, lambda: "Move run demo/0001" in text_of(pilot))
        await pilot.press("y")
        await until(pilot, lambda: not folder.exists())
        kept = list((workspace / ".trash").iterdir())
        assert len(kept) == 1 and (kept[0] / "events.jsonl").is_file()


async def test_a_running_run_is_not_deleted(start: Start, workspace: Path) -> None:
    import os

    me = os.getpid()
    folder = write_run(workspace, "demo/0001", [started(me, process_start(me)), *steps(2, of=10)])
    async with start() as pilot:
        await until(pilot, lambda: "▶ 0001" in text_of(pilot))
        tree = pilot.app.workbench.query_one("#view-explorer")
        tree.focus()
        tree.move_cursor(next(n for n in tree._walk(tree.root) if n.data.key == "demo/0001"))
        await pilot.press("d")
        await until(pilot, lambda: "is running" in text_of(pilot))
        assert folder.is_dir()


def test_a_second_look_reads_no_log_again(workspace: Path, monkeypatch) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(5), events.Finished(reason="done")])
    scanner = Scanner(workspace)
    first = scanner.scan()
    from engine.store import Run

    monkeypatch.setattr(Run, "state", lambda self: 1 / 0)
    assert scanner.scan() == first


def test_the_outline_names_everything_once(workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), events.Finished(reason="done")])
    seen: list[str] = []

    def walk(nodes) -> None:
        for node in nodes:
            seen.append(node.key)
            walk(node.children)

    walk(outline(Scanner(workspace).scan()))
    assert len(seen) == len(set(seen)) and "demo/0001" in seen


def test_names_in_the_trash_do_not_meet(tmp_path: Path) -> None:
    kept = []
    for text in "ab":
        (tmp_path / "projects").mkdir(exist_ok=True)
        (tmp_path / "projects" / "x").write_text(text)
        kept.append(move_to_trash(tmp_path, tmp_path / "projects" / "x"))
    assert [p.read_text() for p in kept] == ["a", "b"]


async def test_a_new_project_is_unfolded_under_the_cursor(start: Start) -> None:
    async with start((120, 40)) as pilot:
        app: Any = pilot.app
        app.do("project.duplicate")
        await until(pilot, lambda: len(app.screen_stack) == 2 and app.focused is not None)
        await pilot.press("enter")
        tree = app.workbench.query_one(Explorer)
        await until(pilot, lambda: tree.cursor_node and tree.cursor_node.data.key == "demo-copy")
        assert tree.cursor_node.is_expanded
        await until(pilot, lambda: app.workbench.editors.front.uri == "project:demo-copy")
        assert app.project == "demo-copy"
