"""Deleting, which is moving: to the workspace's `.trash` folder, under the time and the old name."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

FOLDER = ".trash"


def move_to_trash(root: Path, path: Path) -> Path:
    """Move a file or folder of the workspace `root` into its trash; returns where it is now.

    Raises:
        OSError: it cannot be moved; it is where it was.
        ValueError: it is not inside the workspace.
    """
    inside = path.resolve().relative_to(root.resolve())
    trash = root / FOLDER
    trash.mkdir(exist_ok=True)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{'-'.join(inside.parts)}"
    target, number = trash / name, 1
    while target.exists():
        number += 1
        target = trash / f"{name}.{number}"
    shutil.move(path, target)
    return target
