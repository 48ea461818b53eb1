"""The data view on real engine processes: rows, the row as the model sees it, ledger, hostile text, changes on disk."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from tests.workbench.conftest import Start, at_sizes, text_of, until
from workbench.editors.data_view import DataView
from workbench.settings import Settings
from workbench.widgets.data_panes import LedgerPane, Places

WAIT = 90.0
"""Seconds for what a tokenizer has to be loaded for, on a busy machine."""


def write_rows(root: Path, lines: list[str], table: str = "", train: str = "max_length = 64") -> None:
    (root / "data" / "rows.jsonl").write_text(
        "".join(line + "\n" for line in lines), encoding="utf-8", errors="surrogatepass"
    )
    text = f'[data]\ntrain = "data/rows.jsonl"\n{table}\n[train]\n{train}\n'
    (root / "projects" / "demo" / "project.toml").write_text(text)


def pair(prompt: str, completion: str) -> str:
    return json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False)


def numbered(count: int) -> list[str]:
    return [pair(f"What is {i}?", f"It is {i}.") for i in range(1, count + 1)]


async def open_data(pilot: Pilot) -> DataView:
    """The view, with its first rows on the screen."""
    pilot.app.open("data:demo")
    await until(pilot, lambda: isinstance(pilot.app.workbench.editors.front, DataView))
    view = pilot.app.workbench.editors.front
    await until(pilot, lambda: view.opened and view.table.row is not None, 30.0)
    await until(pilot, lambda: view.pages["train"].complete, 30.0)
    view.focus_first()
    await pilot.pause()
    return view


@at_sizes
async def test_rows_are_there_and_can_be_gone_through(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    write_rows(workspace, numbered(5000))
    async with start(size) as pilot:
        view = await open_data(pilot)
        assert "What is 1?" in text_of(pilot) and "5,000 rows" in text_of(pilot)
        await pilot.press("G")
        await until(pilot, lambda: "What is 5000?" in text_of(pilot))
        assert view.told.startswith("row 5,000 of 5,000")
        await pilot.press("k", "k", "pageup", "pageup")
        await until(pilot, lambda: view.table.row is not None)
        assert view.table.row and view.table.row.number == 4998 - 2 * (view.table.size.height - 2)
        await pilot.press("ctrl+g")
        await pilot.press(*"2,718", "enter")
        await until(pilot, lambda: view.table.row is not None and view.table.row.number == 2718)
        await until(pilot, lambda: "What is 2718?" in text_of(pilot))
        await pilot.press("g")
        await until(pilot, lambda: view.table.cursor == 0)
        lines = text_of(pilot).split("\n")
        assert all(len(line) <= size[0] for line in lines) and len(lines) == size[1]


async def test_nothing_is_asked_for_while_nothing_happens(start: Start, workspace: Path) -> None:
    write_rows(workspace, numbered(300))
    async with start() as pilot:
        view = await open_data(pilot)
        await pilot.press("j", "G", "e")
        await until(pilot, lambda: view._surveyed, WAIT)
        await pilot.press("r", "w", "l")
        await until(pilot, lambda: view.table.row is not None and view.table.row.mark is not None)
        await pilot.pause(0.3)
        assert view.client is not None
        before = view.client.ask("marks", split="train", numbers=[1])
        await pilot.pause(0.5)
        assert view.client.ask("marks", split="train", numbers=[1]) - before <= 2


async def test_rows_are_asked_for_only_where_they_are_in_sight(start: Start, workspace: Path) -> None:
    write_rows(workspace, numbered(20_000))
    async with start() as pilot:
        view = await open_data(pilot)
        asked: list[int] = []
        original = view._ask_page
        view._ask_page = lambda page: (asked.append(page), original(page))[1]  # type: ignore[method-assign]
        for position in range(1000, 19_000, 60):
            view.table.show_row(position)
        await until(pilot, lambda: view.table.row is not None)
        await pilot.pause()
        assert len(set(asked)) < 30, "pages that were only passed are not asked for"
        assert sum(1 for _ in view.pages["train"].rows()) <= 30 * 50


@at_sizes
async def test_a_row_as_the_model_sees_it(start: Start, workspace: Path, size: tuple[int, int]) -> None:
    write_rows(workspace, numbered(3))
    async with start(size) as pilot:
        view = await open_data(pilot)
        await pilot.press("j", "s")
        await until(pilot, lambda: "tokens supervised" in text_of(pilot), WAIT)
        document = view._documents["train", 2]
        assert f"{document['supervised']} of {document['tokens']} tokens supervised" in text_of(pilot)
        assert "⟦It is 2." in text_of(pilot) and "What is 2?" in text_of(pilot)
        await pilot.press("b")
        await until(pilot, lambda: "⟦It│ is│ │2│" in text_of(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "⟦" not in text_of(pilot))


@at_sizes
async def test_the_ledger_lists_what_is_refused_and_enter_opens_the_place(
    start: Start, workspace: Path, size: tuple[int, int]
) -> None:
    long = pair("long", "word " * 300)
    write_rows(
        workspace, [*numbered(30), "not json", pair("a", ""), long, pair("What is 1?", "It is 1.")], "max_refused = 1.0"
    )
    async with start(size) as pilot:
        view = await open_data(pilot)
        await pilot.press("e")
        await until(pilot, lambda: view._surveyed, WAIT)
        await pilot.pause()
        text = text_of(pilot)
        for line in ("read", "34", "kept whole", "31", "cut", "refused", "duplicates"):
            assert line in text
        assert "the numbers add up" in text and "rows.jsonl:31" in text and "rows.jsonl:32" in text
        opened: list[tuple] = []
        pilot.app.open = lambda uri, place=None, focus=True: opened.append((uri, place))  # type: ignore[method-assign]
        assert isinstance(pilot.app.focused, Places) and isinstance(pilot.app.focused.parent, LedgerPane)
        await pilot.press("j", "j", "enter")
        await until(pilot, lambda: opened)
        assert opened[0][0] == "file:data/rows.jsonl" and opened[0][1][0] in (31, 32)
        await pilot.press("i")
        await until(pilot, lambda: "train.max_length = 64: longer rows are cut" in text_of(pilot))
        assert "1 of 32 rows (3.1 %) longer than 64" in text_of(pilot)
        await pilot.press("o")
        await until(pilot, lambda: "no unseen rows" in text_of(pilot))
        await pilot.press("r")
        await until(pilot, lambda: view.table.row is not None and view.table.row.mark is not None)
        await pilot.press("G")
        await until(pilot, lambda: "repeated" in text_of(pilot))


async def test_rows_that_a_fraction_keeps(start: Start, workspace: Path) -> None:
    write_rows(workspace, [*numbered(20), pair("What is 1?", "other"), pair("what  IS 1?", "x")], "test_fraction = 0.5")
    async with start((120, 40)) as pilot:
        view = await open_data(pilot)
        await pilot.press("t")
        await until(pilot, lambda: view.split == "test" and view.pages["test"].complete, WAIT)
        await until(pilot, lambda: view.table.row is not None)
        assert view.pages["test"].known == 11
        await pilot.press("o")
        await until(pilot, lambda: "unseen rows" in text_of(pilot))
        await pilot.press("t", "r")
        await until(pilot, lambda: "unseen" in text_of(pilot) and "What is 1?" in text_of(pilot))


HOSTILE = [
    pair("[red]x[/] [bold", "[link='x']y[/link] [/nothing]"),
    pair("\x1b[31mred\x1b[0m", "\x07\x9b2J\x1b]52;c;x\x07"),
    pair("\u202e\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u2066x\u2069"),
    pair("👩\u200d👩\u200d👧\u200d👦 🇩🇪 ✋🏽", "日本語テキスト" * 30),
    pair("a\tb\r\nc\n\nd", "e\u2028f"),
    pair("long", "y" * 1_000_000),
    json.dumps({"x" * 500: "[z]", "prompt": "p", "completion": "c"}),
    json.dumps({"prompt": "\ud800", "completion": "half"}),
    "\x00",
    '{"prompt": {"deep": [1, {"x": "[red]"}]}, "completion": "z"}',
]


@pytest.mark.parametrize(
    ("size", "ascii"), [((80, 24), False), ((120, 40), True), pytest.param((200, 50), False, marks=pytest.mark.slow)]
)
async def test_hostile_rows_act_on_nothing(start: Start, workspace: Path, size: tuple[int, int], ascii: bool) -> None:
    write_rows(workspace, [*HOSTILE, *numbered(3)], "max_refused = 1.0")
    async with start(size, Settings(ascii=ascii)) as pilot:
        view = await open_data(pilot)
        for key in "jlwjlhjsvrjljsbrjwljsrjjsrj":
            await pilot.press(key)
            shown = text_of(pilot)
            assert not any(c in shown for c in "\x1b\x07\x9b\x00\u202e\u2028\ud800")
        await pilot.press("g")
        await until(pilot, lambda: "[red]x[/] [" in text_of(pilot))
        await pilot.press("j", "j")
        await until(pilot, lambda: view.table.row is not None and view.table.row.number == 3)
        assert pilot.app.is_running


async def test_find_goes_from_row_to_row(start: Start, workspace: Path) -> None:
    write_rows(workspace, numbered(400))
    async with start() as pilot:
        view = await open_data(pilot)
        await pilot.press("ctrl+f")
        await pilot.press(*"IS 77", "enter")
        await until(pilot, lambda: view.table.cursor == 76, 20.0)
        assert view.search.numbers == [77]
        await pilot.press("escape", "n")
        await pilot.pause()
        assert view.table.cursor == 76


async def test_a_process_that_dies_is_said_and_can_be_started_again(start: Start, workspace: Path) -> None:
    write_rows(workspace, numbered(10))
    async with start() as pilot:
        view = await open_data(pilot)
        assert view.client is not None
        child = view.client._children["rows"]
        assert child.process is not None
        os.kill(child.process.pid, signal.SIGKILL)
        await until(pilot, lambda: "ended by itself (signal 9)" in text_of(pilot))
        assert "R starts it again" in text_of(pilot)
        await pilot.press("j", "R")
        await until(pilot, lambda: view.table.row is not None and view.opened and view.table.row.number == 2, 20.0)
        assert "ended by itself" not in text_of(pilot)


async def test_processes_end_with_the_tab(start: Start, workspace: Path) -> None:
    import psutil

    async with start() as pilot:
        view = await open_data(pilot)
        assert view.client is not None
        pids = view.client.pids()
        assert pids and all(psutil.pid_exists(pid) for pid in pids)
        await pilot.app.workbench.editors.close(view)
        await until(pilot, lambda: not any(psutil.pid_exists(pid) for pid in pids), 20.0)


async def test_other_data_settings_are_noticed_and_comments_are_not(start: Start, workspace: Path) -> None:
    write_rows(workspace, numbered(10))
    (workspace / "data" / "other.jsonl").write_text(pair("another file", "yes") + "\n")
    async with start() as pilot:
        view = await open_data(pilot)
        client, file = view.client, workspace / "projects" / "demo" / "project.toml"
        file.write_text(file.read_text() + "# a comment\n[lora]\nr = 4\n")
        import asyncio

        await asyncio.sleep(1.5)
        await pilot.pause()
        assert view.client is client
        file.write_text(file.read_text().replace("rows.jsonl", "other.jsonl"))
        await until(pilot, lambda: "another file" in text_of(pilot), 20.0)


@pytest.mark.parametrize(
    ("lines", "table", "said"),
    [
        ([], "", "no rows"),
        (['{"apple": "a", "pear": "b"}'], "", "the shape of the rows is not known"),
        (numbered(2), 'test = "data/none.jsonl"', "What is 1?"),
        (numbered(2), "test_fraction = 7", "What is 1?"),
    ],
)
async def test_what_is_wrong_is_said_and_the_rest_is_shown(
    start: Start, workspace: Path, lines: list[str], table: str, said: str
) -> None:
    write_rows(workspace, lines, table)
    async with start() as pilot:
        pilot.app.open("data:demo")
        await until(pilot, lambda: said in text_of(pilot), 30.0)
        await pilot.press("j", "e", "i", "o", "s", "r")
        assert pilot.app.is_running


async def test_a_source_that_is_not_there_is_named(start: Start, workspace: Path) -> None:
    (workspace / "data" / "rows.jsonl").unlink()
    async with start() as pilot:
        pilot.app.open("data:demo")
        await until(pilot, lambda: "there is no such file or folder" in text_of(pilot), 30.0)
        view = pilot.app.workbench.editors.front
        assert isinstance(view, DataView)
        wrong = view.query_one("#wrong", Static)
        assert wrong.has_class("-shown")
        write_rows(workspace, numbered(2))
        view.focus_first()
        await pilot.press("R")
        await until(pilot, lambda: "What is 1?" in text_of(pilot), 30.0)
        assert not wrong.has_class("-shown")
