"""How the workbench feels: first paint, `--version`; key echo while two panes stream and a run says 200 things a second,
also on a slow link.

    python tests/benchmarks/workbench_feel.py [--runs 9] [--json FILE]

Each figure stands beside a peer in the same run: a bare Textual application with ten widgets of the kinds that the
workbench begins with, and `import torch`. Runs alternate; medians with their spread. What streams is `streaming.py`.
The load of the machine is told with the figures: above 1 on two cores they say more of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

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


def echo(workspace: Path, state: str, runtime: str, bytes_per_second: int = 0, keys: int = 60) -> dict[str, float]:
    """Key to echo in the prompt of the comparison while both its columns stream and a run's tab is live behind it.

    Returns milliseconds, the process's CPU time and what it writes a second. The keys are letters that nothing else on
    the screen has.
    """
    environment = {
        "XDG_STATE_HOME": state,
        "XDG_RUNTIME_DIR": runtime,
        "SSH_CONNECTION": "1" if bytes_per_second else "",
    }
    command = [sys.executable, "-m", "workbench", str(workspace)]
    terminal = Terminal(command, environment=environment, folder=ROOT, bytes_per_second=bytes_per_second)

    def wait(seconds: float) -> None:
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            terminal.read(min(left, 0.1))

    try:
        terminal.wait_for("space menu")
        wait(1.5)
        terminal.send(" ro")  # the newest run
        terminal.wait_for("loss")
        terminal.send(" cc")
        terminal.wait_for("starter, nf4")
        wait(1.5)
        terminal.send("go\r")
        terminal.wait_for("answer must be")
        wait(4)
        process, took = terminal.process, []
        before, begun, bytes_before = sum(process.cpu_times()[:2]), time.perf_counter(), terminal.received
        for number in range(keys):
            mark = "æøþðßł"[number % 6].encode()
            start, sent = len(terminal.output), time.perf_counter()
            terminal.send(mark)
            while time.perf_counter() - sent < 5 and mark not in terminal.output[start:]:
                terminal.read(0.004)  # with a limited rate it takes all of that time
            took.append(1000 * (time.perf_counter() - sent))
            terminal.send("\x7f")
            wait(0.1 + 0.1 * (number * 0.618 % 1))  # not in step with the frames
        seconds = time.perf_counter() - begun
        cpu = 100 * (sum(process.cpu_times()[:2]) - before) / seconds
        kilobytes = (terminal.received - bytes_before) / seconds / 1000
        streamed = terminal.text().count("larger") if bytes_per_second == 0 else 1
        assert streamed, "nothing was streamed"
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
        load = os.getloadavg()[0]
        print(f"load at the beginning: {load:.2f} on {os.cpu_count()} cores")
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
        source = [sys.executable, str(ROOT / "tests" / "benchmarks" / "streaming.py"), str(workspace)]
        live = subprocess.Popen(source, env={**os.environ, "XDG_RUNTIME_DIR": folder})
        try:
            time.sleep(2)
            for name, rate in (("echo", 0), ("echo_150kB", 150_000)):
                found[name] = echo(workspace, f"{folder}/state-{name}", folder, rate)
                print(f"{name:10} median {found[name]['median']:.0f} ms, worst {found[name]['high']:.0f} ms, "
                      f"{found[name]['cpu_percent']:.0f} % of a core, {found[name]['kB_per_second']:.0f} kB/s")  # fmt: skip
        finally:
            live.terminate()
            live.wait()
        print(f"load at the end: {os.getloadavg()[0]:.2f}")
        found["load"] = {"begin": load, "end": os.getloadavg()[0]}
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
