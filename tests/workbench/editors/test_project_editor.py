"""The project editor: mistakes as they are made, help, completion, finding, saving, other programs, swap files."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.workbench.conftest import PROJECT, Start, at_sizes, text_of, until
from workbench.editors.project_editor import ProjectEditor
from workbench.jobs import files
from workbench.views.problems import ProblemsView
from workbench.widgets.banner import Banner


async def opened(pilot: Pilot) -> ProjectEditor:
    """The editor of the project `demo`, its file read, checked and explained."""
    app = pilot.app
    app.open("project:demo")
    await until(pilot, lambda: isinstance(app.workbench.editors.front, ProjectEditor))
    editor = app.workbench.editors.front
    assert isinstance(editor, ProjectEditor)
    await until(pilot, lambda: editor.loaded and editor.checked >= 0 and editor.schema and editor.area.has_focus)
    return editor


def file_of(workspace: Path) -> Path:
    return workspace / "projects" / "demo" / "project.toml"


def swaps(pilot: Pilot) -> list[Path]:
    return list((pilot.app.state.folder / "swap").glob("*.json"))


# --- mistakes


@at_sizes
async def test_a_typo_is_told_and_goes_when_it_is_fixed(start: Start, size: tuple[int, int]) -> None:
    async with start(size) as pilot:
        editor = await opened(pilot)
        editor.reveal((7, 1))
        await pilot.press("x")  # xr = 8
        await until(pilot, lambda: len(pilot.app.problems) == 1)
        (problem,) = pilot.app.problems
        assert (problem.uri, problem.line, problem.column) == ("project:demo", 7, 1)
        assert "unknown key `lora.xr`" in problem.text
        await until(pilot, lambda: "unknown key `lora.xr`" in text_of(pilot))
        shown = text_of(pilot)
        assert "7✗ xr = 8" in shown and "1 problem" in shown and "Ln 7, Col 2" in shown
        if size[1] >= 32:
            assert "PROBLEMS 1" in shown and "✗ demo:7:1" in shown
        await pilot.press("backspace")
        await until(pilot, lambda: len(pilot.app.problems) == 0)
        await until(pilot, lambda: "✗" not in text_of(pilot))
        assert not editor.dirty


async def test_the_problems_list_jumps_and_keys_go_round(start: Start) -> None:
    async with start((120, 40)) as pilot:
        editor = await opened(pilot)
        editor.area.put(PROJECT + "wrong = 1\n[lora2]\n")
        await until(pilot, lambda: len(pilot.app.problems) == 2)
        editor.reveal((1, 1))
        await pilot.press("shift+f8")
        await until(pilot, lambda: editor.area.cursor_location == (10, 0))
        await pilot.press("shift+f8")
        await until(pilot, lambda: editor.area.cursor_location == (11, 1))
        await pilot.press("shift+f8")
        await until(pilot, lambda: editor.area.cursor_location == (10, 0))
        await pilot.press("ctrl+f8")
        await until(pilot, lambda: editor.area.cursor_location == (11, 1))
        await pilot.press("escape")  # the plain route
        await until(pilot, lambda: editor.has_focus)
        await pilot.press("N")
        await until(pilot, lambda: editor.area.cursor_location == (10, 0))
        for keys, place in ((("end", "enter"), (11, 1)), (("home", "enter"), (10, 0))):
            pilot.app.do("view.problems")
            await until(pilot, lambda: isinstance(pilot.app.focused, ProblemsView))
            await pilot.press(*keys)
            await until(pilot, lambda: editor.area.has_focus)
            await until(pilot, lambda place=place: editor.area.cursor_location == place)


async def test_enter_in_the_problems_list_goes_to_the_first(start: Start) -> None:
    async with start((120, 40)) as pilot:
        editor = await opened(pilot)
        editor.area.put(PROJECT + "wrong = 1\n")
        await until(pilot, lambda: len(pilot.app.problems) == 1)
        editor.reveal((1, 1))
        pilot.app.do("view.problems")
        await until(pilot, lambda: isinstance(pilot.app.focused, ProblemsView))
        await pilot.press("enter")
        await until(pilot, lambda: editor.area.has_focus and editor.area.cursor_location == (10, 0))


async def test_closing_takes_its_problems_away(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        editor.area.put("[nothing]\n")
        await until(pilot, lambda: len(pilot.app.problems) == 1)
        await pilot.app.workbench.editors.close(editor, ask=False)
        await until(pilot, lambda: len(pilot.app.problems) == 0)


# --- help and completion


async def test_the_inspector_explains_the_key_under_the_cursor(start: Start) -> None:
    async with start((200, 50)) as pilot:
        editor = await opened(pilot)
        editor.reveal((7, 3))
        await until(pilot, lambda: "lora.r" in str(editor.inspected))
        for words in (
            "Rank of the update.",
            "whole number",
            "at least 1",
            "value   8",
            "default 16",
            "enough for most",
        ):
            assert words in str(editor.inspected)
        await until(pilot, lambda: "Rank of the update." in text_of(pilot))
        editor.reveal((6, 2))
        await until(pilot, lambda: "[lora]" in str(editor.inspected))


async def test_completion_by_keys_does_not_steal_typing(start: Start) -> None:
    async with start((80, 24)) as pilot:
        editor = await opened(pilot)
        popup = editor.area.popup
        editor.reveal((7, 99))
        await pilot.press("enter", *"dro")
        await until(pilot, lambda: popup.shown)
        assert "Dropout on the adapter" in text_of(pilot)
        await pilot.press("p", "o")
        await until(pilot, lambda: popup.shown)
        await pilot.press("tab")
        await until(pilot, lambda: editor.area.document.get_line(7) == "dropout = ")
        await pilot.press(*"0.1", "enter")  # a number: Enter is a line, not an offer
        await pilot.pause()
        assert editor.area.document.get_line(7) == "dropout = 0.1" and editor.area.cursor_location == (8, 0)
        await pilot.press(*"in")
        await until(pilot, lambda: popup.shown)
        await pilot.press("escape")
        assert not popup.shown and editor.area.has_focus
        await pilot.press(*"it = ", *'"p', "enter")
        await until(pilot, lambda: editor.area.document.get_line(8) == 'init = "pissa"')


async def test_completion_by_arrows_and_mouse(start: Start) -> None:
    async with start((80, 24)) as pilot:
        editor = await opened(pilot)
        popup = editor.area.popup
        editor.area.put("[model]\nquantization = \n")
        editor.reveal((2, 99))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: popup.shown)
        assert [c.label for c in popup.completion.candidates] == ["none", "int8", "nf4", "fp4"]
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: editor.area.document.get_line(1) == 'quantization = "nf4"')
        await pilot.press("ctrl+z")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: popup.shown)
        await pilot.pause()
        await pilot.click(popup, offset=(4, 3))
        await until(pilot, lambda: editor.area.document.get_line(1) == 'quantization = "fp4"')
        assert editor.area.has_focus


async def test_paths_of_the_workspace_are_offered(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        editor.area.put('[data]\ntrain = ""\n')
        editor.reveal((2, 10))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: editor.area.popup.shown)
        assert "data/rows.jsonl" in [c.label for c in editor.area.popup.completion.candidates]


# --- editing


async def test_comment_indent_undo_and_going_to_a_line(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        area = editor.area
        editor.reveal((7, 1))
        await pilot.press("ctrl+underscore")
        await until(pilot, lambda: area.document.get_line(6) == "# r = 8  # small")
        await pilot.press("ctrl+underscore")
        await until(pilot, lambda: area.text == PROJECT and not editor.dirty)
        await pilot.press("shift+down", "shift+down", "shift+down", "tab")
        assert area.document.get_line(6).startswith("  r") and area.document.get_line(8) == "  [train]"
        await pilot.press("ctrl+z")
        assert area.text == PROJECT
        await pilot.press("ctrl+y", "shift+tab")
        assert area.text == PROJECT
        await pilot.press("ctrl+g")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"10:7", "enter")
        await until(pilot, lambda: area.cursor_location == (9, 6) and area.has_focus)
        await until(pilot, lambda: "Ln 10, Col 7  TOML" in text_of(pilot))
        await pilot.press("ctrl+home")
        assert area.cursor_location == (0, 0)
        await pilot.press("ctrl+end")
        assert area.cursor_location == area.document.end


async def test_find_and_replace(start: Start) -> None:
    async with start((80, 24)) as pilot:
        editor = await opened(pilot)
        await pilot.press("ctrl+f")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"TRAIN")
        await until(pilot, lambda: "1 of 2" in text_of(pilot))
        await pilot.press("f3")
        await until(pilot, lambda: editor.area.selected_text == "train" and editor.area.cursor_location == (8, 1))
        await pilot.press("escape")
        assert editor.area.has_focus
        await pilot.press("ctrl+r")
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"data/", "tab", *"else/", "tab", "tab")
        await until(pilot, lambda: "1 of 1" in text_of(pilot))
        await pilot.click("#all")
        await until(pilot, lambda: 'train = "else/rows.jsonl"' in editor.area.text)
        pilot.app.do("edit.undo")
        await until(pilot, lambda: editor.area.text == PROJECT)


@pytest.mark.parametrize("ascii", [False, True])
async def test_hostile_text_is_shown_and_kept(start: Start, workspace: Path, ascii: bool) -> None:
    from workbench.settings import Settings

    hostile = (
        "# [red]x[/] \x1b[31m \u202e rtl \u2066 🙂 e\u0301 漢字 \x07\u2028end\n[lora]\nr = 8 # " + "long " * 3000 + "\n"
    )
    file_of(workspace).write_bytes(hostile.encode())
    async with start((80, 24), Settings(ascii=ascii)) as pilot:
        editor = await opened(pilot)
        shown = text_of(pilot)
        assert "[red]x[/]" in shown
        assert not set(shown) & set("\x1b\x07\u202e\u2066\u2028")
        assert ("?[31m" if ascii else "␛[31m") in shown
        assert len(pilot.app.problems) == 1  # TOML allows no control characters
        await pilot.press("end", "space", "ctrl+s")
        await until(pilot, lambda: not editor.dirty)
        assert file_of(workspace).read_bytes().decode() == hostile.replace("end\n", "end \n")


# --- saving


async def test_saving_keeps_comments_and_line_ends(start: Start, workspace: Path) -> None:
    file_of(workspace).write_bytes(PROJECT.replace("\n", "\r\n").encode())
    async with start() as pilot:
        editor = await opened(pilot)
        editor.reveal((7, 5))
        await pilot.press("delete", "6")
        assert editor.dirty and "demo ●" in text_of(pilot)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not editor.dirty)
        assert file_of(workspace).read_bytes() == PROJECT.replace("r = 8", "r = 6").replace("\n", "\r\n").encode()


async def test_a_full_disk_is_told_and_loses_nothing(start: Start, workspace: Path, monkeypatch) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        await pilot.press("x")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr("engine.files.os.replace", full)
            await pilot.press("ctrl+s")
            await until(pilot, lambda: "No space left on device" in text_of(pilot))
        assert file_of(workspace).read_text() == PROJECT and not list(workspace.rglob("*.part"))
        assert editor.dirty and editor.area.text.startswith("x#")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not editor.dirty)
        assert file_of(workspace).read_text() == f"x{PROJECT}"


async def test_a_file_changed_on_disk_is_read_again_where_nothing_was_typed(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        editor.reveal((10, 3))
        file_of(workspace).write_text(PROJECT.replace("r = 8", "r = 4"))
        await until(pilot, lambda: "r = 4" in editor.area.text)
        assert not editor.dirty and editor.area.cursor_location == (9, 2)


async def test_a_file_changed_on_disk_is_asked_about_where_something_was_typed(start: Start, workspace: Path) -> None:
    theirs = PROJECT.replace("r = 8", "r = 4")
    async with start((80, 24)) as pilot:
        editor = await opened(pilot)
        await pilot.press("x")
        file_of(workspace).write_text(theirs)
        await until(pilot, lambda: "was changed on disk" in text_of(pilot))
        assert "Compare" in text_of(pilot) and editor.area.text == f"x{PROJECT}"  # the focus is where it was
        await pilot.press("y", "ctrl+s")
        await until(pilot, lambda: "Overwrite" in text_of(pilot) and "Cancel" in text_of(pilot))
        await pilot.press("c")
        await until(pilot, lambda: "-r = 4" in text_of(pilot))
        assert "+r = 8" in text_of(pilot) and "+xy# A project" in text_of(pilot)
        await pilot.press("enter")  # overwrite
        await until(pilot, lambda: not editor.dirty)
        assert file_of(workspace).read_text() == f"xy{PROJECT}"
        file_of(workspace).write_text(theirs)
        await until(pilot, lambda: editor.area.text == theirs)


async def test_a_file_changed_just_before_saving_is_noticed(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        await pilot.press("x")
        file_of(workspace).write_text("[lora]\n")
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "was changed on disk by another program since" in text_of(pilot))
        await pilot.press("r")  # reload
        await until(pilot, lambda: editor.area.text == "[lora]\n" and not editor.dirty)
        await pilot.press("ctrl+z")  # and what was typed is not lost
        await until(pilot, lambda: editor.area.text == f"x{PROJECT}")


async def test_a_file_that_was_removed_can_be_saved_again(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        file_of(workspace).unlink()
        await until(pilot, lambda: editor.dirty and "was removed" in text_of(pilot))
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not editor.dirty)
        assert file_of(workspace).read_text() == PROJECT
        file_of(workspace).unlink()
        file_of(workspace).parent.rmdir()
        await until(pilot, lambda: editor.dirty)
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "its folder is gone" in text_of(pilot))


async def test_text_that_is_not_utf8_is_shown_and_never_written(start: Start, workspace: Path) -> None:
    file_of(workspace).write_bytes(b"# caf\xe9\n[lora]\n")
    async with start() as pilot:
        editor = await opened(pilot)
        assert "not UTF-8 (byte 5)" in text_of(pilot) and editor.area.read_only
        await pilot.press("x", "ctrl+s")
        await pilot.pause()
        assert file_of(workspace).read_bytes() == b"# caf\xe9\n[lora]\n"


# --- closing, and what is not saved


async def test_closing_asks_and_may_save_discard_or_cancel(start: Start, workspace: Path) -> None:
    async with start() as pilot:
        editors = pilot.app.workbench.editors
        editor = await opened(pilot)
        for key in ("c", "d", "s"):
            editor.area.focus()
            await pilot.press("x", "escape")
            await until(pilot, lambda: editor.has_focus)  # noqa: B023
            await pilot.press("x")
            await until(pilot, lambda: "changes that are not saved" in text_of(pilot))
            await pilot.press(key)
            await pilot.pause()
            if key == "c":
                assert editors.find("project:demo") is editor and editor.dirty
            else:
                await until(pilot, lambda: editors.find("project:demo") is None)
                assert file_of(workspace).read_text().count("x#") == (key == "s")
                editor = await opened(pilot)


async def test_unsaved_text_is_kept_a_second_later_and_goes_when_saved(start: Start) -> None:
    async with start() as pilot:
        editor = await opened(pilot)
        await pilot.press("x")
        await until(pilot, lambda: swaps(pilot))
        (path,) = swaps(pilot)
        assert json.loads(path.read_text())["text"] == f"x{PROJECT}"
        await pilot.press("ctrl+s")
        await until(pilot, lambda: not swaps(pilot))
        assert not editor.dirty


def leave(pilot: Pilot, text: str, pid: int = 999_999_999, started: float = 1.0) -> Path:
    """What a workbench that is gone has left."""
    folder = pilot.app.state.folder / "swap"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{files.Swap(folder.parent, 'project:demo').stem}.{pid}.json"
    left = files.Unsaved("project:demo", text, time.time() - 60, "", pid, started)
    path.write_text(json.dumps({name: getattr(left, name) for name in left.__slots__}))
    return path


async def test_what_a_lost_terminal_left_is_offered_and_recovered(start: Start, workspace: Path) -> None:
    async with start((80, 24)) as pilot:
        path = leave(pilot, f"# mine\n{PROJECT}")
        editor = await opened(pilot)
        await until(pilot, lambda: "unsaved text of" in text_of(pilot) and "Recover" in text_of(pilot))
        assert editor.area.text == PROJECT and not editor.dirty
        banner = editor.query_one(Banner)
        await pilot.click(next(c for c in banner.children if c.name == "recover"))
        await until(pilot, lambda: editor.area.text == f"# mine\n{PROJECT}")
        assert editor.dirty
        await until(pilot, lambda: not path.exists() and swaps(pilot))
        assert file_of(workspace).read_text() == PROJECT


async def test_what_was_left_is_kept_until_it_is_decided_about(start: Start) -> None:
    async with start() as pilot:
        path = leave(pilot, "mine")
        editor = await opened(pilot)
        await until(pilot, lambda: "unsaved text of" in text_of(pilot))
        await pilot.press("x")
        await until(pilot, lambda: len(swaps(pilot)) == 2)
        assert json.loads(path.read_text())["text"] == "mine"
        editor.run_worker(editor._answer("drop"))
        await until(pilot, lambda: not path.exists())


async def test_another_living_workbench_is_told_and_left_alone(start: Start) -> None:
    from engine.store import process_start

    async with start() as pilot:
        path = leave(pilot, "theirs", os.getppid(), process_start(os.getppid()))
        await opened(pilot)
        await until(pilot, lambda: "another workbench" in text_of(pilot))
        assert path.exists()


async def test_quitting_with_the_layout_saved_brings_the_tab_and_unsaved_text_back(start: Start) -> None:
    async with start() as pilot:
        await opened(pilot)
        await pilot.press("x")
        pilot.app.exit()  # not the quit command: as if the terminal were closed
    for thread in __import__("threading").enumerate():
        if thread.name.startswith("Thread-"):
            thread.join(5)
    async with start() as pilot:
        folder = pilot.app.state.folder / "swap"
        assert any(json.loads(p.read_text())["text"] == f"x{PROJECT}" for p in folder.glob("*.json"))


# --- another editor


async def test_no_editor_to_hand_over_to_is_said(start: Start, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("EDITOR", "no-such-program")
    monkeypatch.delenv("VISUAL", raising=False)
    async with start() as pilot:
        await opened(pilot)
        pilot.app.do("file.external")
        await until(pilot, lambda: "no editor to hand over to" in text_of(pilot))
