"""Keys that come faster than they are worked off do what they would have done slowly, in the same order."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from textual import constants
from textual.events import Key
from textual.pilot import Pilot
from textual.widgets import Input

from engine import events
from tests.workbench.conftest import PROJECT, Start, started, steps, until, write_run
from tests.workbench.editors.test_project_editor import opened
from workbench.keys import PrefixParser
from workbench.modals.keyboard_doctor import KeyboardDoctor
from workbench.modals.quick_open import QuickOpen
from workbench.modals.which_key import WhichKey
from workbench.modals.wizard import Wizard


def send(pilot: Pilot, *pieces: str) -> None:
    """Bytes as a terminal sends them, each piece's delay after an Escape being over; all keys at once, none waited for."""
    for piece in pieces:
        parser = PrefixParser()
        messages = [*parser.feed(piece)]
        time.sleep(2 * constants.ESCAPE_DELAY if piece.startswith("\x1b") else 0)
        for message in (*messages, *parser.tick()):
            assert isinstance(message, Key)
            message.set_sender(pilot.app)
            pilot.app.post_message(message)


@pytest.mark.parametrize("pieces", [("\x1b", "u"), ("\x1bu",)], ids=["two keys", "read as alt+u"])
async def test_a_letter_right_behind_escape_is_a_command(start: Start, pieces: tuple[str, ...]) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        await pilot.press("x")
        await until(pilot, lambda: editor.area.text.startswith("x# A"))
        send(pilot, *pieces)
        await until(pilot, lambda: editor.has_focus)
        await until(pilot, lambda: editor.area.text == PROJECT)  # u has undone it


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ("\x1b", ["escape"]), ("\x1bu", ["alt+u"]), ("\x1bN", ["alt+shift+n"]), ("\x1b1", ["alt+1"]),
        ("\x1b:", ["alt+colon"]), ("\x1b ", ["alt+space"]), ("\x1b[", ["alt+left_square_bracket"]),
        ("\x1b\r", ["enter"]), ("\x1b[A", ["up"]), ("\x1bOP", ["f1"]), ("1", ["1"]), ("é", ["é"]), ("\x1bé", ["alt+é"]),
    ],
)  # fmt: skip
def test_the_parser_keeps_the_escape(given: str, keys: list[str]) -> None:
    parser = PrefixParser()
    found = [*parser.feed(given)]
    time.sleep(2 * constants.ESCAPE_DELAY)
    assert [m.key for m in (*found, *parser.tick()) if isinstance(m, Key)] == keys


async def test_escape_and_a_capital_and_a_digit(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        editor.area.put("wrong = 1\n" + PROJECT)
        await until(pilot, lambda: editor.marks)
        editor.reveal((5, 1))
        send(pilot, "\x1bN")  # the previous problem
        await until(pilot, lambda: editor.area.cursor_location == (0, 0))
        await pilot.press("i")
        send(pilot, "\x1b1")  # the side bar
        await until(pilot, lambda: pilot.app.workbench.focused_region == "sidebar")
        assert editor.area.text == "wrong = 1\n" + PROJECT


async def test_escape_and_a_space_open_the_menu(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        send(pilot, "\x1b ")
        await until(pilot, lambda: isinstance(pilot.app.screen, WhichKey))
        assert editor.area.text == PROJECT


async def test_what_is_typed_before_ctrl_s_is_saved(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        send(pilot, *"# abc\r", "\x13")
        file = workspace / "projects" / "demo" / "project.toml"
        await until(pilot, lambda: file.read_text().startswith("# abc\n# A project"))
        await until(pilot, lambda: not editor.dirty)


async def test_escape_from_a_dialog_is_for_the_dialog(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuickOpen) and isinstance(pilot.app.focused, Input))
        send(pilot, "\x1bz")  # closes it; the z is typed where the focus was
        await until(pilot, lambda: not isinstance(pilot.app.screen, QuickOpen))
        await until(pilot, lambda: editor.area.text == f"z{PROJECT}")


async def test_a_key_whose_widget_goes_holds_up_nothing(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        send(pilot, "\x06", *"lora", "\x1b")  # ctrl+f; the bar that had the focus goes
        await until(pilot, lambda: editor.area.has_focus and not editor.find_bar.display)
        await pilot.press("q")
        await until(pilot, lambda: "q" in editor.area.text)


async def test_the_keyboard_doctor_sees_keys_as_they_come(start: Start) -> None:
    async with start() as pilot:
        pilot.app.do("app.keys")
        await until(pilot, lambda: isinstance(pilot.app.screen, KeyboardDoctor))
        doctor = pilot.app.screen
        assert isinstance(doctor, KeyboardDoctor)
        send(pilot, "\x1bp")
        await until(pilot, lambda: doctor.pressed and doctor.pressed[-1].startswith("alt+p "))


async def test_the_menu_opens_while_a_tab_is_being_made(start: Start, workspace: Path) -> None:
    write_run(workspace, "demo/0001", [started(), *steps(5), events.Finished(reason="done")])
    async with start() as pilot:
        app: Any = pilot.app
        await until(pilot, lambda: app.snapshot.runs)
        pilot.app.call_later(app.open, "run:demo/0001")
        for _ in range(30):  # at every stage of the tab's coming
            app.do("app.menu")
            assert isinstance(app.screen, WhichKey), [str(n.message) for n in app._notifications]
            app.screen.dismiss(None)
            await asyncio.sleep(0)
            await until(pilot, lambda: len(app.screen_stack) == 1)
        assert app.workbench.editors.front.uri == "run:demo/0001" and not app._notifications


async def test_a_form_is_filled_by_one_burst_of_keys(start: Start) -> None:
    async with start((120, 40)) as pilot:
        pilot.app.do("project.new")
        await until(pilot, lambda: isinstance(pilot.app.screen, Wizard) and isinstance(pilot.app.focused, Input))
        send(pilot, "sums\r\rdata/rows.jsonl\r50 %")
        values = lambda: [pilot.app.screen.query_one(f"#{f}", Input).value for f in ("name", "base", "data", "unseen")]  # noqa: E731
        await until(pilot, lambda: values()[-1].endswith("50 %"))
        assert values() == ["sums", "starter", "data/rows.jsonl", "50 %"]
