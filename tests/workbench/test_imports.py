"""The workbench loads nothing heavy, ever; and before the first paint not even pydantic."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate", "numpy", "pyarrow")


def loaded(program: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a fresh interpreter has after `program`."""
    code = f"import sys\n{program}\nprint('LOADED', *(n for n in {names!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.rpartition("LOADED")[2].split()


def test_no_module_of_the_workbench_loads_anything_heavy() -> None:
    program = """
import importlib, pkgutil, workbench
count = 0
for module in pkgutil.walk_packages(workbench.__path__, "workbench."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        count += 1
assert count > 40, count
"""
    assert loaded(program, HEAVY) == []


def test_what_threads_do_for_the_editor_loads_nothing_heavy() -> None:
    program = """
from workbench.jobs.check_text import check_text
from workbench.models.schema import schema
from workbench.jobs.projects import name_problem
assert check_text("[lora]\\nr = 0") and schema() and name_problem("7", ())
"""
    assert loaded(program, HEAVY) == []


PAINTED = """
import asyncio, os, pathlib, tempfile
os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = folder = tempfile.mkdtemp()
from workbench.app import WorkbenchApp
pathlib.Path(folder, "projects").mkdir()
app = WorkbenchApp(pathlib.Path(folder), state_folder=pathlib.Path(folder, "state"))
app._begin = lambda: asyncio.sleep(0)  # what comes after the first paint

async def main():
    async with app.run_test(size=(120, 40)):
        pass

asyncio.run(main())
"""


@pytest.mark.parametrize("program", ["import workbench.app, workbench.screen", PAINTED], ids=["imported", "painted"])
def test_the_first_paint_waits_for_neither_pydantic_nor_the_specification(program: str) -> None:
    late = (
        "pydantic",
        "pydantic_core",
        "engine.spec",
        "engine.tables",
        "engine.store",
        "msgspec",
        "tree_sitter_toml",
        "tomlkit",
    )
    assert loaded(program, (*late, *HEAVY)) == []


def test_the_version_waits_for_no_screen() -> None:
    program = "from workbench.__main__ import main\nmain(['--version'])"
    assert loaded(program, ("textual", "rich", "pydantic", "typer", *HEAVY)) == []
