"""Copying text out of a terminal that may be at the other end of SSH and inside tmux; it says by which route.

In tmux: `tmux load-buffer -w -` (a plain OSC 52 is dropped by its default settings). Else OSC 52, which the terminal
may refuse without a word, so the text is also kept in a file that `tail` can read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path


def copy(text: str, osc52: Callable[[str], None], folder: Path) -> str:
    """Copy `text`; returns by which routes, for people. Not to be called on the UI thread: it may wait for tmux.

    Args:
        osc52: sends the sequence (`App.copy_to_clipboard`).
        folder: where `copied.txt` is kept.
    """
    routes = []
    if os.environ.get("TMUX"):
        try:
            done = subprocess.run(
                ["tmux", "load-buffer", "-w", "-"], input=text.encode("utf-8", "replace"), timeout=2,
                capture_output=True, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                routes.append("tmux's buffer (prefix ])")
        except (OSError, subprocess.TimeoutExpired):
            pass
    if not routes:
        osc52(text)
        routes.append("the terminal (OSC 52)")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "copied.txt"
        path.write_text(text, encoding="utf-8", errors="replace")
        routes.append(str(path))
    except OSError:
        pass
    return " and ".join(routes)
