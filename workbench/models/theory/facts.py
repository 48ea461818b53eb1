"""What Learn knows of the project that is open: its tables, its base's shapes, what was measured. Read in a thread."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.text import one_line

if TYPE_CHECKING:
    from engine.architecture import Architecture
    from engine.estimate import Estimate
    from engine.tables import LoraTable, Project
    from workbench.models.theory.numbers import Sample

TARGETS: dict[str, Any] = {
    "project": None,
    "all-linear": "all-linear",
    "attention": "attention",
    "MLP": "mlp",
    "q and v": "qv",
}
"""Choices of target modules on the pages where they can be changed."""
EVALUATION_LIMIT = 64_000_000
"""Bytes of an evaluation.json that is still read."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on one split: nats and tokens of each row."""

    model: str
    split: str
    rows: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Facts:
    """Attributes:
    project: the name, safe to show. problem: why there are no tables or no base.
    steps: optimizer steps, where the TOML or the newest run tells.
    supervised: (supervised, all) tokens of a step of the newest run.
    measured: of the newest evaluation, which is that of run `measured_run`.
    sample: of a tensor of the base. merged: sentences about merging the newest adapter.
    gpu: runs of this project work on a GPU.
    """

    project: str = ""
    table: Project | None = None
    base: Architecture | None = None
    problem: str = ""
    steps: int | None = None
    supervised: tuple[int, int] | None = None
    measured: tuple[Measured, ...] = ()
    measured_run: str = ""
    sample: Sample | None = None
    merged: tuple[str, ...] = field(default=(), compare=False)
    gpu: bool = False

    def estimate(self, lora: LoraTable) -> Estimate | None:
        """The memory of a run with this [lora] table, on a GPU where runs work on one."""
        if self.base is None or self.table is None:
            return None
        from engine import estimate

        changed = self.table.model_copy(update={"lora": lora})
        return estimate.of_base(self.base, changed, "cuda" if self.gpu else "cpu")


@dataclass(frozen=True, slots=True)
class Choice:
    """What the reader has changed: None where it is as in the project."""

    r: int | None = None
    alpha: float | None = None
    rslora: bool | None = None
    targets: str = "project"

    def lora(self, facts: Facts) -> LoraTable:
        """The [lora] table with the changes."""
        from engine.tables import LoraTable

        table = facts.table.lora if facts.table else LoraTable()
        values: dict[str, Any] = {}
        if self.r is not None:
            values |= {"r": self.r, "rank_pattern": {}}
        if self.alpha is not None:
            values |= {"alpha": self.alpha, "alpha_pattern": {}}
        if self.rslora is not None:
            values["rslora"] = self.rslora
        if self.targets != "project" and facts.base is not None:
            values["target_modules"] = names_of(facts.base, self.targets)
        return table.model_copy(update=values)

    def other_rank(self, facts: Facts, by: int) -> Choice:
        """Twice the rank (`by` 1), or half of it (-1), between 1 and 1,024."""
        now = self.r or self.lora(facts).r
        return replace(self, r=max(1, min(1024, now * 2 if by > 0 else now // 2)))

    def other_alpha(self, facts: Facts, by: int) -> Choice:
        """Twice alpha, or half of it, between 1 and 4,096."""
        now = self.alpha or self.lora(facts).alpha
        return replace(self, alpha=max(1.0, min(4096.0, now * 2 if by > 0 else now / 2)))

    def other_targets(self) -> Choice:
        names = list(TARGETS)
        return replace(self, targets=names[(names.index(self.targets) + 1) % len(names)])


def names_of(base: Architecture, which: str) -> str | list[str]:
    """`lora.target_modules` of one of TARGETS on this base."""
    if which == "all-linear":
        return which
    kinds = {"attention": ("attention in", "attention out"), "MLP": ("mlp in", "mlp out")}
    layer = base.layer()
    if which in kinds:
        return sorted({m.last for m in layer if m.role in kinds[which]}) or ["none"]
    named = [m.last for m in layer if m.last in ("q_proj", "v_proj", "query", "value")]
    fused = [m.last for m in layer if m.role == "attention in"]  # GPT-2, GPT-NeoX, Phi-3: one layer for q, k and v
    return sorted(set(named or fused)) or ["none"]


def gather(root: Path, project: str, wants: tuple[str, ...] = (), gpu: bool = False) -> Facts:
    """What is known of a project; what cannot be read is left out and said in `problem`.

    Args:
        wants: "sample", "evaluation", "run", "adapter": what costs more than reading headers. gpu: the machine has one.
    """
    from engine import architecture
    from engine.errors import InputError
    from engine.store import Workspace

    if not project:
        return Facts(problem="there is no project open")
    workspace, name = Workspace(root), one_line(project)
    try:
        folder = workspace.project(project)
        table = folder.load()
    except InputError as error:
        return Facts(name, problem=f"its project.toml has mistakes: {str(error).splitlines()[0]}")
    facts = Facts(name, table, steps=table.train.steps or None, gpu=gpu and table.launch.device != "cpu")
    try:
        facts = replace(facts, base=architecture.read(architecture.find(table.model, workspace)))
    except InputError as error:
        facts = replace(facts, problem=error.problem)
    runs = folder.runs()
    if "run" in wants:
        for run in reversed(runs):
            if (newest := _newest_step(run.events)) is not None:
                tokens = (newest.supervised_tokens, newest.tokens)
                facts = replace(facts, steps=facts.steps or newest.steps, supervised=tokens)
                break
    if "evaluation" in wants:
        for run in reversed(runs):
            if measured := _measured(run.path / "evaluation.json"):
                facts = replace(facts, measured=measured, measured_run=run.label)
                break
    if "sample" in wants:
        from workbench.models.theory.numbers import sample_of

        folder_ = facts.base.source if facts.base and not facts.base.from_config else architecture.find(
            table.model.model_copy(update={"base": "starter"}), workspace
        )  # fmt: skip
        facts = replace(facts, sample=sample_of(folder_))
    if "adapter" in wants and facts.base is not None:
        from workbench.models.theory.numbers import merged_of

        for run in reversed(runs):
            if (run.adapter / "adapter_config.json").is_file():
                facts = replace(facts, merged=merged_of(facts.base, run.adapter, run.label))
                break
    return facts


def _newest_step(path: Path) -> Any:
    """The last step in the last 256 kB of an event log, None where there is none."""
    from engine import events

    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 256_000))
            data = file.read()
    except OSError:
        return None
    steps = [e for e in events.iter_events(data) if isinstance(e, events.Step)]
    return steps[-1] if steps else None


def _measured(path: Path) -> tuple[Measured, ...]:
    """Nats and tokens of the completions of every row, by model and split; empty where they cannot be read."""
    try:
        if path.stat().st_size > EVALUATION_LIMIT:
            return ()
        items = json.loads(path.read_bytes())["items"]
        found: dict[tuple[str, str], list[tuple[float, int]]] = {}
        for item in items:
            nll, tokens = item["nll"].get("completion"), item["tokens"].get("completion")
            if nll is not None and tokens:
                found.setdefault((str(item["model"]), str(item["split"])), []).append((float(nll), int(tokens)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(Measured(model, split, tuple(rows)) for (model, split), rows in found.items())
