"""What an import loads: the modules at the top nothing heavy at all, the light ones nothing before it is needed.

Who may import whom is in pyproject.toml, as contracts that `lint-imports` holds. These are about what they cannot say:
the difference between the top of a module and the inside of a function, and what a process has loaded in the end.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).parents[2] / "engine"
HEAVY = {"torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate"}
LIGHT = ["rows", "tokens", "evaluation.metrics", "evaluation.results", "merging.companions", "training.order"]
LIGHT += ["training.needs", "training.pulse", "jobs", "verbs", "__main__"]
"""What a command line starts with, besides the modules at the top. A package stands for all its modules."""
NOT_LIGHT = ["jobs.workroom"]
"""But not these, which a verb imports when it works."""


def modules() -> dict[str, Path]:
    """All modules of the engine by name: "store", "verbs.new"; a package by its `__init__`."""
    found = {".".join(p.relative_to(ENGINE).with_suffix("").parts): p for p in ENGINE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}


def free() -> list[str]:
    """The modules at the top: all that the workbench may import."""
    return [name for name, path in modules().items() if path.parent == ENGINE and name != "__main__"]


def light() -> list[str]:
    """The modules that LIGHT names, singly or by their package."""
    named = (m for m in modules() if any(m == name or m.startswith(f"{name}.") for name in LIGHT))
    return [m for m in named if m not in NOT_LIGHT]


def imports(path: Path) -> Iterator[str]:
    """Full names that a file imports when it is imported: not inside functions, not for type checkers."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def of_engine(name: str) -> str | None:
    """The module of the engine that an imported name is or belongs to: "engine.store.Run" -> "store"."""
    package, *parts = name.split(".")
    if package != "engine":
        return None
    known = modules()
    return next((i for end in range(len(parts), 0, -1) if (i := ".".join(parts[:end])) in known), None)


def test_the_light_part_uses_nothing_heavy_at_its_top() -> None:
    allowed = {None, *free(), *light()}
    for module in light():
        used = set(imports(modules()[module]))
        assert not {name.split(".")[0] for name in used} & HEAVY, module
        assert {of_engine(name) for name in used} <= allowed, module


def test_what_is_said_to_be_light_exists() -> None:
    assert set(LIGHT) | set(NOT_LIGHT) <= set(modules())


IMPORT = """
import socket, sys
def refuse(*_, **__): raise AssertionError("network at import")
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
import importlib
for name in sys.argv[1].split():
    importlib.import_module(f"engine.{name}")
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("part", [free(), light()], ids=["free", "light"])
def test_an_import_loads_nothing_heavy_and_asks_no_network(part: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, " ".join(part)], cwd=ENGINE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {*HEAVY, "textual"}


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    """The tests above can fail."""
    path = tmp_path / "x.py"
    path.write_text(
        "import os.path, torch as t\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import peft\n"
        "class A:\n    from engine import store, spec\n    def f(self):\n        if 1:\n            import datasets.x\n"
        "from engine.verbs.new import run\n"
    )
    found = {"os.path", "torch", "typing.TYPE_CHECKING", "engine.store", "engine.spec", "engine.verbs.new.run"}
    assert set(imports(path)) == found
    names = ("engine.store.Run", "engine.verbs.new.run", "engine.verbs.new", "engine.__version__", "os.path")
    assert [of_engine(name) for name in names] == ["store", "verbs.new", "verbs.new", None, None]
