"""Random keys never crash or freeze the workbench: seeded, at several sizes, on a workspace with hostile names and text."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import pytest

from engine import events
from tests.workbench.conftest import Start, started, steps, until, write_run
from workbench import actions

HOSTILE = [
    "[red]x[/]",
    "\x1b[31mred\x07",
    "\u202egnirts",
    "👩‍👩‍👧 \U0001f600",
    "a\tb\r\nc",
    "x" * 100_000,
    "\x00",
    "[@click=app.quit]q[/]",
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyzGNY0123456789/:?<>[]@#.,-+ "]
MOVES = ["up", "down", "left", "right", "home", "end", "pageup", "pagedown", "tab", "shift+tab", "enter", "enter", "escape",
         "escape", "space", "backspace", "delete"]  # fmt: skip


def keys() -> list[str]:
    """Everything that may be pressed, but what quits."""
    bound = {key for a in actions.registry().values() for key in a.keys.split(",") if key}
    return [k for k in (*bound, *LETTERS, *MOVES) if k not in ("ctrl+q", "q")]


def fill(root: Path) -> None:
    """Runs in several states whose texts are hostile, and such data."""
    said = [events.Sample(model=text, prompt=text, text=text, step=i) for i, text in enumerate(HOSTILE)]
    said += [events.Note(text=text, level="warning") for text in HOSTILE]
    write_run(root, "demo/0001", [started(), *steps(30), *said, events.Finished(reason="done")])
    write_run(root, "demo/0002", [started(), *steps(5, of=50), events.Failed(problem=HOSTILE[0], where=HOSTILE[1])])
    write_run(root, "demo/0003", [started(), *steps(5, of=50)])
    with (root / "data" / "rows.jsonl").open("a", encoding="utf-8", errors="surrogatepass") as file:
        for text in HOSTILE:
            file.write(json.dumps({"prompt": text, "completion": text}) + "\n")
        file.write("{broken\n")


@pytest.fixture(autouse=True)
def no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is started ends at once without a word, which has to be taken well, too."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setenv("EDITOR", "/bin/true")


async def storm(start: Start, workspace: Path, size: tuple[int, int], seed: int, presses: int) -> None:
    fill(workspace)
    pool, dice = keys(), random.Random(seed)
    pressed: list[str] = []
    async with start(size) as pilot:
        app = pilot.app
        await until(pilot, lambda: len(app.snapshot.runs) == 3)
        for number in range(presses):
            pressed.append(dice.choice(pool))
            begun = time.monotonic()
            await pilot.press(pressed[-1])
            assert app.is_running, pressed[-12:]
            assert time.monotonic() - begun < 20, f"frozen by {pressed[-12:]}"
            if number % 97 == 96:
                await pilot.resize_terminal(*dice.choice([(80, 24), (120, 40), (200, 50), (40, 10)]))
        for _ in range(20):
            if len(app.screen_stack) == 1:
                break
            await pilot.press("escape", "escape")
        assert len(app.screen_stack) == 1, (app.screen_stack, pressed[-12:])


@pytest.mark.parametrize(("size", "seed"), [((80, 24), 1), ((120, 40), 2)])
async def test_a_short_storm(start: Start, workspace: Path, size: tuple[int, int], seed: int) -> None:
    await storm(start, workspace, size, seed, 150)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("size", "seed"), [((80, 24), 3), ((120, 40), 4), ((200, 50), 5)])
async def test_a_long_storm(start: Start, workspace: Path, size: tuple[int, int], seed: int) -> None:
    await storm(start, workspace, size, seed, 2000)
