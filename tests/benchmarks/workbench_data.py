"""How the data view opens and goes through a dataset of a million rows.

    python tests/benchmarks/workbench_data.py [--rows 1000000] [--repeat 5]

A JSONL file is written into a temporary workspace. The workbench runs without a terminal (Textual's `run_test`, 120x40),
its engine processes are the real ones. Measured: from asking for the tab to the first rows on the screen; until all rows
are counted; growth of the workbench's resident memory over going everywhere in the table; the longest time that the
event loop was held up meanwhile; from a jump to a far row to its text on the screen; the processes' memory.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from workbench.app import WorkbenchApp
from workbench.editors.data_view import DataView

PROJECT = '[data]\ntrain = "data/million.jsonl"\n'


def make(root: Path, rows: int) -> None:
    """A workspace with one project and its rows (180 bytes each, some of them longer)."""
    (root / "projects" / "million").mkdir(parents=True)
    (root / "projects" / "million" / "project.toml").write_text(PROJECT)
    (root / "data").mkdir()
    words = random.Random(0).choices(
        [
            "the",
            "of",
            "and",
            "a",
            "to",
            "in",
            "is",
            "you",
            "that",
            "it",
            "he",
            "was",
            "for",
            "on",
            "are",
            "as",
            "with",
            "his",
            "they",
        ],
        k=4000,
    )
    with (root / "data" / "million.jsonl").open("w", encoding="utf-8") as file:
        for i in range(rows):
            at = i * 7 % 3900
            row = {
                "prompt": f"Question {i}: " + " ".join(words[at : at + 15]),
                "completion": " ".join(words[at : at + 5 + i % 20]),
            }
            file.write(json.dumps(row) + "\n")


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


async def once(root: Path, rows: int) -> dict[str, float]:
    """One workbench, from its start to its end."""
    found: dict[str, float] = {}
    app = WorkbenchApp(root, state_folder=root / "state")
    async with app.run_test(size=(120, 40)) as pilot:
        await until(lambda: bool(app.snapshot.projects) and bool(app.workbench.editors.all))
        await pilot.pause(1.0)
        gc.collect()
        process = psutil.Process()
        before = process.memory_info().rss
        begin = time.perf_counter()
        app.open("data:million")
        await until(lambda: "Question 12:" in screen(app))
        found["first rows"] = time.perf_counter() - begin
        view: Any = app.workbench.editors.front
        assert isinstance(view, DataView)
        await until(lambda: view.pages["train"].complete)
        found["all counted"] = time.perf_counter() - begin
        longest: list[float] = []
        over = asyncio.Event()
        watching = asyncio.create_task(lag(longest, over))
        jumps = []
        chance = random.Random(1)
        for _ in range(40):
            number = chance.randrange(rows)
            start = time.perf_counter()
            view.table.show_row(number, centre=True)
            await until(lambda number=number: f"Question {number}:" in screen(app))
            jumps.append(time.perf_counter() - start)
        for _ in range(200):  # a held key
            view.table.action_page(1)
            await asyncio.sleep(0.02)
        over.set()
        await watching
        gc.collect()
        found["jump, median"], found["jump, slowest"] = statistics.median(jumps), max(jumps)
        found["event loop held up, longest"] = max(longest)
        found["memory growth, MB"] = (process.memory_info().rss - before) / 1e6
        children = process.children(recursive=True)
        found["engine processes, MB"] = sum(c.memory_info().rss for c in children) / 1e6
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, given.rows)
        size = (root / "data" / "million.jsonl").stat().st_size
        print(f"{given.rows:,} rows, {size / 1e6:,.0f} MB; load average at the start {psutil.getloadavg()[0]:.1f}")
        runs = [asyncio.run(once(root, given.rows)) for _ in range(given.repeat)]
    print(f"{'':30}{'median':>10}{'least':>10}{'most':>10}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        unit, factor = ("", 1) if "MB" in name else (" ms", 1000)
        shown = [f"{v * factor:,.0f}{unit}" for v in (statistics.median(values), min(values), max(values))]
        print(f"{name:30}" + "".join(f"{s:>10}" for s in shown))


if __name__ == "__main__":
    main()
