"""The screen: what is shown at which size, toggled, focused, resized, zoomed, and remembered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from tests.workbench.conftest import Start, started, steps, text_of, until, write_run
from workbench.editors.run_view import RunView
from workbench.settings import State

REGIONS = ("sidebar", "editor", "panel", "inspector")


def shown(pilot) -> set[str]:
    screen = pilot.app.workbench
    return {name for name in REGIONS if screen.region_widget(name).display}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((80, 24), {"editor"}), ((120, 40), {"sidebar", "editor", "panel"}), ((200, 50), set(REGIONS))],
)
async def test_regions_follow_the_size_of_the_terminal(start: Start, size, expected) -> None:
    async with start(size) as pilot:
        assert shown(pilot) == expected
        assert "LoRA Workbench" in text_of(pilot)


async def test_every_region_can_be_toggled_and_the_focus_goes_on(start: Start) -> None:
    async with start((120, 40)) as pilot:
        await pilot.press("f9")
        assert "sidebar" not in shown(pilot)
        await pilot.press("f9", "1")
        await until(pilot, lambda: pilot.app.workbench.focused_region == "sidebar")
        await pilot.press("f9")
        assert "sidebar" not in shown(pilot) and pilot.app.workbench.focused_region == "editor"
        await pilot.press("f8", "f7")
        assert shown(pilot) == {"editor", "inspector"}


async def test_numbers_focus_regions_and_f6_goes_round(start: Start) -> None:
    async with start((200, 50)) as pilot:
        for key, region in (("3", "panel"), ("1", "sidebar"), ("4", "inspector")):
            await pilot.press(key)
            await until(pilot, lambda region=region: pilot.app.workbench.focused_region == region)
        await pilot.press("f6")
        await until(pilot, lambda: pilot.app.workbench.focused_region == "sidebar")


async def test_zoom_shows_one_region_and_gives_all_back(start: Start) -> None:
    async with start((120, 40)) as pilot:
        before = shown(pilot)
        await pilot.press("1", "f4")
        await until(pilot, lambda: shown(pilot) == {"sidebar"})
        assert pilot.app.workbench.region_widget("sidebar").size.width > 100
        await pilot.press("f4")
        assert shown(pilot) == before


def wide(pilot: Pilot) -> int:
    """Columns of the side bar."""
    return pilot.app.workbench.region_widget("sidebar").outer_size.width


async def test_the_focused_region_is_resized_within_bounds(start: Start) -> None:
    async with start((120, 40)) as pilot:
        await pilot.press("1", *[">"] * 32)
        await until(pilot, lambda: wide(pilot) == 80)
        await pilot.press(*["<"] * 36)
        await until(pilot, lambda: wide(pilot) == 16)


async def test_in_a_narrow_terminal_the_side_bar_lies_over_and_escape_closes_it(start: Start) -> None:
    async with start((80, 24)) as pilot:
        await pilot.press("1")
        await until(pilot, lambda: "demo" in text_of(pilot))
        assert pilot.app.workbench.region_widget("sidebar").has_class("-over")
        await pilot.press("escape")
        await until(pilot, lambda: "sidebar" not in shown(pilot))


async def test_a_resize_storm_ends_in_order(start: Start) -> None:
    async with start((120, 40)) as pilot:
        for size in [(80, 24), (200, 50), (20, 5), (1, 1), (300, 90), (99, 31), (100, 32)] * 2:
            await pilot.resize_terminal(*size)
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert shown(pilot) == {"sidebar", "editor", "panel"}


async def test_the_layout_comes_back(start: Start) -> None:
    async with start((120, 40)) as pilot:
        before = wide(pilot)
        await pilot.press("f8", "1", ">", ">")
        await until(pilot, lambda: wide(pilot) == before + 4)
        pilot.app.remember()
    async with start((120, 40)) as pilot:
        assert "panel" not in shown(pilot)
        await until(pilot, lambda: wide(pilot) == before + 4)


async def test_a_split_shows_two_groups_and_ends_with_its_last_tab(start: Start) -> None:
    async with start((120, 40)) as pilot:
        editors = pilot.app.workbench.editors
        await editors.open("learn:low-rank")
        await pilot.press("ctrl+backslash")
        await until(pilot, lambda: len(editors.groups) == 2)
        assert [len(g.all) for g in editors.groups] == [1, 1]
        await editors.close(editors.groups[1].front)
        assert len(editors.groups) == 1 and editors.front.uri == "welcome:"


def test_a_damaged_state_file_counts_as_none(tmp_path: Path) -> None:
    state = State(Path("/workspace"), tmp_path)
    assert state.save({"layout": {"view": "runs"}, "tabs": []}) is None
    assert State(Path("/workspace"), tmp_path).get("layout", {}) == {"view": "runs"}
    for damage in ("", "{", "[1, 2]", "\x00"):
        state.path.write_text(damage)
        assert State(Path("/workspace"), tmp_path).get("layout", {}) == {}
    state.path.write_text(json.dumps({"layout": 3}))
    assert State(Path("/workspace"), tmp_path).get("layout", {}) == {}


async def test_remembered_nonsense_is_passed_over(start: Start, tmp_path: Path, workspace: Path) -> None:
    nonsense = {
        "layout": {"wanted": {"sidebar": 3, "panel": "x"}, "sizes": {"sidebar": 10**9, "panel": "y"}, "view": "nope"},
        "tabs": [{"tabs": ["nope:x", 7, "run:demo/9999"], "front": 3}, "x", {"tabs": "welcome:"}],
        "theme": "no such theme", "project": "gone",
    }  # fmt: skip
    state = State(workspace, tmp_path / "state")
    state.save(nonsense)
    async with start((120, 40)) as pilot:
        assert pilot.app.project == "demo" and "sidebar" in shown(pilot)


async def test_the_tab_opened_last_has_the_focus_though_one_before_is_slow(
    start: Start, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is typed into a prompt right after it was opened is not lost to a run that was opened just before."""
    write_run(workspace, "demo/0001", [started(), *steps(3)])

    def later(self: RunView, callback: Callable[..., Any], *given: Any) -> bool:
        return bool(self.set_timer(0.3, lambda: callback(*given)))

    monkeypatch.setattr(RunView, "call_after_refresh", later)
    async with start((120, 40)) as pilot:
        pilot.app.open("run:demo/0001")
        pilot.app.open("compare:demo")
        await until(pilot, lambda: bool(pilot.app.workbench.editors.find("compare:demo")))
        view = pilot.app.workbench.editors.find("compare:demo")
        await until(pilot, lambda: view.box.has_focus)
        await asyncio.sleep(0.5)
        await pilot.pause()
        assert view.box.has_focus and pilot.app.workbench.editors.front is view
