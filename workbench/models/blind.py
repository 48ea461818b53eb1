"""A blind test on its way: which pair is in front, what the two said, what was judged. Plain state over `engine.blind`.

Comes from: the compare view (who, which prompts), or a test's file. Goes to: `editors.blind_view`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.blind import BlindTest, Judged, Tally, tests_of
from workbench.models.compare import BASE, Choice, Sampling, Turn
from workbench.models.workspace import Snapshot

PAIRS = 10
MOST_PAIRS = 500


@dataclass(frozen=True, slots=True)
class Wish:
    """A test that is to be made.

    Attributes:
        prompts: typed ones; none: the first `count` unseen rows of the data.
    """

    choices: tuple[Choice, Choice]
    sampling: Sampling
    prompts: tuple[str, ...] = ()
    count: int = PAIRS


@dataclass
class Trial:
    """A test and what its pairs were answered. Attributes: pair: the one in front, None when all are judged. verdict: on
    it, None until it is given."""

    test: BlindTest
    choices: tuple[Choice, Choice]
    turns: dict[int, Turn] = field(default_factory=dict)
    pair: int | None = None
    verdict: Judged | None = None

    def __post_init__(self) -> None:
        self.pair = self.test.next

    @property
    def raw(self) -> bool:
        return bool(self.test.plan.settings.get("raw"))

    def turn(self, pair: int) -> Turn:
        """The question of a pair."""
        if pair not in self.turns:
            self.turns[pair] = Turn(self.test.plan.prompts[pair], self.raw)
        return self.turns[pair]

    def answers(self, pair: int) -> tuple[str, str] | None:
        """What the plan's two models said, None until both have."""
        turn = self.turns.get(pair)
        found = [turn.answers.get(c.name) for c in self.choices] if turn is not None else []
        if len(found) == 2 and all(a is not None and a.state == "done" for a in found):
            return found[0].text, found[1].text  # type: ignore[union-attr]
        return None

    def problem(self, pair: int) -> str:
        """Why a pair has no answers, "" where nothing is wrong."""
        turn = self.turns.get(pair)
        return next((a.problem for a in turn.answers.values() if a.state == "failed"), "") if turn is not None else ""

    def go_on(self) -> None:
        """The next pair that has no verdict."""
        self.pair, self.verdict = self.test.next, None


def run_of(choice: Choice) -> Path | None:
    """The folder of the run that an adapter or a checkpoint belongs to."""
    if choice.path is None:
        return None
    return choice.path.parent.parent if choice.path.name.startswith("step-") else choice.path.parent


def settings_of(sampling: Sampling, raw: bool) -> dict[str, float | int | bool]:
    """As `Plan.settings` keeps them."""
    return {**{n: v for n, v in sampling.values.items() if v is not None}, **({"raw": True} if raw else {})}


def sampling_of(settings: dict[str, float]) -> Sampling:
    names = ("temperature", "top_p", "top_k", "max_new_tokens", "seed")
    return Sampling(history="none", **{n: settings[n] for n in names if n in settings})  # type: ignore[arg-type]


def newest_test(snapshot: Snapshot, project: str) -> Path | None:
    """The test of a project's runs that was worked on last."""
    info = snapshot.projects.get(project)
    found = [path for run in (info.runs if info else ()) for path in tests_of(run.path)]
    return max(found, key=lambda p: p.stat().st_mtime, default=None)


def tally_words(tally: Tally, models: tuple[str, str]) -> str:
    """ "base 3, demo-0002 6, as good 1; p = 0.51 (sign test)"."""
    counts = f"{models[0]} {tally.first}, {models[1]} {tally.second}, as good {tally.equal}"
    chance = "" if tally.first + tally.second == 0 else f"; p = {tally.p:.2g} (sign test, ties left out)"
    return counts + chance


def who(name: str) -> str:
    return "the base" if name == BASE else name
