"""Only what differs is sent, and the terminal shows what a screen drawn whole would show."""

from __future__ import annotations

import random

import pytest
from textual._compositor import Compositor
from textual.app import App, ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.geometry import Region
from textual.screen import Screen
from textual.strip import Strip
from textual.widgets import Label, Static

from tests.workbench.conftest import Start, until
from tests.workbench.mirror import Mirror, mirrored
from workbench.compositor import Sparing

WORDS = [
    "",
    "one",
    "two words",
    "żółć",
    "[red]no markup[/]",
    "x" * 50,
    "a\nb\nc",
]  # half a wide character under the box: terminals differ


class Board(Screen):
    """Two scrolling columns of lines beneath a box that lies over them."""

    CSS = """
    Board { layers: below above; }
    VerticalScroll { width: 1fr; }
    #over { layer: above; width: 12; height: 4; background: $panel; }
    """
    compositor: type[Compositor] = Sparing

    def __init__(self) -> None:
        super().__init__()
        self._compositor = self.compositor()

    def compose(self) -> ComposeResult:
        with Vertical(), Horizontal():
            for _ in range(2):
                with VerticalScroll():
                    for number in range(12):
                        yield Static(f"line {number}", markup=False)
        yield Label("over", id="over")


class Boards(App):
    def on_mount(self) -> None:
        self.push_screen(Board())


def change(board: Board, dice: random.Random) -> None:
    """Something of what widgets do."""
    line = dice.choice(list(board.query(Static)))
    what = dice.randrange(8)
    if what < 3:
        line.update(dice.choice(WORDS), layout=dice.random() < 0.3)
    elif what == 3:
        line.display = not line.display
    elif what == 4:
        line.styles.background = dice.choice(["red", "blue", "black"])
    elif what == 5:
        board.query_one("#over").styles.offset = dice.randrange(-4, 30), dice.randrange(-2, 10)
    elif what == 6:
        board.query(VerticalScroll)[dice.randrange(2)].scroll_to(y=dice.randrange(12), animate=False)
    else:
        x, y = dice.randrange(10), dice.randrange(3)
        line.refresh(Region(x, y, dice.randrange(1, 30), 1))


@pytest.mark.parametrize("seed", range(4))
async def test_the_terminal_shows_what_a_whole_screen_would(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = random.Random(seed)
    with mirrored(monkeypatch) as mirrors:
        app = Boards()
        async with app.run_test(size=(40, 10)) as pilot:
            await pilot.pause()
            for _ in range(60):
                for _ in range(dice.randrange(1, 4)):
                    change(app.screen, dice)  # type: ignore[arg-type]
                await pilot.pause()
                while not mirrors[-1].settled:
                    await pilot.pause(0.01)
                assert not mirrors[-1].differences()
            assert mirrors[-1].updates > 30


async def test_nothing_stays_of_what_went_before_somebody_asked_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """After scrolling, a question for a widget out of sight arranges all widgets, and the next frame finds no change."""
    monkeypatch.setattr(Board, "compositor", Sparing)
    with mirrored(monkeypatch) as mirrors:
        app = Boards()
        async with app.run_test(size=(40, 10)) as pilot:

            async def drawn() -> str:
                await pilot.pause()
                await until(pilot, lambda: bool(mirrors) and mirrors[-1].settled)
                return "\n".join(mirrors[-1].terminal.display)

            assert "over" in await drawn()
            app.screen.query(VerticalScroll)[1].scroll_to(y=1, animate=False)
            await drawn()
            app.screen.query_one("#over").display = False
            assert app.screen.query(Static)[11].region.y > 10
            assert "over" not in await drawn()
            assert not mirrors[-1].differences()


async def sent_by(monkeypatch: pytest.MonkeyPatch, compositor: type[Compositor]) -> tuple[Mirror, list[str]]:
    """What is sent, and which widgets are asked for lines, when one line of each column changes."""
    asked: list[str] = []
    with mirrored(monkeypatch) as mirrors:
        app = Boards()
        Board.compositor = compositor
        async with app.run_test(size=(40, 10)) as pilot:
            await pilot.pause()
            lines = app.screen.query(Static)
            while not (mirrors and mirrors[-1].settled):
                await pilot.pause(0.1)
            before = mirrors[-1].sent
            for widget in app.screen.walk_children():
                render = widget.render_lines

                def counted(crop: Region, name: str = type(widget).__name__, render=render) -> list[Strip]:
                    asked.append(name)
                    return render(crop)

                widget.render_lines = counted  # type: ignore[method-assign]
            for line in (lines[5], lines[17]):
                line.update("changed", layout=False)
            lines[6].refresh()  # nothing else there
            await pilot.pause(0.1)
            while not mirrors[-1].settled:
                await pilot.pause(0.1)
            mirrors[-1].sent -= before
            found = list(asked)
            assert not mirrors[-1].differences()
            return mirrors[-1], found


async def test_what_is_covered_is_not_asked_and_what_is_the_same_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Board, "compositor", Sparing)
    mine, asked = await sent_by(monkeypatch, Sparing)
    theirs, all_asked = await sent_by(monkeypatch, Compositor)
    assert sorted(asked) == ["Static"] * 3 and {"Vertical", "Horizontal"} < set(all_asked)
    assert mine.sent < theirs.sent


async def test_a_terminal_that_something_else_wrote_on_is_drawn_anew(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(monkeypatch) as mirrors:
        async with start() as pilot:
            await until(pilot, lambda: mirrors[-1].settled)
            mirrors[-1].terminal.reset()
            await pilot.press("ctrl+l")
            await until(pilot, lambda: mirrors[-1].settled)
            assert not mirrors[-1].differences()
