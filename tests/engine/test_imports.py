"""Who may import whom: modules are written in one order, and the torch-free part stays what it is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate"}


def listed(names: str) -> list[str]:
    return names.split()


FREE = listed("""
    errors text files events control progress places tables spec store console safetensors_io adapters
""")
"""What the workbench may import: no heavy package, not even inside a function."""
WRITES_TENSORS = {"safetensors_io"}
"""Of these, what also serves those who have torch: it is given tensors, and imports torch inside functions."""

LIGHT = listed("""
    rows tokens evaluation.metrics evaluation.results merging.companions training.order jobs verbs __main__
""")
"""What a command line starts with: heavy packages only inside functions. A package stands for all its modules."""

ORDER = listed("""
    errors text files events control progress places tables spec store console safetensors_io adapters
    rows.formats rows.jsonrows rows.hub rows.shapes rows.detect rows.ledger rows.reader
    tokens.examples tokens.prompts tokens.dataset
    models.attention models.loss models.memory models.nf4 models.layout models.switching models.loaded models.proof
    models.loading
    training.order training.fit training.loftq training.lora training.optimizer training.checkpoint training.loop
    generation.sampling generation.decoding generation.answering
    evaluation.metrics evaluation.results evaluation.scoring evaluation.matrix
    merging.companions merging.combine merging.deltas merging.plan merging.stream merging.merge merging.verify
    jobs.job jobs.record jobs.work
    verbs verbs.runs verbs.watch verbs.adapters verbs.new verbs.doctor verbs.rows verbs.check verbs.train verbs.eval
    verbs.generate verbs.merge verbs.quickstart __main__
""")
"""Each module imports, at its top or inside a function, only modules that stand before it here."""


def modules() -> dict[str, Path]:
    """All modules of the engine by name ("verbs.new"), without the packages that only hold a docstring."""
    folder = ROOT / "engine"
    found = {".".join(p.relative_to(folder).with_suffix("").parts): p for p in folder.rglob("*.py")}
    named = {name.removesuffix(".__init__"): path for name, path in found.items() if name != "__init__"}
    return {name: path for name, path in named.items() if len(ast.parse(path.read_text(encoding="utf-8")).body) > 1}


def light() -> list[str]:
    """The modules that LIGHT names, singly or by their package."""
    return [m for m in ORDER if any(m == name or m.startswith(f"{name}.") for name in LIGHT)]


def imports(path: Path, inside: bool = True) -> Iterator[str]:
    """Full names that a file imports; those inside functions only with `inside`, those for type checkers never."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside:
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{path}:{child.lineno}: a relative import"
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            yield from visit(child)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")))


def of_engine(name: str, known: dict[str, Path]) -> str | None:
    """The module of the engine that an imported name is or belongs to: "engine.store.Run" -> "store"."""
    parts = name.split(".")
    if parts[0] != "engine":
        return None
    inner = [".".join(parts[1:end]) for end in range(len(parts), 1, -1)]
    return next((i for i in inner if i in known), None)  # None: a name of the package itself


def test_every_module_has_its_place() -> None:
    """A new module is written into ORDER, where it belongs."""
    assert sorted(ORDER) == sorted(modules())
    assert set(FREE) <= set(ORDER)
    for name in LIGHT:
        assert any(m == name or m.startswith(f"{name}.") for m in ORDER), name


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_downward(module: str) -> None:
    known = modules()
    below = ORDER[: ORDER.index(module)]
    used = {other for name in imports(known[module]) if (other := of_engine(name, known))}
    assert used <= set(below), f"{module} imports what stands above it"


@pytest.mark.parametrize("module", sorted(modules()))
def test_the_engine_knows_no_screen(module: str) -> None:
    packages = {name.split(".")[0] for name in imports(modules()[module])}
    assert not packages & {"textual", "workbench"}


def test_the_free_part_uses_nothing_heavy_and_nothing_but_itself() -> None:
    known = modules()
    for module in FREE:
        used = set(imports(known[module]))
        assert module in WRITES_TENSORS or not {name.split(".")[0] for name in used} & HEAVY, module
        assert {of_engine(name, known) for name in used} - {None} <= set(FREE), module


def test_the_light_part_uses_nothing_heavy_at_its_top() -> None:
    known = modules()
    for module in light():
        used = set(imports(known[module], inside=False))
        assert not {name.split(".")[0] for name in used} & HEAVY, module
        assert {of_engine(name, known) for name in used} - {None} <= {*FREE, *light()}, module


IMPORT = """
import socket, sys
def refuse(*_, **__): raise AssertionError("network at import")
socket.socket.connect = socket.socket.bind = socket.getaddrinfo = refuse
import importlib
for name in sys.argv[1].split():
    importlib.import_module(f"engine.{name}")
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("part", [FREE, light()], ids=["free", "light"])
def test_an_import_loads_nothing_heavy_and_asks_no_network(part: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, " ".join(part)], cwd=ROOT, capture_output=True, text=True, check=False
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
    assert set(imports(path, inside=False)) == found
    assert set(imports(path)) == found | {"datasets.x"}
    known = modules()
    names = ("engine.store.Run", "engine.verbs.new.run", "engine.verbs.new", "engine.__version__", "os.path")
    assert [of_engine(name, known) for name in names] == ["store", "verbs.new", "verbs.new", None, None]
