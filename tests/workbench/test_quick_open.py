"""The one box: what it finds after each prefix, and what Enter does."""

from __future__ import annotations

from pathlib import Path

from engine import events
from tests.workbench.conftest import Start, started, steps, text_of, until, write_run


async def ask(pilot, query: str) -> None:
    await pilot.press("f2")
    await until(pilot, lambda: len(pilot.app.screen_stack) == 2)
    from textual.widgets import Input

    pilot.app.screen.query_one(Input).value = query
    await pilot.pause()


async def test_commands_after_a_mark(start: Start) -> None:
    async with start((80, 24)) as pilot:
        await pilot.press(":")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 2)
        await pilot.press(*"toggle pan")
        await until(pilot, lambda: "View: Toggle panel" in text_of(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "No problems." in text_of(pilot))


async def test_runs_after_a_hash(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(3), events.Finished(reason="done")])
    async with start() as pilot:
        await until(pilot, lambda: bool(pilot.app.snapshot.runs))
        await ask(pilot, "#")
        assert "demo/0001" in text_of(pilot) and "done, loss 1.89" in text_of(pilot)


async def test_keys_of_the_project_file_after_an_at(start: Start) -> None:
    async with start() as pilot:
        await ask(pilot, "@lora.r")
        await until(pilot, lambda: "line 7" in text_of(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.workbench.editors.find("project:demo") is not None)


async def test_themes_are_shown_as_one_moves_and_escape_gives_the_old_one_back(start: Start) -> None:
    async with start() as pilot:
        before = pilot.app.theme
        await ask(pilot, "theme nord")
        await until(pilot, lambda: pilot.app.theme == "nord")
        await pilot.press("escape")
        await until(pilot, lambda: pilot.app.theme == before)
        await ask(pilot, "theme nord")
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.theme == "nord" and len(pilot.app.screen_stack) == 1)


async def test_markup_in_a_name_is_shown_as_it_stands(start: Start, workspace: Path) -> None:
    folder = workspace / "projects" / "[red]x[b] \x1b[31m"
    folder.mkdir()
    (folder / "project.toml").write_text("")
    async with start((120, 40)) as pilot:
        await until(pilot, lambda: len(pilot.app.snapshot.projects) == 2)
        await ask(pilot, "red")
        await until(pilot, lambda: "[red]x[b] \\x1b[31m" in text_of(pilot))
