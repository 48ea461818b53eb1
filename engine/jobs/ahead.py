"""What a training needs and torch has no part in, begun before torch is imported, which keeps one core busy for seconds.

    rows, tokenised into the workspace's cache   <- a copy of this process
    SHA-256 of the base's files                  <- a thread

Comes from: a project, before `jobs.job`. Goes to: `work.train`, which does without what was not begun. No torch here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

from engine.events import Emit
from engine.jobs import record
from engine.jobs.aside import aside
from engine.store import Workspace
from engine.tables import ModelTable, Project


def hashing(table: ModelTable, workspace: Workspace) -> Future[dict[str, str]]:
    """`record.base_hashes` of model.base, in a thread that nobody has to wait for."""
    from engine.models.tokenizer import base_location

    found: Future[dict[str, str]] = Future()

    def work() -> None:
        try:
            found.set_result(record.base_hashes(base_location(table, workspace)))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=work, name="hashing", daemon=True).start()
    return found


class Ahead:
    """What was begun, until it is closed.

    Attributes:
        listen: waits for the rows to be tokenised and tells a listener what is said of it; None: nobody tokenises them.
        hashes: see `hashing`.
    """

    def __init__(self, project: Project, workspace: Workspace) -> None:
        self._open = contextlib.ExitStack()
        self.listen: Callable[[Emit], None] | None = None
        if _pays(project):
            self.listen = self._open.enter_context(aside(lambda emit: _tokenise(project, workspace, emit)))
        self.hashes = hashing(project.model, workspace)

    def close(self) -> None:
        """End what is still going on."""
        self._open.close()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pays(project: Project) -> bool:
    """Whether a copy may read the rows for itself: there is a core for it, they are here, and no code of the base's own,
    which may want torch, is needed for the tokenizer."""
    sources = [project.data.train, project.data.test or ""]
    remote = any(source.startswith("hub:") for source in sources)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    return cores > 1 and "torch" not in sys.modules and not remote and not project.model.trust_remote_code


def _tokenise(project: Project, workspace: Workspace, emit: Emit) -> None:
    """The whole work of the copy, in which torch counts as not installed: transformers is there in a fifth of the time."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    from engine.models import hf
    from engine.models.tokenizer import quiet, tokenizer_of
    from engine.tokens import dataset

    hf.prepare()
    quiet()
    raw = dataset.read(project, workspace, tokenizer_of(project, workspace)[1], lambda event: None)
    if not raw.is_stored:
        raw.tokenise(emit)
