"""Another program's turn: the user's editor on a file, while the workbench is suspended."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

FALLBACKS = ("vi", "nano")


def editor_command() -> list[str]:
    """What $VISUAL or $EDITOR says, where that program exists; else vi or nano.

    Raises:
        LookupError: there is none of them.
    """
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(variable, ""))
        except ValueError:  # a quotation mark is missing
            continue
        if words and shutil.which(words[0]):
            return words
    for name in FALLBACKS:
        if shutil.which(name):
            return [name]
    raise LookupError("no editor to hand over to: set $EDITOR to one that is installed (neither vi nor nano is)")


def edit(command: list[str], path: Path) -> int:
    """Let the program edit the file on this terminal; returns its exit code.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.run([*command, str(path)], check=False).returncode
