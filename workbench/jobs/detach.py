"""Starting evaluations and merges that go on without us: everything here blocks, and is called in threads.

The engine's `eval --detach` and `merge --detach` make a job folder and start a process of its own session in it; what is
known of it afterwards is that folder. Stopping is `launch.stop`, with the job's label.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import InputError, WorkFailed
from workbench.jobs.launch import PATIENCE_SECONDS, TAIL_CHARACTERS, environment


def start(root: Path, project: str, verb: str, arguments: Sequence[str]) -> str:
    """Start `verb` ("eval" or "merge") on a project; returns the job's label when it has said its first word.

    Raises:
        WorkFailed: it did not start; why, in the engine's words.
    """
    folder = root / "projects" / project
    command = [sys.executable, "-m", "engine", "--workspace", str(root), verb, str(folder), *arguments]
    try:
        done = subprocess.run(
            [*command, "--detach", "--json"], cwd=root, env=environment(), stdin=subprocess.DEVNULL,
            capture_output=True, check=False, start_new_session=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise WorkFailed(f"{verb} of {project} has not started within {PATIENCE_SECONDS:.0f} s") from error
    said = done.stdout.decode("utf-8", "replace")
    try:
        document = json.loads(said)
    except ValueError:
        document = {}
    if done.returncode == 0 and isinstance(document.get("job"), str):
        return document["job"]
    error = document.get("error")
    if isinstance(error, dict) and error.get("problem"):
        raise WorkFailed(error["problem"], where=error.get("where"), remedy=error.get("remedy"))
    text = done.stderr.decode("utf-8", "replace").strip() or said.strip() or "without a word"
    raise WorkFailed(f"{verb} of {project} did not start:\n{text[-TAIL_CHARACTERS:]}")


def export(source: Path, target: Path) -> int:
    """Copy an adapter's folder to `target`, complete or not at all; returns its bytes.

    Raises:
        InputError: `target` exists, or lies inside the adapter. WorkFailed: it cannot be written.
    """
    from engine.files import folder_atomic, need_space, size_of

    if not source.is_dir():
        raise InputError("the adapter is gone", where=str(source))
    if target.exists() or target.is_symlink():
        raise InputError("already exists; nothing was copied", where=str(target))
    if source.resolve() in target.resolve().parents:
        raise InputError("lies inside the adapter itself", where=str(target))
    need_space(target.parent, size_of(source))
    with folder_atomic(target) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)
    return size_of(target)
