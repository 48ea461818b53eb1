"""A blind test: two models answer the same prompts, and a person says which answer is better without knowing whose it is.

    RUN/blind/0001.jsonl   {"models": ["base", "starter-0003"], "seed": 7, "prompts": [...], ...}      the first line
                           {"pair": 0, "verdict": "a", "winner": "base", "answers": [...], "t": ...}   one a verdict

Comes from: the compare editor. Goes to: its tally. The file is all that there is: a test is gone on with by opening it.
No torch.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine import jsonl
from engine.errors import InputError

FOLDER = "blind"
Verdict = Literal["a", "b", "="]


class Plan(msgspec.Struct):
    """What is tested.

    Attributes:
        models: names of the two, "base" among them or not; the order has nothing to do with who is shown as A.
        sha256: of their files, "" for base.
        settings: of sampling, by the [generate] table's names.
    """

    models: tuple[str, str]
    prompts: list[str]
    seed: int
    sha256: tuple[str, str] = ("", "")
    settings: dict[str, Any] = {}
    t: float = 0.0


class Judged(msgspec.Struct):
    """A verdict, and only now who was who.

    Attributes:
        pair: index into the plan's prompts.
        a, b: the models that were shown as A and as B. winner: the better one, None where both are as good.
        answers: of the plan's models, in the plan's order.
    """

    pair: int
    verdict: Verdict
    a: str
    b: str
    winner: str | None
    answers: tuple[str, str]
    t: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts for the plan's first and second model, for neither, and the p-value of `sign_test`."""

    first: int
    second: int
    equal: int
    p: float

    @property
    def judged(self) -> int:
        return self.first + self.second + self.equal


def sign_test(first: int, second: int) -> float:
    """The exact two-sided sign test: how likely so uneven a split is where both are as good, ties left out.

    p = min(1, 2 * sum over k <= min(first, second) of C(n, k) / 2^n), n = first + second (W. J. Dixon and A. M. Mood,
    "The Statistical Sign Test", Journal of the American Statistical Association 41, 1946); 1.0 where n is 0.
    """
    n = first + second
    ways = tail = 1
    for k in range(1, min(first, second) + 1):
        ways = ways * (n - k + 1) // k  # n over k, from n over k - 1
        tail += ways
    return min(1.0, 2 * tail / 2**n)


class BlindTest:
    """A test in its file.

    Show `sides(pair, answers)` of the pair `next`, ask, `judge`, and show what that returns. Until then nothing here
    says who is who: the order is a coin toss a pair, from the seed.
    """

    def __init__(self, path: Path, plan: Plan, judged: Mapping[int, Judged]) -> None:
        self.path, self.plan = path, plan
        self._judged = dict(judged)
        tosses = random.Random(plan.seed)
        self._swapped = [tosses.random() < 0.5 for _ in plan.prompts]

    @classmethod
    def create(
        cls,
        run: Path,
        models: tuple[str, str],
        prompts: Sequence[str],
        seed: int,
        *,
        sha256: tuple[str, str] = ("", ""),
        settings: Mapping[str, Any] | None = None,
    ) -> BlindTest:
        """A new test in the folder of a run.

        Args:
            seed: of the order in which the two are shown.

        Raises:
            InputError: the two are one, or there is no prompt.
            WorkFailed: the file cannot be written.
        """
        if models[0] == models[1]:
            raise InputError(f"a blind test needs two models, and both are {models[0]}")
        if not prompts:
            raise InputError("a blind test needs prompts")
        plan = Plan(models, list(prompts), seed, sha256, dict(settings or {}), time.time())
        number = 1 + max((int(p.stem) for p in tests_of(run)), default=0)
        while True:
            path = run / FOLDER / f"{number:04d}.jsonl"
            with contextlib.suppress(_TakenError):
                jsonl.append(path, jsonl.encode(plan), _only_where_empty)
                return cls(path, plan, {})
            number += 1

    @classmethod
    def open(cls, path: Path) -> BlindTest:
        """A test as far as it has come.

        Raises:
            InputError: this is none.
        """
        rest = jsonl.lines(path)
        try:
            plan = msgspec.json.decode(next(rest, b""), type=Plan)
        except jsonl.UNREADABLE as error:
            raise InputError(f"this is no blind test: {error}", where=str(path)) from error
        judged: dict[int, Judged] = {}
        for line in rest:
            with contextlib.suppress(*jsonl.UNREADABLE):
                one = msgspec.json.decode(line, type=Judged)
                if 0 <= one.pair < len(plan.prompts):
                    judged.setdefault(one.pair, one)
        return cls(path, plan, judged)

    @property
    def next(self) -> int | None:
        """The first pair without a verdict; None when all have one."""
        return next((i for i in range(len(self.plan.prompts)) if i not in self._judged), None)

    @property
    def judged(self) -> list[Judged]:
        """The verdicts so far, by pair."""
        return [self._judged[i] for i in sorted(self._judged)]

    def sides(self, pair: int, answers: tuple[str, str]) -> tuple[str, str]:
        """The answers of the plan's two models as A and B."""
        return (answers[1], answers[0]) if self._swapped[pair] else answers

    def judge(self, pair: int, verdict: Verdict, answers: tuple[str, str]) -> Judged:
        """Keep a verdict; what it returns says who was who.

        Raises:
            InputError: the pair has one already (this process or another one gave it), or it is none of the three.
            WorkFailed: it cannot be written.
        """
        if verdict not in ("a", "b", "="):
            raise InputError(f"a verdict is a, b or =, not {verdict!r}")
        a, b = self.sides(pair, self.plan.models)
        winner = {"a": a, "b": b, "=": None}[verdict]
        made = Judged(pair, verdict, a, b, winner, answers, time.time())
        jsonl.append(self.path, jsonl.encode(made), lambda _: self._refuse_second(pair))
        self._judged[pair] = made
        return made

    def _refuse_second(self, pair: int) -> None:
        self._judged = BlindTest.open(self.path)._judged
        if pair in self._judged:
            raise InputError(f"pair {pair + 1} has its verdict already", where=str(self.path))

    def tally(self) -> Tally:
        """Of the verdicts so far."""
        sides = [(j.verdict, self._swapped[j.pair]) for j in self._judged.values()]
        equal = sum(verdict == "=" for verdict, _ in sides)
        first = sum((verdict == "a") != swapped for verdict, swapped in sides if verdict != "=")
        return Tally(first, len(sides) - equal - first, equal, sign_test(first, len(sides) - equal - first))


class _TakenError(Exception):
    """Another process made a test with this number."""


def _only_where_empty(path: Path) -> None:
    if path.stat().st_size:
        raise _TakenError


def tests_of(run: Path) -> list[Path]:
    """The files of a run's blind tests, oldest first."""
    return sorted(p for p in (run / FOLDER).glob("*.jsonl") if p.stem.isdecimal())
