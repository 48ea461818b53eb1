"""A session from its socket to its end: beside a training, or for prompts alone.

Comes from: the verbs `session` and `train`. The socket is that of the job's folder (`addresses.socket_of`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.addresses import socket_of
from engine.models.loaded import Loaded
from engine.session.owner import Owner, Workroom
from engine.session.server import Server
from engine.session.shelf import MOST
from engine.tables import Project
from engine.tokens.prompts import Template

if TYPE_CHECKING:
    from engine.training.loop import Training

POLL_SECONDS = 0.5


@contextlib.contextmanager
def hosted(
    folder: Path,
    loaded: Loaded,
    project: Project,
    template: Template,
    label: str,
    training: Training | None = None,
    run: str = "",
    workroom: Workroom | None = None,
    most: int = MOST,
) -> Iterator[Owner]:
    """While in the block clients can connect; what they ask is carried out when the owner serves.

    Raises:
        WorkFailed: the socket cannot be made.
    """
    owner = Owner(loaded, project, template, label, training, run, workroom, most)
    with listening(folder, owner):
        yield owner


@contextlib.contextmanager
def listening(folder: Path, owner: Owner) -> Iterator[None]:
    """While in the block clients of `folder` reach the owner.

    Raises:
        WorkFailed: the socket cannot be made.
    """
    server = Server(socket_of(folder), owner.take)
    server.start()
    try:
        yield
    finally:
        server.close()


def serve_alone(owner: Owner, stop: Callable[[], bool], idle_seconds: float) -> str:
    """Serve until told to end, stopped, or not asked anything for `idle_seconds` (0: for ever); returns the reason.

    To ask for the status alone, as those do who watch, keeps no session awake; a training or an evaluation does.
    """
    owner.loaded.blocked.keep()
    while not owner.over and not stop():
        if owner.wait(POLL_SECONDS):
            owner.serve()
        if owner.work is not None:
            work, owner.work = owner.work, None
            work()
            owner.last_asked = time.monotonic()
        elif idle_seconds and time.monotonic() - owner.last_asked > idle_seconds:
            return "idle"
    return "stopped" if stop() else "done"
