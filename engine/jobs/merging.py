"""The job of merging: an adapter into its base, beside the final place; then the proof; then the renaming into place.

Comes from: `verbs.merge`, `verbs.quickstart`. Goes to: a folder that transformers loads as it is, with `merge.json` in
it, which says how it was made and what was proved. A model that is not base + adapter never reaches its place.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine import events
from engine.errors import WorkFailed
from engine.events import Emit
from engine.files import disk_errors, size_of, swap_folder, write_json
from engine.jobs import work
from engine.store import ProjectFolder, Workspace
from engine.tables import Project

if TYPE_CHECKING:
    from engine.merging.verify import Verification

VERIFIED_ROWS = 24
"""Rows whose prompts and completions a merge is verified on."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How several adapters become one (see `combine.combine`)."""

    method: str = "linear"
    density: float | None = None
    majority_sign: str = "total"


def merge(
    folder: ProjectFolder,
    project: Project,
    adapters: Sequence[tuple[Path, float]],
    out: Path,
    emit: Emit,
    *,
    recipe: Recipe | None = None,
    base_weights: Literal["original", "nf4"] = "original",
    replace: bool = False,
    prove: bool = True,
) -> dict[str, Any]:
    """Merge an adapter into the project's base, prove the result, and only then put it at `out`.

    Args:
        adapters: folders and weights. recipe: how they are combined before; None: there is one, and it is taken whole.

    Returns:
        what merge.json holds, and `out`.

    Raises:
        InputError: base and adapters do not go together, or `out` may not be written (see `merge.check_target`).
        WorkFailed: no space, or the merged model is not base + adapter (it is kept beside); `out` is as it was.
    """
    from engine.merging.merge import check_target
    from engine.models import loading

    base = Path(loading.base_location(project.model, Workspace(folder.workspace)))
    if not base.is_dir():
        base = loading.snapshot(str(base), project.model)
    for path, _ in adapters:
        check_target(out, base, path, replace)
    facts = {"base": str(base), "adapter": str(adapters[0][0]), "combined": None}
    if recipe is None:
        return _merge(folder, project, base, adapters[0][0], out, facts, emit, base_weights, prove)
    from engine.merging.combine import combine

    made = out.with_name(out.name + ".adapter")
    weights = [{"adapter": str(path), "weight": weight} for path, weight in adapters]
    facts |= {"adapter": str(made), "combined": {"adapters": weights, **asdict(recipe)}}
    try:
        combine(adapters, made, **asdict(recipe), replace=True, emit=emit)
        return _merge(folder, project, base, made, out, facts, emit, base_weights, prove)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _merge(
    folder: ProjectFolder,
    project: Project,
    base: Path,
    adapter: Path,
    out: Path,
    facts: dict[str, Any],
    emit: Emit,
    base_weights: Literal["original", "nf4"],
    prove: bool,
) -> dict[str, Any]:
    """`merge` of one adapter into the files of a base; `facts` are told in merge.json, too."""
    from engine.merging import merge as merging

    beside = out.with_name(out.name + ".unverified")
    report = merging.merge(
        base,
        adapter,
        beside,
        base_weights=base_weights,
        four_bit=_four_bit(project),
        replace=True,
        trust_remote_code=project.model.trust_remote_code,
        emit=emit,
    )
    facts = {k: v for k, v in asdict(report).items() if k != "out"} | facts
    try:
        proof = _verify(project, folder.workspace, adapter, beside, base_weights, emit) if prove else None
        facts["verification"] = proof.to_json() if proof else None
        write_json(beside / "merge.json", facts)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if proof and not proof.holds:
        raise WorkFailed(
            f"the merged model differs from base + adapter: KL {proof.kl:.2g} (base alone: {proof.adapter_kl:.2g}), "
            f"perplexity {proof.perplexity_merged:.4g} for {proof.perplexity_adapter:.4g}",
            where=str(beside),
            remedy="it is kept there for inspection and was not put in its place",
        )
    with disk_errors(out):
        swap_folder(beside, out)
    emit(events.Saved(what="merged model", path=str(out), bytes=size_of(out)))
    return {"out": str(out), **facts}


def _four_bit(project: Project) -> Any:
    """How the project's base is quantized in training; NF4 where it is not in 4 bits."""
    from engine.models import loading
    from engine.models.nf4 import FourBit, four_bit_code

    table, device = project.model, loading.choose_device(project.launch)
    dtype: Any = str(loading.choose_dtype(table.dtype, device)).removeprefix("torch.")
    return FourBit(code=four_bit_code(table), double=table.double_quantization, dtype=dtype, device=str(device))


def _verify(project: Project, root: Path, adapter: Path, merged: Path, base_weights: str, emit: Emit) -> Verification:
    """`verify.verify` on the first unseen rows (training rows where there are none), with its stage events."""
    from engine.merging import verify

    workspace = Workspace(root)
    data = work.dataset_of(project, workspace, lambda _: None)
    examples = (data.test or data.train).examples[:VERIFIED_ROWS]

    def progress(done: int, total: int) -> None:
        emit(events.Stage(name="verify the merge", done=done, total=total))

    return verify.verify(project, workspace, adapter, merged, examples, base_weights, progress)
