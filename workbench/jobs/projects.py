"""Making, copying and renaming projects. Everything here waits for disks and processes, and is called in threads.

What a new project's data look like is the engine's answer (`loraworkbench new --dry-run`), asked of a process of its
own: reading rows needs what the workbench never imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InputError, WorkFailed
from workbench.jobs.launch import environment

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user wants of a new project; "" stands for the engine's default.

    Attributes:
        unseen: a source, or a share such as "0.1".
    """

    name: str
    base: str = ""
    data: str = ""
    unseen: str = ""
    prompt_column: str = ""
    completion_column: str = ""

    @property
    def options(self) -> list[str]:
        """As the engine's command line has them."""
        share = share_of(self.unseen)
        named = {
            "--base": self.base, "--data": self.data, "--test": "" if share is not None else self.unseen,
            "--fraction": "" if share is None else str(share),
            "--prompt-column": self.prompt_column, "--completion-column": self.completion_column,
        }  # fmt: skip
        return [f"{option}={value}" for option, value in named.items() if value]


@dataclass(frozen=True, slots=True)
class Preview:
    """What the engine says of wishes: `found` in words, the shape's name or None, the first rows."""

    found: str
    shape: str | None = None
    sample: list[dict[str, str]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.sample for column in row))


def share_of(text: str) -> float | None:
    """ "10 %" -> 0.1, "0.1" -> 0.1; None for what is no share between 0 and 1."""
    number = text.strip().removesuffix("%").strip()
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        return None
    return value if 0.0 < value < 1.0 else None


def preview(root: Path, wishes: Wishes) -> Preview:
    """What would be made of `wishes`.

    Raises:
        InputError: it cannot be made, and why. WorkFailed: the engine did not answer.
    """
    said = _new(root, wishes, "--dry-run")
    return Preview(said["found"], said["shape"], said["sample"])


def create(root: Path, wishes: Wishes) -> Preview:
    """Make the project; raises as `preview`."""
    said = _new(root, wishes)
    return Preview(said["found"], said["shape"], said["sample"])


def _new(root: Path, wishes: Wishes, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "engine", "--workspace", str(root), "new", *wishes.options, *more, "--json"]
    try:
        done = subprocess.run(
            [*command, "--", wishes.name], cwd=root, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise WorkFailed(f"the engine has not answered within {PATIENCE_SECONDS:.0f} s") from error
    except (OSError, ValueError) as error:
        raise WorkFailed(f"the engine did not answer: {error}") from error
    if "error" in said:
        wrong = said["error"]
        raise InputError(wrong["problem"], where=wrong.get("where"), remedy=wrong.get("remedy"))
    return said


def name_problem(name: str, taken: Container[str]) -> str | None:
    """What is wrong with a new project's name, None where nothing is. No disk is asked."""
    from engine.spec import check_name

    if not name:
        return "a name is needed"
    try:
        check_name(name)
    except InputError as error:
        return f"{error.problem}; {error.remedy}"
    return f"there is a project {name} already" if name in taken else None


def check_new_name(root: Path, name: str) -> None:
    """See that a project of this name can be made.

    Raises:
        InputError: the name cannot be used, or is taken.
    """
    from engine.spec import check_name

    check_name(name)
    if os.path.lexists(root / "projects" / name):
        raise InputError(f"there is a project or folder {name} already", remedy="choose another name")


def duplicate(root: Path, old: str, new: str) -> None:
    """Copy a project's file, not its runs, to a new project.

    Raises:
        InputError: the name cannot be used, or the old file cannot be read. WorkFailed: it cannot be written.
    """
    from engine.files import write_atomic

    check_new_name(root, new)
    source = root / "projects" / old / "project.toml"
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(source)) from error
    write_atomic(root / "projects" / new / "project.toml", data)


def rename(root: Path, old: str, new: str) -> None:
    """Rename a project's folder, runs and all.

    Raises:
        InputError: the name cannot be used, or a run of it is running. WorkFailed: it cannot be renamed.
    """
    from engine.files import disk_errors
    from engine.store import ProjectFolder

    check_new_name(root, new)
    path = root / "projects" / old
    running = [r.label for r in ProjectFolder(path, root).runs() if r.state().state == "running"]
    if running:
        raise InputError(
            f"{', '.join(running)} is running: a run writes into its project's folder",
            remedy="stop it first (shift+F5, or space r s), or wait for its end",
        )
    with disk_errors(path):
        path.rename(root / "projects" / new)
