"""The pre-training corpus of the starter model: English about people, things, quantities and small sums.

`document(rng)` is one document; a seed gives an endless, repeatable stream of them. A document is either prose or a
short conversation. Nothing here has the form of the fine-tuning sets: no `<<a+b=c>>` step, no `#### N` answer, no
structured support reply. The symbols themselves do occur (headings, quotations), so that a model knows them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from data.build import lexicon as lex
from data.build import scenarios

Turn = tuple[str, str]
"""(role, text) of one message of a conversation."""

WORDS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def _sum(rng: Random) -> tuple[int, str, int, int]:
    """One sum within the range that the scenarios use: (left, operator, right, value)."""
    operator = rng.choices("+-*/", (4, 4, 2, 2))[0]
    if operator in "*/":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        if rng.random() < 0.25:
            a, b = rng.choice([(rng.randint(2, 45), 2), (2, rng.randint(2, 45))])
        return (a, "*", b, a * b) if operator == "*" else (a * b, "/", b, a)
    a, b = rng.randint(1, rng.choice([20, 60, 99])), rng.randint(1, rng.choice([10, 30, 70]))
    return (a, "+", b, a + b) if operator == "+" else (a + b, "-", b, a)


def _equation(rng: Random, left: int, operator: str, right: int, value: int) -> str:
    form = rng.random()
    if form < 0.45:
        return f"{left} {operator} {right} = {value}"
    if form < 0.85:
        return f"{left}{operator}{right}={value}"
    return f"{left} {WORDS[operator]} {right} is {value}"


def _drill(rng: Random) -> str:
    end = rng.choice(["\n", ".\n", ". ", ", "])
    return end.join(_equation(rng, *_sum(rng)) for _ in range(rng.randint(6, 16)))


def _chain(rng: Random) -> str:
    """Sums that go on from each other's value, as the steps of a problem do."""
    lines = []
    for _ in range(rng.randint(3, 6)):
        left, operator, right, value = _sum(rng)
        line = _equation(rng, left, operator, right, value)
        more = rng.randint(1, 40)
        if rng.random() < 0.5 or value <= more:
            lines.append(f"{line}. {_equation(rng, value, '+', more, value + more)}.")
        else:
            lines.append(f"{line}. {_equation(rng, value, '-', more, value - more)}.")
    return "\n".join(lines)


def _told(rng: Random, step: scenarios.Step) -> str:
    """A step as a sentence or two: "12 + 7 = 19. Mia has 19 apples."."""
    equation = _equation(rng, step.left, step.operator, step.right, step.value)
    says = f"{step.lead} {step.value} {step.tail}"
    form = rng.random()
    if form < 0.4:
        return f"{equation}. {says}."
    if form < 0.7:
        return f"{says}, because {equation}."
    return f"{step.lead} {equation} {step.tail}."


def _story(rng: Random) -> str:
    scenario = scenarios.make(rng, "train", "all")
    parts = [scenario.facts]
    if rng.random() < 0.5:
        parts.append(scenario.question)
    if rng.random() < 0.4:
        parts.append(rng.choice(["Let us count.", "Let us see.", "We can work it out."]))
    parts += [_told(rng, step) for step in scenario.steps]
    if rng.random() < 0.5:
        parts.append(f"{rng.choice(['So the number is', 'It comes to', 'That makes'])} {scenario.answer}.")
    return rng.choice([" ", "\n"]).join(parts)


def _scene(rng: Random) -> str:
    """A few sentences about people, animals, places and the weather."""
    p, q = lex.people(rng, 2, "all")
    sentences: list[Callable[[], str]] = [
        lambda: f"{p.name} lives near the {rng.choice(lex.PLACES)}.",
        lambda: f"{p.Subject} has a {rng.choice(lex.ADJECTIVES)} {rng.choice(lex.ANIMALS)} with {rng.choice(lex.COLOURS)} ears.",
        lambda: f"On {rng.choice(lex.DAYS)} {rng.choice(lex.WEATHER)} and {p.name} stays at the {rng.choice(lex.PLACES)}.",
        lambda: f"{q.name} brings a {rng.choice(lex.COLOURS)} {rng.choice(lex.THINGS)} to {p.name}.",
        lambda: f"The {rng.choice(lex.THINGS)} is {rng.choice(lex.ADJECTIVES)} and {rng.choice(lex.COLOURS)}.",
        lambda: f'"{rng.choice(["Good morning", "Thank you", "Come in", "Look at this", "Wait for me"])}," says {q.name}.',
        lambda: f"{p.name} and {q.name} walk from the {rng.choice(lex.PLACES)} to the {rng.choice(lex.PLACES)}.",
        lambda: f"In the {rng.choice(lex.PLACES)} there is a {rng.choice(lex.ADJECTIVES)} {rng.choice(lex.CONTAINERS)}.",
        lambda: f"{p.name} likes {lex.plural(rng.choice(lex.THINGS))} more than {lex.plural(rng.choice(lex.THINGS))}.",
        lambda: f"The sign says <<{rng.choice(['open', 'closed', 'for sale', 'room ' + str(rng.randint(1, 99))])}>>.",
    ]  # fmt: skip
    return " ".join(make() for make in rng.sample(sentences, rng.randint(3, 7)))


def _note(rng: Random) -> str:
    """A list under a heading, with numbers to copy."""
    p = lex.people(rng, 1, "all")[0]
    things = rng.sample(lex.THINGS, rng.randint(2, 5))
    numbers = [rng.randint(2, 99) for _ in things]
    lines = [f"#### {rng.choice(lex.DAYS)}" if rng.random() < 0.5 else f"{p.name}'s list:"]
    lines += [f"- {lex.count(n, t)}" for n, t in zip(numbers, things, strict=True)]
    pick = rng.randrange(len(things))
    lines.append(f"{p.name} has {lex.count(numbers[pick], things[pick])} on the list.")
    return "\n".join(lines)


def _complaint(rng: Random, product: str) -> str:
    return rng.choice([
        f"the {product} has not arrived yet", f"the {product} arrived broken", f"I want to send the {product} back",
        f"I paid twice for the {product}", f"you sent the wrong {product}", f"the {product} stopped working",
        f"I want to change the address for the {product}", f"I want to cancel the {product}",
    ])  # fmt: skip


def _letter(rng: Random) -> str:
    """Somebody writes to a shop; the order number comes back later in the text."""
    p = lex.people(rng, 1, "all")[0]
    product, order = rng.choice(lex.PRODUCTS), rng.randint(1000, 9999)
    opening = rng.choice(["Hello", "Dear shop", "Hi", "Good morning"])
    middle = rng.choice([
        f"my order {order} is late", f"this is about order {order}", f"I ordered a {product}, number {order}",
        f"order {order} is mine",
    ])  # fmt: skip
    day = rng.choice(lex.DAYS)
    complaint = _complaint(rng, product)
    closing = rng.choice(["Please help", "Please write back", "Thank you", "What can I do?"])
    text = f"{opening}, {middle} and {complaint}. {closing} {p.name}"
    reply = rng.choice([
        f"The shop wrote back to {p.name} on {day}: we are sorry about order {order}, the {product} is on its way.",
        f"{p.name} waited until {day}. Then the shop sent a new {product} for order {order}.",
        f"On {day} the shop answered {p.name} about the {product}. The number {order} was on the letter.",
        f"The shop gave {p.name} the money back for order {order} and said sorry about the {product}.",
    ])  # fmt: skip
    return f"{text}\n{reply}"


def _small_talk(rng: Random) -> list[Turn]:
    p = lex.people(rng, 1, "all")[0]
    thing, colour, animal = rng.choice(lex.THINGS), rng.choice(lex.COLOURS), rng.choice(lex.ANIMALS)
    day = rng.randrange(7)
    today, tomorrow = lex.DAYS[day], lex.DAYS[(day + 1) % 7]
    return list(rng.choice([
        (("user", f"Hello, I am {p.name}."), ("assistant", f"Hello {p.name}, how are you today?")),
        (("user", f"My {thing} is {colour}. What colour is my {thing}?"), ("assistant", f"Your {thing} is {colour}.")),
        (("user", f"Tell me about a {animal}."), ("assistant", _scene(rng))),
        (("user", f"Which day comes after {today}?"), ("assistant", f"After {today} comes {tomorrow}.")),
        (("user", f"What is the plural of {thing}?"), ("assistant", f"The plural of {thing} is {lex.plural(thing)}.")),
        (("user", "Tell me a story."), ("assistant", _story(rng))),
    ]))  # fmt: skip


def _sum_talk(rng: Random) -> list[Turn]:
    turns: list[Turn] = []
    for _ in range(rng.randint(1, 4)):
        left, operator, right, value = _sum(rng)
        asked = rng.choice(
            [f"{left} {operator} {right}", f"{left}{operator}{right}", f"{left} {WORDS[operator]} {right}"]
        )
        turns.append(("user", f"{rng.choice(['What is', 'How much is', 'Work out'])} {asked}?"))
        turns.append(("assistant", rng.choice([f"{asked} is {value}.", f"It is {value}.", f"{value}"])))
    return turns


def _one_step_talk(rng: Random) -> list[Turn]:
    """The first fact of a scenario, asked and answered in a sentence."""
    p = lex.people(rng, 1, "all")[0]
    thing = lex.plural(rng.choice(lex.THINGS))
    a, b = rng.randint(3, 60), rng.randint(2, 39)
    gains = rng.random() < 0.5
    if not gains:
        a, b = a + b, b
    value = a + b if gains else a - b
    verb = rng.choice(["buys", "finds", "gets", "makes"] if gains else ["loses", "sells", "gives away", "uses"])
    question = f"{p.name} has {a} {thing}. {p.Subject} {verb} {b} {thing}. How many {thing} does {p.name} have now?"
    step = scenarios.Step(a, "+" if gains else "-", b, f"{p.name} has", thing)
    return [("user", question), ("assistant", rng.choice([_told(rng, step), f"{p.name} has {value} {thing}."]))]


PROSE: tuple[tuple[Callable[[Random], str], float], ...] = (
    (_drill, 0.24), (_chain, 0.10), (_story, 0.34), (_scene, 0.05), (_note, 0.03), (_letter, 0.06),
)  # fmt: skip
TALK: tuple[tuple[Callable[[Random], list[Turn]], float], ...] = (
    (_small_talk, 0.06), (_sum_talk, 0.06), (_one_step_talk, 0.06),
)  # fmt: skip


def document(rng: Random) -> str | list[Turn]:
    """One document: a text, or the turns of a conversation."""
    makers, weights = zip(*PROSE, *TALK, strict=True)
    return rng.choices(makers, weights)[0](rng)


SIGNS = "".join(chr(c) for c in range(33, 127)) + "<<>>##$%=+-*/()[]" * 2 + "é€’–"


def _code(rng: Random) -> str:
    """A random sequence of signs, digits, letters and syllables."""
    parts = [rng.choice(SIGNS) for _ in range(rng.randint(2, 9))]
    parts += rng.sample(["<<", ">>", "####", "--", "==", str(rng.randint(0, 99)), rng.choice(lex.THINGS)], 3)
    rng.shuffle(parts)
    return "".join(parts)


def _signs(rng: Random) -> str:
    """Signs that prose lacks, said and said again, so that no token of the vocabulary is one that was never met."""
    p = lex.people(rng, 1, "all")[0]
    codes = [_code(rng) for _ in range(rng.randint(2, 5))]
    word, number = rng.choice(lex.THINGS), rng.randint(0, 199)
    lines = [
        f"{p.name} writes {codes[0]} and reads {codes[0]}.",
        f"The code is {codes[-1]}. Again: {codes[-1]}.",
        f"=<<{word}>>{word}, =<<{number}>>{number}",
        f"<<{word}>>{number} {word}<<{number}>>",
        f"[{word}] {number}, {codes[1]}, [{word.upper()}]",
        f"#### {codes[0]}\n- {codes[1]}\n#### {word} {number}",
    ]
    rng.shuffle(lines)
    return "\n".join(lines[: rng.randint(2, 6)])


def rounded_off(rng: Random) -> str | list[Turn]:
    """A document of the second phase of pre-training: three in ten are about signs."""
    return _signs(rng) if rng.random() < 0.3 else document(rng)
