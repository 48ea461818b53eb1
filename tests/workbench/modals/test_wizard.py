"""The form of a new project: reached by keys alone, checked as it is filled in, and what it writes is valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Input

from engine import spec
from tests.workbench.conftest import Start, at_sizes, text_of, until
from workbench.editors.project_editor import ProjectEditor
from workbench.jobs.projects import share_of
from workbench.modals.wizard import Wizard

SLOW = 60.0  # an engine process on a busy machine


async def opened(pilot: Pilot) -> Wizard:
    pilot.app.do("project.new")
    await until(pilot, lambda: isinstance(pilot.app.screen, Wizard) and isinstance(pilot.app.focused, Input))
    wizard = pilot.app.screen
    assert isinstance(wizard, Wizard)
    return wizard


def focused(pilot: Pilot) -> str | None:
    return pilot.app.focused.id if pilot.app.focused else None


@at_sizes
async def test_keys_alone_make_a_valid_project_and_open_it(
    start: Start, workspace: Path, size: tuple[int, int]
) -> None:
    async with start(size) as pilot:
        await opened(pilot)
        await pilot.press(*"fresh", "enter")
        assert focused(pilot) == "base"
        await pilot.press("enter")
        assert focused(pilot) == "data"
        await pilot.press(*"rows", "down", "enter")
        assert focused(pilot) == "unseen"
        await until(pilot, lambda: "prompt_completion" in text_of(pilot), SLOW)
        shown = text_of(pilot)
        assert "data/rows.jsonl" in shown and "10 %" in shown and "Create" in shown
        await pilot.press("tab")
        await until(pilot, lambda: "prompt: What is 0 + 1?" in text_of(pilot))
        assert isinstance(pilot.app.focused, Button)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.workbench.editors.front, ProjectEditor), SLOW)
        assert pilot.app.workbench.editors.front.uri == "project:fresh"
        project = spec.load(workspace / "projects" / "fresh" / "project.toml")
        assert (project.model.base, project.data.train) == ("starter", "data/rows.jsonl")
        assert project.data.test_fraction == 0.1
        await until(pilot, lambda: "fresh" in pilot.app.snapshot.projects)


async def test_the_name_is_checked_as_it_is_typed(start: Start, workspace: Path) -> None:
    async with start((80, 24)) as pilot:
        await opened(pilot)
        await pilot.press(*"a/b")
        await until(pilot, lambda: "cannot be a project's name" in text_of(pilot))
        await pilot.press("backspace", "backspace", "backspace", *"demo")
        await until(pilot, lambda: "there is a project demo already" in text_of(pilot))
        pilot.app.screen.query_one("#create", Button).press()
        await pilot.pause()
        await until(pilot, lambda: focused(pilot) == "name")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, Wizard))
        assert [p.name for p in (workspace / "projects").iterdir()] == ["demo"]


async def test_rows_of_unknown_shape_are_asked_about(start: Start, workspace: Path) -> None:
    rows = [{"message": f"m{i} [red]x[/] \x1b[31m", "reply": f"r{i}"} for i in range(4)]
    (workspace / "data" / "mail.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    async with start((80, 24)) as pilot:
        await until(pilot, lambda: "data/mail.jsonl" in pilot.app.snapshot.data)
        wizard = await opened(pilot)
        await pilot.press(*"mail", "enter", "enter", *"mail", "down", "enter")
        await until(pilot, lambda: "Prompt column" in text_of(pilot), SLOW)
        await until(pilot, lambda: "rows are prompt_completion" in text_of(pilot), SLOW)
        await until(pilot, lambda: "[red]x[/] \\x1b[31m" in text_of(pilot), SLOW)
        assert "\x1b" not in text_of(pilot)
        await pilot.press("enter", "enter", "enter", "enter")
        await until(pilot, lambda: pilot.app.screen is not wizard, SLOW)
        data = spec.load(workspace / "projects" / "mail" / "project.toml").data
        assert (data.prompt_column, data.completion_column) == ("message", "reply")


async def test_unseen_rows_beside_the_training_rows_are_found(start: Start, workspace: Path) -> None:
    for name in ("train", "test"):
        (workspace / "data" / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    async with start() as pilot:
        await until(pilot, lambda: "data/test.jsonl" in pilot.app.snapshot.data)
        wizard = await opened(pilot)
        wizard.query_one("#data", Input).value = "data/train.jsonl"
        await until(pilot, lambda: wizard.query_one("#unseen", Input).value == "data/test.jsonl")


async def test_what_the_engine_refuses_is_said(start: Start) -> None:
    async with start((80, 24)) as pilot:
        wizard = await opened(pilot)
        wizard.query_one("#name", Input).value = "fresh"
        wizard.query_one("#data", Input).value = "data/nothing.jsonl"
        await until(pilot, lambda: "there is no such file or folder" in text_of(pilot), SLOW)
        wizard.query_one("#create", Button).press()
        await until(pilot, lambda: text_of(pilot).count("there is no such file") == 2, SLOW)
        assert pilot.app.screen is wizard


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("10 %", 0.1),
        ("10%", 0.1),
        ("0.25", 0.25),
        ("0", None),
        ("1", None),
        ("200 %", None),
        ("data/x", None),
        ("nan", None),
    ],
)
def test_shares(text: str, share: float | None) -> None:
    assert share_of(text) == share
