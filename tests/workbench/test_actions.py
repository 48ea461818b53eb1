"""The registry: one place for every command, each with a route that survives every terminal, each done by something."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.workbench.conftest import Start, text_of, until
from workbench import actions, keymap
from workbench.modals.help import key_name, keys_text
from workbench.modals.which_key import entries
from workbench.settings import Settings

ROOT = Path(__file__).parents[2] / "workbench"


def methods() -> set[str]:
    """Names of all functions in the workbench's sources."""
    found: set[str] = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


def test_every_action_is_done_by_something_and_everything_done_is_an_action() -> None:
    have = {name for name in methods() if name.startswith("act_")}
    assert have == {f"act_{a.method}" for a in actions.registry().values()}


def test_every_command_has_a_route_that_survives_every_terminal() -> None:
    """A plain key in its pane, or a path through the menu on space. (The palette lists all of them besides.)"""
    for action in actions.registry().values():
        plain = any(actions._plain(key) for key in action.keys.split(",") if key)
        assert plain or action.menu, action.id


def test_no_key_that_does_not_arrive_is_used() -> None:
    for action in actions.registry().values():
        for key in action.keys.split(","):
            assert key not in keymap.UNRELIABLE and not key.startswith(("alt+", "ctrl+shift+")), action.id


def test_no_two_actions_of_a_place_share_a_key() -> None:
    assert keymap.clashes({}) == []


def test_menu_paths_do_not_end_inside_one_another() -> None:
    paths = [a.menu for a in actions.registry().values() if a.menu]
    for path in paths:
        assert not any(other != path and other.startswith(path) for other in paths), path


def test_the_menu_leads_to_every_path() -> None:
    for action in actions.registry().values():
        for depth in range(len(action.menu)):
            assert action in entries(action.menu[:depth])[action.menu[depth]]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"run.strat": "f5"}, "did you mean run.start?"),
        ({"run.start": "ctrl+m"}, "arrives as Enter"),
        ({"run.start": "f1"}, "f1 is given to both"),
        ({"app.quit": ""}, "app.quit has no key"),
    ],
)
def test_mistakes_of_a_key_map_are_said(keys: dict[str, str], said: str) -> None:
    assert any(said in problem for problem in keymap.problems(keys))
    assert keymap.problems({}) == []


def test_keys_are_written_for_people() -> None:
    assert key_name("ctrl+right_square_bracket") == "ctrl+]"
    assert keys_text(actions.registry()["app.quick-open"], {}) == "ctrl+p, F2"
    assert keys_text(actions.registry()["app.quick-open"], {"app.quick-open": "question_mark"}) == "?"


async def test_a_key_map_moves_a_command_to_another_key(start: Start) -> None:
    async with start(settings=Settings(keys={"view.panel": "f3"})) as pilot:
        panel = pilot.app.workbench.region_widget("panel")
        await pilot.press("f8")
        assert panel.display
        await pilot.press("f3")
        assert not panel.display


async def test_space_opens_the_menu_and_letters_lead_on(start: Start) -> None:
    async with start((80, 24)) as pilot:
        await pilot.press("space")
        await until(pilot, lambda: "+run" in text_of(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "Show the explorer" in text_of(pilot))
        await pilot.press("backspace", "escape")
        await until(pilot, lambda: "+run" not in text_of(pilot))
        await pilot.press("space", "j")
        await until(pilot, lambda: "No problems." in text_of(pilot))


async def test_what_fails_is_shown_and_ends_nothing(start: Start) -> None:
    async with start() as pilot:
        pilot.app.do("run.open")
        await until(pilot, lambda: "has no runs yet" in text_of(pilot))
        pilot.app.do("project.delete")
        await until(pilot, lambda: "not here" in text_of(pilot))


async def test_help_is_about_what_is_focused(start: Start) -> None:
    async with start((120, 40)) as pilot:
        await pilot.press("1")
        await until(pilot, lambda: pilot.app.workbench.focused_region == "sidebar")
        await pilot.press("f1")
        await until(pilot, lambda: "Keys of explorer" in text_of(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "Keys of explorer" not in text_of(pilot))


async def test_the_keyboard_doctor_shows_what_arrives(start: Start) -> None:
    async with start((120, 40)) as pilot:
        pilot.app.do("app.keys")
        await until(pilot, lambda: "Keyboard doctor" in text_of(pilot))
        await pilot.press("f5", "ctrl+q", "escape")
        await until(pilot, lambda: "Run: Start training" in text_of(pilot) and "Go: Quit" in text_of(pilot))
        assert pilot.app.is_running
        await pilot.press("escape", "escape")
        await until(pilot, lambda: "Keyboard doctor" not in text_of(pilot))


async def test_jump_labels_lead_where_they_stand(start: Start) -> None:
    async with start((200, 50)) as pilot:
        await pilot.press("3", "ctrl+o")
        await until(pilot, lambda: len(pilot.app.screen_stack) == 2)
        letter, target = next((k, w) for k, w in pilot.app.screen.targets.items() if w.id == "view-explorer")
        await pilot.press(letter)
        await until(pilot, lambda: pilot.app.focused is target)
