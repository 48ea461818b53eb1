"""Random keys never crash or freeze the workbench, and the terminal shows at any time what a screen drawn whole would show:
seeded, at several sizes, on a workspace with hostile names and text."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

from engine import events
from tests.workbench.conftest import Start, started, steps, text_of, until, write_run
from tests.workbench.evaluations import document, write_adapter, write_evaluation
from tests.workbench.mirror import Mirror, mirrored
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


VIEWS = ["project:demo", "data:demo", "run:demo/0001", "run:demo/0002", "runs:demo", "eval:demo", "adapters:demo",
         "learn:low-rank", "file:data/rows.jsonl", "compare:demo", "welcome:", "project:[red]x["]  # fmt: skip
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What acts on a terminal and must never be on the screen."""


def keys() -> list[str]:
    """Everything that may be pressed, but what quits."""
    bound = {key for a in actions.registry().values() for key in a.keys.split(",") if key}
    return [k for k in (*bound, *LETTERS, *MOVES) if k not in ("ctrl+q", "q")]


def fill(root: Path) -> None:
    """Runs in several states, adapters, an evaluation, data, names: whose texts are hostile."""
    said = [events.Sample(model=text, prompt=text, text=text, step=i) for i, text in enumerate(HOSTILE)]
    said += [events.Note(text=text, level="warning") for text in HOSTILE]
    write_run(root, "demo/0001", [started(), *steps(30), *said, events.Finished(reason="done")])
    write_run(root, "demo/0002", [started(), *steps(5, of=50), events.Failed(problem=HOSTILE[0], where=HOSTILE[1])])
    write_run(root, "demo/0003", [started(), *steps(5, of=50)])
    with (root / "data" / "rows.jsonl").open("a", encoding="utf-8", errors="surrogatepass") as file:
        for text in HOSTILE:
            file.write(json.dumps({"prompt": text, "completion": text}) + "\n")
        file.write("{broken\n")
        file.write(json.dumps({"prompt": "y" * 1_000_000, "completion": "\x1b[2J" * 1000}) + "\n")
    write_adapter(root, "demo/0001", base_model_name_or_path=HOSTILE[1], target_modules=[HOSTILE[0], HOSTILE[2]])
    write_adapter(root, "demo/0002", r="many")
    names = ["base", "demo-0001", HOSTILE[0], HOSTILE[1] + HOSTILE[2]]
    made = document(names, answer=lambda model, at: HOSTILE[at % len(HOSTILE)] + f" {at}", long=HOSTILE[1])
    write_evaluation(root, "demo/0001", made)
    (root / "projects" / "[red]x[" / "]").mkdir(parents=True)
    (root / "projects" / "[red]x[" / "project.toml").write_text('[data]\ntrain = "\\u001b[31m"\n')
    (root / "data" / "\x1b[31m[b]\u202e.jsonl").write_text("{}\n")


@pytest.fixture(autouse=True)
def no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is started ends at once without a word, which has to be taken well, too."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setenv("EDITOR", "/bin/true")


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mirror]]:
    with mirrored(monkeypatch) as found:
        yield found


async def lasting(pilot: Pilot, mirror: Mirror) -> list[str]:
    """What the terminal shows otherwise than a screen drawn whole, and not only until the next frame."""
    wrong = mirror.differences()
    for _ in range(40):
        if not wrong:
            break
        await pilot.pause(0.05)
        wrong = mirror.differences() if mirror.settled else wrong
    return wrong


async def storm(
    start: Start, workspace: Path, size: tuple[int, int], seed: int, presses: int, mirrors: list[Mirror]
) -> None:
    fill(workspace)
    pool, dice = keys(), random.Random(seed)
    pressed: list[str] = []
    compared = 0
    async with start(size) as pilot:
        app = pilot.app
        await until(pilot, lambda: len(app.snapshot.runs) == 3)
        for number in range(presses):
            pressed.append(dice.choice(pool))
            begun = time.monotonic()
            await pilot.press(pressed[-1])
            assert app.is_running, pressed[-12:]
            assert time.monotonic() - begun < 20, f"frozen by {pressed[-12:]}"
            if number % 5 == 4 and mirrors and mirrors[-1].settled:
                compared += 1
                assert not (wrong := await lasting(pilot, mirrors[-1])), (wrong, pressed[-12:])
            if number % 25 == 24:
                assert not (found := UNSAFE.search(text_of(pilot))), (found, pressed[-12:])
                app.open(dice.choice(VIEWS), focus=dice.random() < 0.8)
            if number % 97 == 96:
                await pilot.resize_terminal(*dice.choice([(80, 24), (120, 40), (200, 50), (40, 10)]))
        for _ in range(20):
            if len(app.screen_stack) == 1:
                break
            await pilot.press("escape", "escape")
        assert len(app.screen_stack) == 1, (app.screen_stack, pressed[-12:])
        assert compared > presses / 20


@pytest.mark.parametrize(("size", "seed"), [((80, 24), 1), pytest.param((120, 40), 2, marks=pytest.mark.slow)])
async def test_a_short_storm(
    start: Start, workspace: Path, size: tuple[int, int], seed: int, mirrors: list[Mirror]
) -> None:
    await storm(start, workspace, size, seed, 60, mirrors)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("size", "seed"), [((80, 24), 3), ((120, 40), 4), ((200, 50), 5)])
async def test_a_long_storm(
    start: Start, workspace: Path, size: tuple[int, int], seed: int, mirrors: list[Mirror]
) -> None:
    await storm(start, workspace, size, seed, 2000, mirrors)
