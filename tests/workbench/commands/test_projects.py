"""Duplicating and renaming projects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from textual.widgets import Input

from engine.errors import InputError
from engine.store import process_start
from tests.workbench.conftest import PROJECT, Start, started, steps, text_of, until, write_run
from workbench.editors.project_editor import ProjectEditor
from workbench.jobs import projects


async def test_a_duplicate_has_the_file_and_not_the_runs(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(2)])
    async with start() as pilot:
        pilot.app.do("project.duplicate")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        assert "demo-copy" in text_of(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "demo-copy" in pilot.app.snapshot.projects)
        copy = workspace / "projects" / "demo-copy"
        assert [p.name for p in copy.iterdir()] == ["project.toml"] and (copy / "project.toml").read_text() == PROJECT


async def test_renaming_takes_runs_and_tabs_along(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(2)])
    async with start() as pilot:
        pilot.app.open("project:demo")
        await until(pilot, lambda: isinstance(pilot.app.workbench.editors.front, ProjectEditor))
        pilot.app.do("project.rename")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press("end", *"2", "enter")
        await until(pilot, lambda: pilot.app.workbench.editors.find("project:demo2") is not None)
        assert pilot.app.workbench.editors.find("project:demo") is None
        assert (workspace / "projects" / "demo2" / "runs" / "0001" / "events.jsonl").is_file()
        assert not (workspace / "projects" / "demo").exists()
        await until(pilot, lambda: list(pilot.app.snapshot.projects) == ["demo2"])


async def test_a_project_with_a_running_run_is_not_renamed(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(os.getpid(), process_start(os.getpid())), *steps(2)])
    async with start() as pilot:
        await until(pilot, lambda: pilot.app.snapshot.projects["demo"].runs)
        pilot.app.do("project.rename")
        await until(pilot, lambda: "demo/0001 is running" in text_of(pilot))
    with pytest.raises(InputError, match="demo/0001 is running"):
        projects.rename(workspace, "demo", "other")
    assert (workspace / "projects" / "demo").is_dir()


def test_names_that_are_taken_or_cannot_be(workspace: Path) -> None:
    (workspace / "projects" / "empty").mkdir()
    for name, words in (
        ("demo", "already"),
        ("empty", "already"),
        ("a/b", "cannot be"),
        ("7", "cannot be"),
        ("..", "cannot"),
    ):
        with pytest.raises(InputError, match=words):
            projects.duplicate(workspace, "demo", name)
