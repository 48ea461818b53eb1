"""How the workbench feels: first paint, `--version`, key echo while a run says 200 things a second, on a slow link.

    python tests/benchmarks/workbench_feel.py [--runs 9] [--json FILE]

Each figure stands beside a peer in the same run: a bare Textual application with ten widgets of the kinds that the
workbench begins with, and `import torch`. Runs alternate; medians with their spread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine import events  # noqa: E402
from engine.store import process_start  # noqa: E402
from tests.benchmarks.terminal import Terminal  # noqa: E402

BARE = """
from textual.app import App
from textual.containers import Horizontal, Vertical
from textual.widgets import ContentSwitcher, Footer, Input, Label, OptionList, Static, TabbedContent, TabPane, Tree
class Bare(App):
    CSS = "#bar { width: 4; } Tree { width: 28; } Vertical { width: 1fr; }"
    def compose(self):
        with Horizontal():
            yield Static("E", id="bar")
            yield Tree("workspace")
            with Vertical():
                with TabbedContent():
                    with TabPane("Welcome"):
                        yield Static("LoRA Workbench")
                with ContentSwitcher():
                    yield OptionList("No problems.")
            with Vertical():
                yield Label("inspector")
                yield Static("machine")
        yield Footer()
Bare().run()
"""


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def first_paint(command: list[str], text: str, environment: dict[str, str]) -> float:
    """Seconds from starting a program to `text` on its terminal."""
    terminal = Terminal(command, environment=environment, folder=ROOT)
    try:
        terminal.wait_for(text)
        return time.perf_counter() - terminal.begun
    finally:
        terminal.close()


def run_of(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - begun


class LiveRun(threading.Thread):
    """A run of this process that emits `rate` step events a second."""

    def __init__(self, folder: Path, rate: int = 200) -> None:
        super().__init__(daemon=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.rate, self.over = events.EventLog(folder / "events.jsonl"), rate, threading.Event()

    def run(self) -> None:
        import os

        pid = os.getpid()
        self.log(
            events.Started(
                verb="train", pid=pid, pid_started=process_start(pid), project="starter", device="CPU", versions={}
            )
        )
        begun, step = time.perf_counter(), 0
        while not self.over.is_set():
            step += 1
            self.log(
                events.Step(
                    step=step, steps=1_000_000, loss=2 / (1 + step / 500), learning_rate=1e-3, gradient_norm=1.0, tokens=500,
                    supervised_tokens=200, seconds=0.005, tokens_per_second=100_000.0, memory_bytes=10**9, epoch=step / 1e4,
                )
            )  # fmt: skip
            time.sleep(max(0.0, begun + step / self.rate - time.perf_counter()))


def echo(workspace: Path, state: str, bytes_per_second: int = 0, keys: int = 40) -> dict[str, float]:
    """Key to echo in the quick-open box while the run's tab is live below it: milliseconds, and the CPU it takes."""
    environment = {"XDG_STATE_HOME": state, **({"SSH_CONNECTION": "1"} if bytes_per_second else {})}
    command = [sys.executable, "-m", "workbench", str(workspace)]
    terminal = Terminal(command, environment=environment, folder=ROOT, bytes_per_second=bytes_per_second)
    try:
        terminal.wait_for("space menu")
        time.sleep(1)
        terminal.send(" ro")  # the newest run
        terminal.wait_for("loss")
        terminal.send("\x10")  # ctrl+p
        terminal.wait_for("name, or one of")
        settled = time.perf_counter() + 3
        while time.perf_counter() < settled:
            terminal.read(0.1)
        process, took = terminal.process, []
        before, begun, bytes_before = sum(process.cpu_times()[:2]), time.perf_counter(), terminal.received
        for number in range(keys):
            mark = "0123456789"[number % 10]
            start, sent = len(terminal.output), time.perf_counter()
            terminal.send(mark)
            while time.perf_counter() - sent < 5:
                terminal.read(0.05)
                if mark.encode() in terminal.output[start:]:
                    break
            took.append(1000 * (time.perf_counter() - sent))
            terminal.send("\x7f")
            until = time.perf_counter() + 0.15
            while (left := until - time.perf_counter()) > 0:
                terminal.read(left)
        seconds = time.perf_counter() - begun
        cpu = 100 * (sum(process.cpu_times()[:2]) - before) / seconds
        kilobytes = (terminal.received - bytes_before) / seconds / 1000
        return {**spread(took), "cpu_percent": cpu, "kB_per_second": kilobytes}
    finally:
        terminal.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "workspace"
        shutil.copytree(ROOT / "projects", workspace / "projects", ignore=shutil.ignore_patterns("runs", "jobs"))
        shutil.copytree(ROOT / "data", workspace / "data")
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        workbench = [sys.executable, "-m", "workbench", str(workspace)]
        figures: dict = {"paint": [], "bare": [], "version": [], "torch": []}
        for number in range(arguments.runs):
            figures["paint"].append(
                first_paint(workbench, "space menu", {"XDG_STATE_HOME": f"{folder}/state-{number}"})
            )
            figures["bare"].append(first_paint([sys.executable, str(bare)], "inspector", {}))
            figures["version"].append(run_of([sys.executable, "-m", "workbench", "--version"]))
            figures["torch"].append(run_of([sys.executable, "-c", "import torch"]))
        found = {name: spread(values) for name, values in figures.items()}
        for name, peer in (("paint", "bare"), ("version", "torch")):
            ratio = found[name]["median"] / found[peer]["median"]
            print(
                f"{name:8} {found[name]['median']:.3f} s  ({found[name]['low']:.3f} - {found[name]['high']:.3f})",
                end="   ",
            )
            print(f"{peer:6} {found[peer]['median']:.3f} s   ratio {ratio:.2f}")
            found[f"{name}_ratio"] = {"ratio": ratio}
        live = LiveRun(workspace / "projects" / "starter" / "runs" / "0001")
        live.start()
        for name, rate in (("echo", 0), ("echo_150kB", 150_000)):
            found[name] = echo(workspace, f"{folder}/state-{name}", rate)
            print(f"{name:10} median {found[name]['median']:.0f} ms, worst {found[name]['high']:.0f} ms, "
                  f"{found[name]['cpu_percent']:.0f} % of a core, {found[name]['kB_per_second']:.0f} kB/s")  # fmt: skip
        live.over.set()
        live.join()
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
