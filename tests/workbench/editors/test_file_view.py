"""A file of any size: lines where they belong, finding, going to a line, jumping, and nothing in it acts."""

from __future__ import annotations

import json
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import Input

from tests.workbench.conftest import Start, at_sizes, text_of, until
from workbench.editors.file_view import FileView


async def opened(pilot: Pilot, name: str, place=None) -> FileView:
    app = pilot.app
    app.open(f"file:{name}", place=place)
    await until(pilot, lambda: isinstance(app.workbench.editors.front, FileView))
    view = app.workbench.editors.front
    assert isinstance(view, FileView)
    await until(pilot, lambda: view._whole and view.view.has_focus)
    return view


@at_sizes
async def test_a_big_file_shows_any_line(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    (workspace / "data" / "big.jsonl").write_bytes(b"".join(b'{"n": %d}\n' % i for i in range(200_000)))
    async with start(size) as pilot:
        view = await opened(pilot, "data/big.jsonl")
        await until(pilot, lambda: '1> {"n": 0}' in text_of(pilot))
        await pilot.press("G")
        await until(pilot, lambda: '200000> {"n": 199999}' in text_of(pilot))
        assert "Ln 200,000 of 200,000" in text_of(pilot)
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"123,457", "enter")
        await until(pilot, lambda: '123457> {"n": 123456}' in text_of(pilot))
        await pilot.press("j", "j", "k", "g")
        await until(pilot, lambda: view.view.cursor == 0)


async def test_finding_counts_marks_and_steps(start: Start, workspace: Path) -> None:
    rows = [f"row {i} {'Needle' if i % 1000 == 7 else ''}" for i in range(5000)]
    (workspace / "data" / "rows.txt").write_text("\n".join(rows))
    async with start((80, 24)) as pilot:
        view = await opened(pilot, "data/rows.txt")
        await pilot.press("ctrl+f")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"needle")
        await until(pilot, lambda: "1 of 5" in text_of(pilot) and view.view.cursor == 7)
        await pilot.press("enter", "enter")
        await until(pilot, lambda: "2008> row 2007 Needle" in text_of(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: view.view.has_focus)
        assert view.view._found == {}


async def test_a_place_is_jumped_to(start: Start, workspace: Path) -> None:
    (workspace / "data" / "rows.txt").write_text("\n".join(f"row {i}" for i in range(3000)))
    async with start() as pilot:
        view = await opened(pilot, "data/rows.txt", place=(2500, 2))
        await until(pilot, lambda: "2500> row 2499" in text_of(pilot))
        view.reveal(17)
        await until(pilot, lambda: "17> row 16" in text_of(pilot))
        view.reveal("nonsense")


async def test_hostile_text_and_a_line_of_a_megabyte(start: Start, workspace: Path) -> None:
    rows = ["x" * 1_000_000, json.dumps({"t": "[red]x[/]"}), "\x1b[31m\u202e\x9b\x07 漢字\ttab 🙂", "é" * 20_000]
    (workspace / "data" / "odd.jsonl").write_bytes("\n".join(rows).encode() + b"\n\xff\xfe\x00bin")
    async with start((200, 50)) as pilot:
        view = await opened(pilot, "data/odd.jsonl")
        await until(pilot, lambda: "␛[31m" in text_of(pilot))
        shown = text_of(pilot)
        assert not set(shown) & set("\x1b\u202e\x9b\x07") and "[red]x[/]" in shown and "漢字" in shown
        await until(pilot, lambda: "1.0 MB in this line" in str(view.inspected))
        await pilot.press("j")
        await until(pilot, lambda: '"t": "[red]x[/]"' in str(view.inspected))
        await pilot.press("l", "l", "0", "G")
        await until(pilot, lambda: view.view.cursor == 4)


async def test_a_file_that_is_not_there(start: Start) -> None:
    async with start() as pilot:
        await opened(pilot, "data/nothing.txt")
        await until(pilot, lambda: "cannot be read: No such file" in text_of(pilot))


async def test_a_log_that_grows_is_followed(start: Start, workspace: Path) -> None:
    path = workspace / "data" / "log.txt"
    path.write_text("one\n")
    async with start() as pilot:
        view = await opened(pilot, "data/log.txt")
        with path.open("a") as file:
            file.write("two\nthree")
        await until(pilot, lambda: "3  three" in text_of(pilot))
        assert view.view.count == 3
