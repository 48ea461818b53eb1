"""A comparison as plain state: who can be asked, what was asked, what each one answered, and how.

    Choice      base, an adapter, a checkpoint, the adapter in training: what a column shows
    Turn        a prompt and the answers to it, by choice
    Comparison  the columns (choices), the turns, the settings; what a request to the session says

No widget and no socket: `models.talk` carries questions to a session and folds its replies in here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.protocol import Answered, Asked, Message

if TYPE_CHECKING:
    from workbench.models.workspace import RunInfo, Snapshot

MOST_COLUMNS = 4
BASE = "base"


@dataclass(frozen=True, slots=True)
class Choice:
    """What a column can show.

    Attributes:
        name: how the session knows it, and evaluations call it ("starter-0003"); "base" for the base.
        label: "starter/0003", "starter/0003 step 40".
        path: the adapter's folder; None for the base and for an adapter in training.
        training: it is being trained in the session that answers.
    """

    name: str
    label: str
    path: Path | None = None
    training: bool = False

    @property
    def model(self) -> str | None:
        """As the protocol names it."""
        return None if self.name == BASE else self.name


BASE_CHOICE = Choice(BASE, BASE)


def run_name(label: str) -> str:
    """ "starter/0003" -> "starter-0003", as the engine names adapters."""
    return label.replace("/", "-")


def choices_of(run: RunInfo) -> list[Choice]:
    """A run's adapter, then its checkpoints, the newest first."""
    found = [Choice(run_name(run.label), run.label, run.path / "adapter")] if run.adapter else []
    for step in reversed(run.checkpoints):
        folder = run.path / "checkpoints" / f"step-{step:06d}"
        found.append(Choice(f"{run_name(run.label)}-step-{step}", f"{run.label} step {step:,}", folder))
    return found


def digits(snapshot: Snapshot, project: str, training: str | None) -> list[Choice]:
    """What the digits mean: the base, the adapter in training, then the project's adapters, the newest first.

    Args:
        training: label of the run that trains in the session, or None.
    """
    info = snapshot.projects.get(project)
    runs = list(reversed(info.runs)) if info else []
    found = [BASE_CHOICE]
    if training is not None:
        found.append(Choice(run_name(training), training, training=True))
    return found + [choices_of(r)[0] for r in runs if r.adapter and r.label != training]


def everything(snapshot: Snapshot, project: str, training: str | None) -> list[Choice]:
    """All that a column can show: `digits`, the project's checkpoints, then adapters of other projects."""
    first = digits(snapshot, project, training)
    known = {c.name for c in first}
    info = snapshot.projects.get(project)
    own = list(reversed(info.runs)) if info else []
    others = [r for name, p in snapshot.projects.items() if name != project for r in reversed(p.runs)]
    return first + [c for r in (*own, *others) for c in choices_of(r) if c.name not in known]


@dataclass
class Answer:
    """What one choice made of a prompt.

    Attributes:
        state: "waiting", "loading", "writing", "done", "cut" (it was told to stop), "failed".
        tokens: (text, log-probability in nats under its own model) of each.
        problem: why it failed, or the connection ended.
        said: the session's last word on it, with the proof; None before.
        scored: tokens as the session splits the answer, and their log-probabilities under other models, by name.
    """

    choice: Choice
    state: str = "waiting"
    text: str = ""
    tokens: list[tuple[str, float]] = field(default_factory=list)
    problem: str = ""
    said: Answered | None = None
    so_far: str = ""
    scored: list[str] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.state in ("done", "cut", "failed")

    @property
    def can_go_on(self) -> bool:
        """Whether it ended because it was cut off, not by itself."""
        return self.state in ("done", "cut") and not (self.said is not None and (self.said.stopped or self.said.full))


@dataclass
class Turn:
    """A prompt and its answers, by the choice's name.

    Attributes:
        raw: the prompt is the whole text, not a message of a conversation.
        lead: the choice whose answer the conversation goes on from where it is shared.
        reference: what a dataset says the answer is; "" where nothing does. where: the row's file and line.
        reference_tokens, reference_scores: as in `Answer`, of the reference.
    """

    prompt: str
    raw: bool = False
    lead: str = BASE
    answers: dict[str, Answer] = field(default_factory=dict)
    reference: str = ""
    where: str = ""
    reference_tokens: list[str] = field(default_factory=list)
    reference_scores: dict[str, list[float]] = field(default_factory=dict)
    seed: int | None = None
    """That it was asked with last, where it is not that of the settings."""
    kept_as: str = ""
    """What of it the transcripts have, "" where they have nothing."""


HISTORIES = {
    "own": "each column goes on from its own answers",
    "shared": "all columns go on from the focused one's answers",
    "none": "every prompt stands alone",
}


@dataclass
class Sampling:
    """Settings of a comparison; None: as the project says."""

    raw: bool = False
    history: str = "own"
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None
    seed: int | None = None

    @property
    def values(self) -> dict[str, float | int | None]:
        """As `protocol.Generate` names them."""
        return {n: getattr(self, n) for n in ("temperature", "top_p", "top_k", "max_new_tokens", "seed")}

    @property
    def words(self) -> str:
        """What differs from the project's settings, for a line."""
        short = {"temperature": "t", "top_p": "top p", "top_k": "top k", "max_new_tokens": "max", "seed": "seed"}
        said = ["raw" if self.raw else "chat"]
        if not self.raw and self.history != "own":
            said.append({"shared": "shared history", "none": "no history"}[self.history])
        if self.system and not self.raw:
            said.append("system")
        return ", ".join([*said, *(f"{short[n]} {v:g}" for n, v in self.values.items() if v is not None)])


@dataclass
class Comparison:
    """Attributes: columns: what each shows. focused: the column that commands are about."""

    columns: list[Choice] = field(default_factory=lambda: [BASE_CHOICE, BASE_CHOICE])
    turns: list[Turn] = field(default_factory=list)
    sampling: Sampling = field(default_factory=Sampling)
    focused: int = 0

    @property
    def turn(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    @property
    def shown(self) -> list[Choice]:
        """The choices of the columns, each once, in their order."""
        return list(dict.fromkeys(self.columns))

    def answer(self, column: int, turn: int = -1) -> Answer | None:
        """What a column's choice answered to a turn, None where it was not asked."""
        if not self.turns:
            return None
        return self.turns[turn].answers.get(self.columns[column].name)

    # --- columns

    def show(self, choice: Choice) -> None:
        """The focused column shows another choice."""
        self.columns[self.focused] = choice

    def step(self, among: list[Choice], by: int) -> None:
        """The next (1) or previous (-1) choice in the focused column."""
        names = [c.name for c in among]
        now = self.columns[self.focused].name
        self.show(among[(names.index(now) + by) % len(names)] if now in names else among[0])

    def renew(self, among: list[Choice]) -> None:
        """What a column shows may have become something else of the same name: a training has ended, or begun."""
        by_name = {c.name: c for c in among}
        self.columns = [by_name.get(c.name, c) for c in self.columns]

    def swap(self) -> None:
        """The focused column and its right neighbour (the last one: its left) change places."""
        if len(self.columns) > 1:
            here = self.focused
            there = here + 1 if here + 1 < len(self.columns) else here - 1
            self.columns[here], self.columns[there] = self.columns[there], self.columns[here]

    def add(self, among: list[Choice]) -> bool:
        """A further column, with the first choice that none shows; False where there are enough."""
        if len(self.columns) >= MOST_COLUMNS:
            return False
        taken = {c.name for c in self.columns}
        self.columns.append(next((c for c in among if c.name not in taken), BASE_CHOICE))
        self.focused = len(self.columns) - 1
        return True

    def remove(self) -> bool:
        """Take the focused column away; False where it is the last one."""
        if len(self.columns) < 2:
            return False
        del self.columns[self.focused]
        self.focused = min(self.focused, len(self.columns) - 1)
        return True

    # --- asking

    def asked(self, choice: Choice, turn: Turn) -> Asked:
        """The protocol's column that asks `choice` for its answer to `turn`."""
        answer = turn.answers.get(choice.name)
        so_far = answer.so_far if answer is not None else ""
        if turn.raw:
            return Asked(choice.model, text=turn.prompt, so_far=so_far)
        messages = [Message("system", self.sampling.system)] if self.sampling.system else []
        before = self.turns[: self.turns.index(turn)] if turn in self.turns else self.turns
        for earlier in before if self.sampling.history != "none" else []:
            if (said := self._said(choice, earlier)) is not None and not earlier.raw:
                messages += [Message("user", earlier.prompt), Message("assistant", said.text)]
        return Asked(choice.model, [*messages, Message("user", turn.prompt)], so_far=so_far)

    def _said(self, choice: Choice, turn: Turn) -> Answer | None:
        """The answer that the conversation goes on from: the choice's own, or the leading one; None: there is none."""
        own, lead = turn.answers.get(choice.name), turn.answers.get(turn.lead)
        order = (lead, own) if self.sampling.history == "shared" else (own, lead)
        return next((a for a in order if a is not None and a.text), None)
