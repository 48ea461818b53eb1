"""Kill merges at every moment at which they touch the disk, and look at what is left each time. Run by test_merge_killed:

    python -m tests.engine.killing BASE ADAPTER OTHER_ADAPTER FOLDER

A moment is a call that opens, makes, renames, copies or removes something in FOLDER, or that writes bytes of weights.
Each merge is a fork of this process, so that imports are paid for once, and starts from what the ones before left lying.
First ADAPTER is merged to a place that is empty, then OTHER_ADAPTER to where that model stands. Prints how many moments
there were, or fails.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine import spec
from engine.files import recover_folder
from engine.jobs import merging as job
from engine.merging import merge as merging
from engine.models import layout
from engine.safetensors_io import Checkpoint, ShardWriter, read_json
from engine.store import ProjectFolder

TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree"}
"""Audit events, each raised before what it tells of (os.replace is "os.rename")."""

State = dict[str, str] | None


def merge(base: Path, adapter: Path, out: Path, replace: bool) -> None:
    project = spec.parse(f'[model]\nbase = "{base}"\nquantization = "none"\ndtype = "float32"\n')
    place = ProjectFolder(out.parent / "p", out.parent)
    job.merge(place, project, [(adapter, 1.0)], out, lambda event: None, replace=replace, prove=False)


def killed_at(moment: int, folder: Path, act: Callable[[], None]) -> bool:
    """Run `act` in a process that dies before it touches `folder` for the time `moment` (from 0); whether it did."""
    child = os.fork()
    if child == 0:
        left = moment

        def touched() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            if event in TOUCHES and str(arguments[0]).startswith(str(folder)):
                touched()

        put = ShardWriter._put
        ShardWriter._put = lambda self, data: (touched(), put(self, data))[1]  # type: ignore[method-assign]
        sys.addaudithook(hear)
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status:
        sys.exit(f"moment {moment}: the merge failed")
    return os.WIFSIGNALED(status)


def state(out: Path) -> State:
    """What is at the final place: None, or file -> digest; merge.json, which tells the time, by its presence."""
    if not out.exists():
        return None
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir())}
    return found | {name: "" for name in found if name == "merge.json"}


def sweep(folder: Path, out: Path, act: Callable[[], None], before: State, after: State) -> int:
    """Kill `act` at every moment. Each time the place is as before, or as after (then it is put back); returns how many."""
    kept, moments = folder / "kept", 0
    if before is not None:
        shutil.copytree(out, kept)
    while killed_at(moments, folder, act):
        moments += 1
        if before is not None and not out.exists():
            recover_folder(out)  # between the two renames of a replacement the old model stands beside
        now = state(out)
        if now == after:
            shutil.rmtree(out)
            if before is not None:
                shutil.copytree(kept, out)
        elif now != before:
            sys.exit(f"killed at moment {moments - 1}, half a model is at its place: {sorted(now or {})}")
    if state(out) != after:
        sys.exit("after all these deaths the merge made another model")
    shutil.rmtree(kept, ignore_errors=True)
    return moments


def main() -> None:
    base, one, other, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)  # a forked process has no other
    with Checkpoint.open(base) as weights:
        known = layout.read_layout(read_json(base / "config.json"), base, weights.entries)
    layout.read_layout = lambda *_, **__: known  # type: ignore[assignment]  # slow, and nothing on the disk
    merging.merge = functools.partial(merging.merge, max_shard_bytes=100_000)  # type: ignore[assignment]
    whole = []
    for adapter in (one, other):
        merge(base, adapter, folder / "whole", replace=True)
        whole.append(state(folder / "whole"))
    shutil.rmtree(folder / "whole")
    out = folder / "out"
    first = sweep(folder, out, lambda: merge(base, one, out, False), None, whole[0])
    second = sweep(folder, out, lambda: merge(base, other, out, True), *whole)
    if left := sorted(p.name for p in folder.iterdir() if p != out):
        sys.exit(f"left lying beside the model: {left}")
    print(first, second)


if __name__ == "__main__":
    main()
