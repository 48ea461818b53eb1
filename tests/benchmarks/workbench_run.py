"""Opening a run with 100,000 step events: time to the first chart and to the exact one, and what a redraw costs.

    python tests/benchmarks/workbench_run.py [--steps 100000] [--runs 7] [--json FILE]

The real program in a pseudo-terminal of 120 x 40, from the keys `space r o` to the first dots of a curve on the
terminal, beside a run of 100 steps opened in the same way; runs alternate. Inside the process (no terminal): from opening
the tab to the chart of all points, the longest that the screen's loop was held up meanwhile, and one redraw.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine import events  # noqa: E402
from tests.benchmarks.terminal import Terminal  # noqa: E402

BRAILLE = [bytes((0xE2, second)) for second in range(0xA0, 0xA4)]
"""How the UTF-8 of U+2800 to U+28FF begins."""


def write_log(root: Path, steps: int) -> Path:
    """A workspace with one project and one run that stopped after so many steps; returns its log."""
    run = root / "projects" / "long" / "runs" / "0001"
    run.mkdir(parents=True)
    (root / "projects" / "long" / "project.toml").write_text('[data]\ntrain = "data/none.jsonl"\n')
    chance, begun = random.Random(1), time.time() - steps
    said: list[events.Event] = [events.Started(verb="train", pid=1, pid_started=0.0, project="long", device="CPU")]
    for i in range(1, steps + 1):
        said.append(
            events.Step(
                step=i, steps=steps, loss=2.2 * math.exp(-3 * i / steps) + 0.3 + chance.gauss(0, 0.05),
                learning_rate=1e-3 * (1 - i / steps), gradient_norm=abs(chance.gauss(1, 0.2)), tokens=5000,
                supervised_tokens=2100, seconds=0.1, tokens_per_second=48_000 + chance.gauss(0, 2000),
                memory_bytes=1_200_000_000 + i, epoch=i / 4000,
            )
        )  # fmt: skip
        if i % 1000 == 0:
            nll = 2.3 * math.exp(-3 * i / steps) + 0.5
            said.append(
                events.Scored(
                    model="adapter", split="test", scope="completion", nll=1000 * nll, tokens=1000,
                    perplexity=math.exp(nll), step=i,
                )
            )  # fmt: skip
    said.append(events.Finished(reason="stopped", seconds=steps / 10))
    with (run / "events.jsonl").open("wb") as file:
        for number, event in enumerate(said):
            event.seq, event.t = number, begun + number
            file.write(events.encode(event))
    said.clear()
    return run / "events.jsonl"


def first_dots(workspace: Path, state: str) -> tuple[float, float]:
    """Seconds from `o` of `space r o` to the first Braille dots on the terminal, and the CPU time of it."""
    command = [sys.executable, "-m", "workbench", str(workspace)]
    terminal = Terminal(command, environment={"XDG_STATE_HOME": state}, folder=ROOT)
    try:
        terminal.wait_for("0001")  # the explorer lists it
        settled = time.perf_counter() + 2
        process = terminal.process
        while time.perf_counter() < settled:
            terminal.read(0.1)
        terminal.send(" r")
        terminal.wait_for("newest run")
        start, sent, used = len(terminal.output), time.perf_counter(), sum(process.cpu_times()[:2])
        terminal.send("o")
        while time.perf_counter() - sent < 30:
            terminal.read(0.02)
            if any(mark in terminal.output[start:] for mark in BRAILLE):
                return time.perf_counter() - sent, sum(process.cpu_times()[:2]) - used
        raise TimeoutError(terminal.text()[-1500:])
    finally:
        terminal.close()


async def inside(workspace: Path, state: Path, steps: int) -> dict[str, float]:
    """Seconds, in the process: chart of samples, chart of all points, longest hold-up, a redraw, a smoothed redraw."""
    from workbench.app import WorkbenchApp
    from workbench.widgets.line_chart import LineChart

    app = WorkbenchApp(workspace, state_folder=state)
    async with app.run_test(size=(120, 40)) as pilot:
        while not app.snapshot.runs:
            await pilot.pause(0.05)
        await pilot.pause(0.5)
        before = psutil.Process().memory_info().rss
        begun = last = time.perf_counter()
        app.open("run:long/0001")
        first = whole = held = 0.0
        while not whole and time.perf_counter() - begun < 60:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            held, last = max(held, now - last), now
            charts = app.query("#chart-loss").results(LineChart)
            chart = next(iter(charts), None)
            points = len(chart.curves[0].series) if chart is not None and chart.curves and chart._picture.columns else 0
            model = app.runs.get("long/0001")
            if points and not first:
                first = now - begun
            if points == steps and model is not None and model.reading >= 1.0 and not model.preview:
                whole = now - begun
        chart = app.query_one("#chart-loss", LineChart)
        grown = psutil.Process().memory_info().rss - before
        plain = timed(chart.redraw)
        chart.smoothing = 0.9
        smooth = timed(chart.redraw)
    return {"first": first, "whole": whole, "held": held, "redraw": plain, "smoothed": smooth, "grown": grown}


def timed(call, times: int = 20) -> float:
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = {"long": given.steps, "short": 100}
        logs = {name: write_log(Path(folder) / name, count) for name, count in counts.items()}
        print(f"{given.steps:,} steps: {logs['long'].stat().st_size / 1e6:.1f} MB")
        figures: dict[str, list[float]] = {}
        for number in range(given.runs):
            for name, count in counts.items():
                seconds, used = first_dots(Path(folder) / name, f"{folder}/state-{name}-{number}")
                figures.setdefault(f"{name}: keys to first dots on the terminal", []).append(seconds)
                figures.setdefault(f"{name}: CPU time of that", []).append(used)
                found = asyncio.run(inside(Path(folder) / name, Path(folder) / f"in-{name}-{number}", count))
                for key, words in (
                    ("first", "tab to first chart"), ("whole", "tab to chart of all points"), ("held", "longest hold-up"),
                    ("redraw", "a redraw"), ("smoothed", "a smoothed redraw"),
                ):  # fmt: skip
                    figures.setdefault(f"{name}: {words}", []).append(found[key])
                grown = found["grown"] / 1e6
                if not number:
                    print(f"{name}: memory grew by {grown:.0f} MB")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    summary = {name: spread(values) for name, values in figures.items()}
    for name, value in summary.items():
        print(f"{name:45} {1000 * value['median']:8.1f} ms  ({1000 * value['low']:.1f} - {1000 * value['high']:.1f})")
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
