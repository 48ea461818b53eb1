"""A run as its event log tells it: folded event by event, live or long over, and the same in the end.

Comes from: `jobs.tail`, which reads the log in a thread. Goes to: the run's view, the comparison of runs, the inspector.
Whoever reads curves holds `lock`, so that no point is added meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter

from engine import events
from engine.console import told
from engine.progress import StageProgress
from engine.text import one_line
from workbench.models.run_ending import Ending, ending_of
from workbench.models.series import Series

KEPT_LINES = 2000
KEPT_SAMPLES = 1000
RECENT = 64
"""Steps that the estimate of the time left looks back at."""
QUIET_SECONDS = 60.0
"""A running run that says nothing for this long is said to be quiet."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened: when (seconds since the epoch), at which step, how grave, and what."""

    t: float
    text: str
    level: str = "info"
    step: int | None = None


_CURVES: dict[str, tuple[str, str]] = {
    "loss": ("train loss", "nats/token"),
    "unseen": ("unseen loss", "nats/token"),
    "learning_rate": ("learning rate", ""),
    "gradient_norm": ("gradient norm", ""),
    "tokens_per_second": ("tokens/s", ""),
    "memory_bytes": ("memory", "B"),
}
_OF_STEP = {name: attrgetter(name) for name in _CURVES if name != "unseen"}


@dataclass(slots=True)
class Gaps:
    """Events that the numbering has and the log has not."""

    places: int = 0
    missing: int = 0
    first: int | None = None

    def text(self) -> str:
        if not self.places:
            return ""
        what = "1 event is" if self.missing == 1 else f"{self.missing:,} events are"
        where = f"before event {self.first}" if self.places == 1 else f"in {self.places:,} places"
        return f"{what} missing {where}: lost, or of a kind that this version does not know"


@dataclass
class RunModel:
    """What is known of a run.

    Attributes:
        label: "starter/0007".
        alive: whether its process lives; None before anyone has looked.
        reading: share of the log that has been read, 1.0 when all of it has.
        gone: its folder was deleted.
        preview: it was folded from samples of a long log; gaps mean nothing.
        curves: loss, unseen, learning_rate, gradient_norm, tokens_per_second, memory_bytes by step.
        started: the newest `started`. begun, seen: times of the first and the newest event.
        repeated: steps that were done a second time, after a kill.
        checkpoint: step of the newest checkpoint. stage: what is going on besides steps.
        lines: what happened, in words, the oldest dropped first (`dropped`: how many).
    """

    label: str
    alive: bool | None = None
    reading: float = 1.0
    preview: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    curves: dict[str, Series] = field(default_factory=lambda: {n: Series(*about) for n, about in _CURVES.items()})
    started: events.Started | None = None
    begun: float | None = None
    gone: bool = False
    seen: float | None = None
    newest: events.Event | None = None
    step: events.Step | None = None
    starts: int = 0
    repeated: int = 0
    checkpoint: int | None = None
    adapter: str = ""
    scored: events.Scored | None = None
    memory: events.Memory | None = None
    stage: StageProgress | None = None
    gaps: Gaps = field(default_factory=Gaps)
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=KEPT_LINES), repr=False)
    dropped: int = 0
    samples: deque[events.Sample] = field(default_factory=lambda: deque(maxlen=KEPT_SAMPLES), repr=False)
    count: int = 0
    """Events folded: grows with every change."""
    _seq: int = -1
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT), repr=False)

    # --- folding

    def fold(self, said: Iterable[events.Event]) -> None:
        """Take events in, in the order of the log."""
        steps: list[events.Step] = []
        for event in said:
            if type(event) is events.Step:
                steps.append(event)
                continue
            if steps:
                self._steps(steps)
                steps = []
            self._number(event.seq, 1)
            self._one(event)
        if steps:
            self._steps(steps)

    def _steps(self, steps: list[events.Step]) -> None:
        """Steps that follow each other, without another event between them."""
        if steps[-1].seq - steps[0].seq == len(steps) - 1:
            self._number(steps[0].seq, len(steps))
        else:
            for event in steps:
                self._number(event.seq, 1)
        back = [i for i, (a, b) in enumerate(pairwise(steps), 1) if a.step >= b.step]  # after a kill they went back
        for begin, end in pairwise([0, *back, len(steps)]):
            stretch = steps[begin:end]
            if self.step is not None and stretch[0].step <= self.step.step:
                self._again(stretch[0].step)
            self._points(stretch)
            self._steps_seen(stretch)

    def _points(self, steps: list[events.Step]) -> None:
        x = [e.step for e in steps]
        for name, get in _OF_STEP.items():
            self.curves[name].extend(x, list(map(get, steps)))

    def _steps_seen(self, steps: list[events.Step]) -> None:
        newest = steps[-1]
        self.step = self.newest = newest
        self._when(steps[0].t)
        self._when(newest.t)
        self._recent.extend((e.t, e.step) for e in steps[-RECENT:])
        self.stage = None
        self.count += len(steps)

    def _again(self, step: int) -> None:
        """Steps from `step` on are done again, from a checkpoint: what the lost ones measured goes."""
        if self.step is not None:
            self.repeated += self.step.step - step + 1
        for curve in self.curves.values():
            curve.cut(step)
        self.samples = deque((s for s in self.samples if s.step is None or s.step < step), maxlen=KEPT_SAMPLES)
        self._recent.clear()

    def _number(self, seq: int, count: int) -> None:
        """Look whether `count` events that begin with `seq` follow the ones before."""
        if seq < 0 or self.preview:
            return
        missing = seq - self._seq - 1
        if missing > 0:
            self.gaps.places += 1
            self.gaps.missing += missing
            if self.gaps.first is None:
                self.gaps.first = seq
        self._seq = seq + count - 1

    def _when(self, t: float) -> None:
        if t:
            self.begun = t if self.begun is None else self.begun
            self.seen = t

    def _one(self, event: events.Event) -> None:
        self._when(event.t)
        self.newest = event
        self.count += 1
        if isinstance(event, events.Started):
            self.started, self.stage, self.alive = event, None, None
            self.starts += 1
            self._recent.clear()
        elif isinstance(event, events.Stage):
            self._stage(event)
            return
        elif isinstance(event, events.Memory):
            self.memory = event
        elif isinstance(event, events.Scored):
            self._scored(event)
        elif isinstance(event, events.Sample):
            self.samples.append(event)
            return
        elif isinstance(event, events.Saved):
            if event.what == "checkpoint" and event.step is not None:
                self.checkpoint = event.step
            elif event.what == "adapter":
                self.adapter = event.path
        elif isinstance(event, events.Finished | events.Failed):
            self.stage = None
        self._tell(event)

    def _stage(self, event: events.Stage) -> None:
        if self.stage is None or self.stage.name != event.name:
            self.stage = StageProgress(event.name, event.t, event.t)
        self.stage.done, self.stage.total, self.stage.unit = event.done, event.total, event.unit
        if event.total is not None and event.done >= event.total:
            if not event.name.startswith("step "):
                self._add(Line(event.t, one_line(self.stage.end(event.t)), step=self._at))
            self.stage = None

    def _scored(self, event: events.Scored) -> None:
        if event.step is None or not event.tokens:
            return
        self.scored = event
        unseen = self.curves["unseen"]
        if unseen.x and event.step <= unseen.x[-1]:
            unseen.cut(event.step)
        unseen.append(event.step, event.nll / event.tokens)

    def _tell(self, event: events.Event) -> None:
        """Put an event among what happened, in words."""
        if isinstance(event, events.Failed):
            parts = (event.problem, event.where, event.remedy)
            self._add(Line(event.t, one_line("failed: " + "; ".join(p for p in parts if p)), "error", self._at))
            return
        level = "warning" if isinstance(event, events.Note) and event.level == "warning" else "info"
        step = getattr(event, "step", None)
        for text in told(event):
            text = text.removeprefix(f"step {step}, ")  # it stands beside it
            text = text.removesuffix(", going on after step 0")  # how a detached run begins
            self._add(Line(event.t, one_line(text), level, self._at if step is None else step))

    def _add(self, line: Line) -> None:
        self.dropped += len(self.lines) == KEPT_LINES
        self.lines.append(line)

    @property
    def _at(self) -> int | None:
        return self.step.step if self.step else None

    # --- what it says

    @property
    def state(self) -> str:
        """As `engine.store.RunState.state`."""
        if self.started is None:
            return "empty"
        if isinstance(self.newest, events.Finished):
            return "stopped" if self.newest.reason == "stopped" else "done"
        if isinstance(self.newest, events.Failed):
            return "failed"
        return "killed" if self.alive is False else "running"

    @property
    def last_step(self) -> events.Step | None:
        return self.step

    @property
    def share(self) -> float | None:
        """Steps done of all, 0 to 1."""
        return min(1.0, self.step.step / self.step.steps) if self.step and self.step.steps else None

    def eta(self, now: float | None = None) -> float | None:
        """Seconds to the last step, from the pace of the newest steps of this process; None where it is not known."""
        if self.state != "running" or self.step is None or len(self._recent) < 2:
            return None
        (t0, s0), (t1, s1) = self._recent[0], self._recent[-1]
        if s1 <= s0 or t1 <= t0:
            return None
        passed = max(0.0, (time.time() if now is None else now) - t1)
        pace, left = (t1 - t0) / (s1 - s0), self.step.steps - s1
        return pace * left - min(passed, pace)  # a step that takes long does not use up the time of the others

    def elapsed(self, now: float | None = None) -> float | None:
        """Seconds of the newest process: from its start to its last word, or to now while it runs."""
        if self.started is None or not self.started.t:
            return None
        end = (time.time() if now is None else now) if self.state == "running" else (self.seen or self.started.t)
        return max(0.0, end - self.started.t)

    def quiet(self, now: float | None = None) -> float | None:
        """Seconds without a word of a run that is running, where they are many."""
        if self.state != "running" or self.seen is None:
            return None
        passed = (time.time() if now is None else now) - self.seen
        return passed if passed >= QUIET_SECONDS else None

    def ending(self) -> Ending | None:
        """How it ended and what to do about it; None while it runs."""
        return ending_of(self)

    def resume_words(self) -> str:
        if self.checkpoint is None:
            return "There is no checkpoint: Resume begins at step 1"
        return f"Resume goes on after step {self.checkpoint:,}"
