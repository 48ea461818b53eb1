"""A verb that goes on without the terminal it was started from: in a session of its own, without a pipe to anyone.

Comes from: the verbs, with --detach. Goes to: a process that works in a run's or a job's folder and speaks to its event
log; this one only waits for its first word.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from engine import events
from engine.console import Console
from engine.errors import WorkFailed
from engine.store import JobFolder, Workspace, process_lives, process_start

PATIENCE_SECONDS = 30.0
TAIL_CHARACTERS = 2000


def start(
    workspace: Workspace, folder: JobFolder, arguments: list[str], console: Console, patience: float = PATIENCE_SECONDS
) -> dict[str, Any]:
    """Start `python -m engine ARGUMENTS` to work in `folder`, and return when it has begun (or after `patience`).

    Returns:
        {"job": label, "path": folder, "pid": process}, the document for --json.

    Raises:
        WorkFailed: it ended at once; the end of its log is in the message.
    """
    command = [sys.executable, "-m", "engine", "--workspace", str(workspace.root), *arguments]
    with folder.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    started = process_start(process.pid)
    begun, before = time.monotonic(), len(events.read(folder.events)[0])
    while len(events.read(folder.events)[0]) <= before and time.monotonic() - begun < patience:
        if process.poll() is not None or not process_lives(process.pid, started):
            tail = folder.log.read_text(encoding="utf-8", errors="replace")[-TAIL_CHARACTERS:]
            raise WorkFailed(f"the detached {folder.NOUN} ended at once:\n{tail}", where=str(folder.log))
        time.sleep(0.05)
    console.say(f"{folder.NOUN} {folder.label} goes on without this terminal (process {process.pid})")
    console.say(f"follow it:  loraworkbench watch {folder.label}\nstop it:    kill -TERM {process.pid}")
    return {"job": folder.label, "path": str(folder.path), "pid": process.pid}
