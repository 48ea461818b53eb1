"""One line about the newest evaluation or merge of a project: how far it is, or how it ended. Nothing where there is none.

Comes from: the snapshot (which jobs there are) and `app.tails` (what their event logs say).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine import events
from engine.text import cut, duration, one_line
from workbench.models.machine import bar
from workbench.models.outline import ASCII_MARKS, MARKS
from workbench.models.run import RunModel
from workbench.models.workspace import JobInfo, Snapshot

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

STYLES = {"running": "$text-accent", "done": "$text-success", "failed": "$text-error", "killed": "$text-error"}
NAMES = {"eval": "evaluation", "merge": "merge"}
RECENT_SECONDS = 900.0
"""For how long the failure of a job is worth a line that was not seen while it ran."""


class JobLine(Static):
    """Attributes: label: the job that is shown, "" where there is none. model: what its log says."""

    DEFAULT_CSS = """
    JobLine { height: auto; max-height: 3; width: 1fr; padding: 0 1; display: none; }
    JobLine.-shown { display: block; }
    JobLine.-aside { display: none; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Ended(Message):
        """A job that was watched has come to its end."""

        def __init__(self, label: str, state: str) -> None:
            super().__init__()
            self.label, self.state = label, state

    def __init__(self, verb: str, project: str, hint: str = "") -> None:
        super().__init__(markup=False)
        self.verb, self.about, self.hint = verb, project, hint
        self.label = ""
        self.model: RunModel | None = None
        self._known: set[str] | None = None
        self._seen_running: set[str] = set()
        self._told: set[str] = set()
        self._dismissed: set[str] = set()

    def on_mount(self) -> None:
        self.app.workspace_changed.subscribe(self, self._snapshot)
        self.app.run_changed.subscribe(self, self._changed)
        self.set_interval(1.0, self._tick)
        self._snapshot(self.app.snapshot)

    def on_unmount(self) -> None:
        self.follow("")

    @property
    def state(self) -> str:
        return self.model.state if self.model is not None else ""

    def dismiss(self) -> None:
        """The end of this job has been read."""
        if self.label and self.state != "running":
            self._dismissed.add(self.label)
            self.follow("")

    def follow(self, label: str) -> None:
        """Show this job from now on."""
        if label == self.label:
            return
        if self.label:
            self.app.tails.unwatch(self.label)
        self.label, self.model = label, None
        if label:
            self.app.tails.watch(label)
        self._show()

    def _snapshot(self, snapshot: Snapshot) -> None:
        projects = [p for name, p in snapshot.projects.items() if self.about in ("", name)]
        jobs = [j for p in projects for j in p.jobs if j.verb == self.verb]
        before, self._known = self._known, {j.label for j in jobs}
        new = [j for j in jobs if j.state == "empty" and before is not None and j.label not in before]
        running = [j for j in jobs if j.state == "running"]
        newest = max(jobs, key=lambda j: j.started or 0.0, default=None)
        if new or running:
            self.follow((new or running)[-1].label)
        elif newest is not None and newest.state != "empty" and self._worth(newest):
            self.follow(newest.label)

    def _worth(self, job: JobInfo) -> bool:
        """Whether the end of a job is news."""
        recent = job.touched is not None and time.time() - job.touched < RECENT_SECONDS
        return job.label not in self._dismissed and (
            job.label in self._seen_running or (recent and job.state != "done")
        )

    def _changed(self, label: str) -> None:
        if label != self.label or not label:
            return
        self.model = self.app.tails.model(label)
        state = self.state
        if state == "running":
            self._seen_running.add(label)
        elif state not in ("", "empty") and label not in self._told:
            self._told.add(label)
            if label in self._seen_running:
                self.post_message(self.Ended(label, state))
        self._show()

    def _tick(self) -> None:
        if self.state == "running":
            self._show()

    def on_resize(self) -> None:
        self._show()

    def _show(self) -> None:
        model = self.model
        self.set_class(bool(self.label), "-shown")
        if not self.label:
            return
        width = max(20, self.size.width or self.app.size.width - 4)
        if model is None or model.state == "empty":
            self.update(Content(cut(f"{self.label}: starting…", width)))
            return
        self.update(Content("\n").join(lines(model, self.verb, self.label, width, self.app.ascii, self.hint)))


def lines(model: RunModel, verb: str, label: str, width: int, ascii_only: bool, hint: str = "") -> list[Content]:
    """At most three lines of at most `width` cells."""
    state, now = model.state, time.time()
    mark = (ASCII_MARKS if ascii_only else MARKS).get(state, "?")
    head = f"{mark} {NAMES.get(verb, verb)} {one_line(label)} {state}"
    elapsed = model.elapsed(now)
    if elapsed is not None:
        head += f" {'in' if state != 'running' else 'for'} {duration(elapsed)}"
    if state == "stopped":
        head += "; nothing was written"
    if state == "running" and hint:
        head += f"  ({hint})"
    made = [Content.styled(cut(head, width), f"bold {STYLES.get(state, '')}".strip())]
    if state == "running":
        stage = model.stage
        if stage is not None:
            share = stage.done / stage.total if stage.total else None
            text = one_line(stage.progress(now))
            gauge = f"{bar(share, 20, ascii_only)} " if share is not None and width >= 60 else ""
            made.append(Content(cut(f"{gauge}{text}", width)))
        elif model.lines:
            made.append(Content(cut(one_line(model.lines[-1].text), width)))
    elif isinstance(model.newest, events.Failed):
        said = (model.newest.problem, model.newest.where, model.newest.remedy)
        made.append(Content.styled(cut(one_line("; ".join(s for s in said if s)), 2 * width), "$text-error"))
    elif state == "killed":
        made.append(Content(cut("its process is gone without a word: most likely memory ran out", width)))
    return made
