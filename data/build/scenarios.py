"""Small situations with two or three sums in them, told as facts, a question and the steps to its answer.

A `Scenario` is rendered twice: as prose for pre-training (`corpus`) and as a worked problem in GSM8K's form
(`word_problems`). Which numbers a situation may use is split by a hash: the numbers of a test problem occur neither in
a training problem nor in the pre-training corpus with the same situation.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from data.build.lexicon import (
    CONTAINERS,
    COUNTABLE_IN_CONTAINERS,
    DAYS,
    PLACES,
    THINGS,
    Person,
    count,
    people,
    plural,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One sum and what it says: `lead` + value + `tail`, for example "Mia has" 19 "apples"."""

    left: int
    operator: str
    right: int
    lead: str
    tail: str

    @property
    def value(self) -> int:
        return {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}[self.operator](
            self.left, self.right
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """Facts, a question, and the steps to the answer (the last step's value)."""

    facts: str
    question: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        return self.steps[-1].value


def _gain_and_loss(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing = plural(rng.choice(THINGS))
    a, b = n(5, 50), n(3, 40)
    c = n(2, a + b - 1)
    gain, got = rng.choice(
        [("buys", "buying"), ("finds", "finding"), ("gets", "getting"), ("picks up", "picking up"), ("makes", "making")]
    )
    lose, lost = rng.choice(
        [
            (f"gives {c} {thing} to {q.name}", "giving"),
            (f"sells {c} {thing}", "selling"),
            (f"loses {c} {thing}", "losing"),
            (f"gives away {c} {thing}", "giving"),
            (f"puts {c} {thing} in a drawer for {q.name}", "putting away"),
        ]
    )
    return Scenario(
        f"{p.name} has {a} {thing}. {p.Subject} {gain} {b} more {thing}. Then {p.subject} {lose}.",
        rng.choice([f"How many {thing} does {p.name} have now?", f"How many {thing} are left for {p.name}?"]),
        (
            Step(a, "+", b, f"After {got} more, {p.name} has", thing),
            Step(a + b, "-", c, f"After {lost} some, {p.name} has", thing),
        ),
    )


def _two_losses(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    thing = plural(rng.choice(THINGS))
    a = n(30, 99)
    b = n(3, a // 2)
    c = n(3, a // 2 - 1)
    first, second = rng.sample(["sells", "loses", "gives away", "breaks", "uses"], 2)
    return Scenario(
        f"{p.name} has {a} {thing}. On {DAYS[b % 7]} {p.subject} {first} {b} {thing}. "
        f"The next day {p.subject} {second} {c} {thing}.",
        f"How many {thing} does {p.name} still have?",
        (
            Step(a, "-", b, f"After {DAYS[b % 7]} {p.name} has", thing),
            Step(a - b, "-", c, f"After the next day {p.name} has", thing),
        ),
    )


def _boxes_and_more(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    thing, box = rng.choice(COUNTABLE_IN_CONTAINERS), rng.choice(CONTAINERS)
    a, b, c = n(2, 9), n(2, 9), n(2, 19)
    return Scenario(
        f"{p.name} has {count(a, box)}. There are {count(b, thing)} in each {box}. "
        f"{p.Subject} also has {count(c, thing)} on the table.",
        f"How many {plural(thing)} does {p.name} have in all?",
        (
            Step(a, "*", b, f"In the {plural(box)} there are", plural(thing)),
            Step(a * b, "+", c, f"In all {p.name} has", plural(thing)),
        ),
    )


def _boxes_minus(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    thing, box = rng.choice(COUNTABLE_IN_CONTAINERS), rng.choice(CONTAINERS)
    a, b = n(3, 9), n(3, 9)
    c = n(2, a * b - 1)
    verb = rng.choice(["uses", "sells", "gives away", "loses"])
    return Scenario(
        f"{p.name} buys {count(a, box)} with {count(b, thing)} in each {box}. {p.Subject} {verb} {count(c, thing)}.",
        f"How many {plural(thing)} are left?",
        (
            Step(a, "*", b, f"{p.name} buys", plural(thing)),
            Step(a * b, "-", c, "The number left is", plural(thing)),
        ),
    )


def _shopping(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    thing = rng.choice(THINGS)
    a, b = n(2, 9), n(2, 9)
    c = n(a * b + 1, 99)
    return Scenario(
        f"{p.name} goes to the {rng.choice(PLACES)} with {c} dollars. A {thing} costs {b} dollars. "
        f"{p.Subject} buys {a} {plural(thing)}.",
        f"How many dollars does {p.name} have left?",
        (
            Step(a, "*", b, f"The {plural(thing)} cost", "dollars"),
            Step(c, "-", a * b, f"{p.name} has", "dollars left"),
        ),
    )


def _two_prices(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    x, y = rng.sample(THINGS, 2)
    a, b, c, d = n(2, 9), n(2, 9), n(2, 9), n(2, 5)
    return Scenario(
        f"A {x} costs {b} dollars and a {y} costs {d} dollars. {p.name} buys {a} {plural(x)} and {c} {plural(y)}.",
        f"How many dollars does {p.name} pay?",
        (
            Step(a, "*", b, f"The {plural(x)} cost", "dollars"),
            Step(c, "*", d, f"The {plural(y)} cost", "dollars"),
            Step(a * b, "+", c * d, f"{p.name} pays", "dollars"),
        ),
    )


def _more_than(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing = plural(rng.choice(THINGS))
    a, b = n(4, 45), n(2, 9)
    return Scenario(
        f"{p.name} has {a} {thing}. {q.name} has {b} more {thing} than {p.name}.",
        f"How many {thing} do {p.name} and {q.name} have together?",
        (
            Step(a, "+", b, f"{q.name} has", thing),
            Step(a, "+", a + b, "Together they have", thing),
        ),
    )


def _fewer_than(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing = plural(rng.choice(THINGS))
    a = n(12, 50)
    b = n(2, a - 3)
    return Scenario(
        f"{p.name} has {a} {thing}. {q.name} has {b} fewer {thing} than {p.name}.",
        f"How many {thing} do they have together?",
        (
            Step(a, "-", b, f"{q.name} has", thing),
            Step(a, "+", a - b, "Together they have", thing),
        ),
    )


def _twice(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing = plural(rng.choice(THINGS))
    a = n(3, 33)
    return Scenario(
        f"{p.name} has {a} {thing}. {q.name} has twice as many {thing} as {p.name}.",
        f"How many {thing} do they have in all?",
        (
            Step(a, "*", 2, f"{q.name} has", thing),
            Step(a, "+", a * 2, "In all they have", thing),
        ),
    )


def _half(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing = plural(rng.choice(THINGS))
    a = 2 * n(4, 33)
    return Scenario(
        f"{p.name} has {a} {thing}. {q.name} has half as many {thing} as {p.name}.",
        f"How many {thing} do they have in all?",
        (
            Step(a, "/", 2, f"{q.name} has", thing),
            Step(a, "+", a // 2, "In all they have", thing),
        ),
    )


def _share(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    thing = plural(rng.choice(THINGS))
    a, b = n(2, 9), n(2, 9)
    c = n(2, 20)
    total = a * b + c
    return Scenario(
        f"{p.name} has {total} {thing}. {p.Subject} keeps {c} {thing} and shares the rest equally among {a} friends.",
        f"How many {thing} does each friend get?",
        (
            Step(total, "-", c, f"{p.name} shares", thing),
            Step(a * b, "/", a, "Each friend gets", thing),
        ),
    )


def _two_share(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q = who[:2]
    thing, box = rng.choice(COUNTABLE_IN_CONTAINERS), rng.choice(CONTAINERS)
    a, b = n(2, 9), n(3, 9)
    c = n(2, a * b - 2) if a * b > 4 else 2
    return Scenario(
        f"{p.name} brings {c} {plural(thing)} and {q.name} brings {a * b - c} {plural(thing)}. "
        f"They put {count(a, thing)} in each {box}.",
        f"How many {plural(box)} do they need?",
        (
            Step(c, "+", a * b - c, "Together they bring", plural(thing)),
            Step(a * b, "/", a, "They need", plural(box)),
        ),
    )


def _days(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    a, b = n(2, 9), n(2, 9)
    c = n(a * b + 1, 99)
    return Scenario(
        f"{p.name} has a book with {c} pages. {p.Subject} reads {b} pages a day for {a} days.",
        f"How many pages does {p.name} still have to read?",
        (
            Step(a, "*", b, f"{p.name} reads", "pages"),
            Step(c, "-", a * b, "There are", "pages left"),
        ),
    )


def _wages(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p = who[0]
    a, b, c = n(3, 9), n(2, 5), n(2, 4)
    return Scenario(
        f"{p.name} earns {a} dollars an hour at the {rng.choice(PLACES)}. {p.Subject} works {b} hours on "
        f"{DAYS[a % 7]} and {c} hours on {DAYS[(a + 2) % 7]}.",
        f"How many dollars does {p.name} earn?",
        (
            Step(b, "+", c, f"{p.name} works", "hours"),
            Step(b + c, "*", a, f"{p.name} earns", "dollars"),
        ),
    )


def _ages(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q, r = who[:3]
    a, b = n(5, 40), n(2, 20)
    c = n(2, a + b - 2)
    return Scenario(
        f"{p.name} is {a} years old. {q.name} is {b} years older than {p.name}. "
        f"{r.name} is {c} years younger than {q.name}.",
        f"How old is {r.name}?",
        (
            Step(a, "+", b, f"{q.name} is", "years old"),
            Step(a + b, "-", c, f"{r.name} is", "years old"),
        ),
    )


def _three_together(rng: Random, who: list[Person], n: Callable[[int, int], int]) -> Scenario:
    p, q, r = who[:3]
    thing = plural(rng.choice(THINGS))
    a, b, c = n(2, 35), n(2, 30), n(2, 30)
    verb = rng.choice(["finds", "brings", "buys", "counts", "has"])
    return Scenario(
        f"{p.name} {verb} {a} {thing}, {q.name} {verb} {b} {thing} and {r.name} {verb} {c} {thing}.",
        f"How many {thing} is that in total?",
        (
            Step(a, "+", b, f"{p.name} and {q.name} together:", thing),
            Step(a + b, "+", c, "In total it is", thing),
        ),
    )


KINDS: tuple[Callable[[Random, list[Person], Callable[[int, int], int]], Scenario], ...] = (
    _gain_and_loss, _two_losses, _boxes_and_more, _boxes_minus, _shopping, _two_prices, _more_than, _fewer_than,
    _twice, _half, _share, _two_share, _days, _wages, _ages, _three_together,
)  # fmt: skip


def make(rng: Random, split: str, names: str) -> Scenario:
    """A random scenario whose numbers belong to `split` ("train" or "test"), told of people from `names`.

    One in five number combinations of each kind of situation is kept for "test".
    """
    kind = rng.randrange(len(KINDS))
    drawn: list[int] = []

    def number(low: int, high: int) -> int:
        drawn.append(rng.randint(low, max(low, high)))
        return drawn[-1]

    while True:
        drawn.clear()
        scenario = KINDS[kind](rng, people(rng, 3, names), number)
        held_out = zlib.crc32(f"{kind}:{drawn}".encode()) % 5 == 0
        if held_out == (split == "test"):
            return scenario
