"""How the data view opens and goes through a dataset of a million rows.

    python tests/benchmarks/workbench_data.py [--rows 1000000] [--repeats 5]

A JSONL file is written into a temporary workspace, and one of 100 rows beside it, with which the same is done. Every
run is a process of its own, without a terminal (Textual's `run_test`, 120x40), with real engine processes. Measured: from
asking for the tab to the first rows on the screen; until all rows are counted; until the first row is shown as the model
sees it; growth of the workbench's resident memory over going everywhere in the table; from a jump to a far row to its
row; how late the event loop was meanwhile, which holds up every key; the engine processes' memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import psutil

from workbench.app import WorkbenchApp
from workbench.editors.data_view import DataView


def make(root: Path, project: str, rows: int) -> None:
    """A project and its rows, 156 bytes each in the middle, some of them longer."""
    (root / "projects" / project).mkdir(parents=True)
    (root / "projects" / project / "project.toml").write_text(f'[data]\ntrain = "data/{project}.jsonl"\n')
    (root / "data").mkdir(exist_ok=True)
    common = ["the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "as", "with"]
    words = random.Random(0).choices(common, k=4000)
    with (root / "data" / f"{project}.jsonl").open("w", encoding="utf-8") as file:
        for i in range(rows):
            at = i * 7 % 3900
            prompt = f"Question {i}: " + " ".join(words[at : at + 15])
            file.write(json.dumps({"prompt": prompt, "completion": " ".join(words[at : at + 5 + i % 20])}) + "\n")


def screen(app: WorkbenchApp) -> str:
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def until(holds: Callable[[], bool], seconds: float = 60.0) -> float:
    """Seconds until `holds()`, looked at every 2 ms."""
    begin = time.perf_counter()
    while not holds():
        if time.perf_counter() - begin > seconds:
            raise TimeoutError
        await asyncio.sleep(0.002)
    return time.perf_counter() - begin


async def lag(longest: list[float], over: asyncio.Event) -> None:
    """How late a task wakes that sleeps 5 ms at a time: what holds up the event loop holds up every key."""
    while not over.is_set():
        begin = time.perf_counter()
        await asyncio.sleep(0.005)
        longest.append(time.perf_counter() - begin - 0.005)


async def once(root: Path, project: str, rows: int) -> dict[str, float]:
    """One workbench, from its start to its end: times in seconds, memory in MB."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as state:
        app = WorkbenchApp(root, state_folder=Path(state))
        async with app.run_test(size=(120, 40)) as pilot:
            await until(lambda: bool(app.snapshot.projects) and bool(app.workbench.editors.all))
            await pilot.pause(1.0)
            gc.collect()
            process = psutil.Process()
            before = process.memory_info().rss
            begin = time.perf_counter()
            app.open(f"data:{project}")
            await until(lambda: "Question 12:" in screen(app))
            found["first rows on the screen"] = time.perf_counter() - begin
            view: Any = app.workbench.editors.front
            assert isinstance(view, DataView)
            await until(lambda: view.pages["train"].complete)
            found["all rows counted"] = time.perf_counter() - begin
            await until(lambda: bool(view._documents))
            found["first row as the model sees it"] = time.perf_counter() - begin
            await go_through(view, rows, found)
            gc.collect()
            found["memory growth, MB"] = (process.memory_info().rss - before) / 1e6
            children = process.children(recursive=True)
            found["engine processes, MB"] = sum(c.memory_info().rss for c in children) / 1e6
    return found


async def go_through(view: DataView, rows: int, found: dict[str, float]) -> None:
    """Jump to 60 places, then hold Page Down for 200 pages."""
    late: list[float] = []
    over = asyncio.Event()
    watching = asyncio.create_task(lag(late, over))
    jumps, chance = [], random.Random(1)
    for _ in range(60):
        number = chance.randrange(rows)
        start = time.perf_counter()
        view.table.show_row(number, centre=True)
        await until(lambda number=number: view.table.pages.row(number) is not None)
        jumps.append(time.perf_counter() - start)
        await asyncio.sleep(0.05)
    for _ in range(200):
        view.table.action_page(1)
        await asyncio.sleep(0.03)
    over.set()
    await watching
    found["jump to a row, median"], found["jump to a row, slowest"] = statistics.median(jumps), max(jumps)
    found["event loop late, median"], found["event loop late, worst"] = statistics.median(late), max(late)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--once", nargs=3, metavar=("FOLDER", "PROJECT", "ROWS"), help="one run, told as JSON")
    given = options.parse_args()
    if given.once:
        folder, project, rows = given.once
        print(json.dumps(asyncio.run(once(Path(folder), project, int(rows)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        sides = {f"{given.rows:,} rows": ("million", given.rows), "100 rows": ("hundred", 100)}
        for project, rows in sides.values():
            make(Path(folder), project, rows)
        size = (Path(folder) / "data" / "million.jsonl").stat().st_size
        print(f"{given.rows:,} rows, {size / 1e6:,.0f} MB; load average at the start {psutil.getloadavg()[0]:.1f}")
        commands = {
            side: [sys.executable, __file__, "--once", folder, project, str(rows)]
            for side, (project, rows) in sides.items()
        }
        runs = harness.in_turn(commands, given.repeats)
    print(f"{'median (least - most)':32}" + "".join(f"{side:>28}" for side in runs))
    for name in next(iter(runs.values()))[0]:
        shown = []
        for side in runs.values():
            values = [run[name] for run in side]
            form = "{:,.0f}" if "MB" in name else "{:,.3f}"
            told = [form.format(v) for v in (statistics.median(values), min(values), max(values))]
            shown.append(f"{told[0]} ({told[1]} - {told[2]})")
        print(f"{name:32}" + "".join(f"{text:>28}" for text in shown))


if __name__ == "__main__":
    main()
