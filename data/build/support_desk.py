"""Write data/support_desk/{train,test}.{jsonl,csv}: a customer writes, a support desk answers in its house style.

    python -m data.build.support_desk [--train 800] [--test 120]

A row is {"message", "reply"}. The style is fixed: a ticket line, the order, the product, one apology or thanks, what was
done, a next step, the signature. The customers' words are patterns written by hand. People and order numbers of test
rows occur in no training row; the pre-training corpus holds no reply in this style.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random

from data.build.lexicon import DAYS, PRODUCTS, people

FOLDER = Path(__file__).resolve().parents[1] / "support_desk"
COLUMNS = ("message", "reply")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: how customers put it, and what the desk answers; {product}, {day} are filled in."""

    ticket: str
    asked: tuple[str, ...]
    answer: str
    step: str


KINDS = (
    Kind(
        "DELIVERY",
        ("the {product} has not arrived yet", "I am still waiting for the {product}", "where is my {product}",
         "the {product} was to be here on {day} and is not", "nobody has brought the {product}"),
        "we are sorry that your {product} is late. We have asked the carrier where it is.",
        "the carrier answers by {day}",
    ),
    Kind(
        "DAMAGED",
        ("the {product} arrived broken", "the {product} came with a crack", "the box was open and the {product} broken",
         "one side of the {product} is broken", "I opened the box and the {product} was in pieces"),
        "we are sorry that your {product} was damaged on its way. A new one leaves today.",
        "the new {product} arrives on {day}",
    ),
    Kind(
        "RETURN",
        ("I want to send the {product} back", "the {product} is too big for me, I want my money back",
         "I do not like the {product}, can I return it", "how do I return the {product}",
         "please take the {product} back"),
        "thank you for telling us. You can send the {product} back and pay nothing for it.",
        "the money is with you by {day}",
    ),
    Kind(
        "PAYMENT",
        ("I paid twice for the {product}", "you took the money for the {product} two times",
         "the {product} stands on my bill twice", "why did I pay for two when I ordered one {product}",
         "there are two payments for the {product}"),
        "we are sorry about the second payment for your {product}. We have sent it back.",
        "the money is with you by {day}",
    ),
    Kind(
        "WRONG ITEM",
        ("you sent the wrong {product}", "this is not the {product} that I ordered", "I got another {product}, not mine",
         "the colour of the {product} is not what I ordered", "somebody else must have my {product}"),
        "we are sorry that you got the wrong {product}. The right one leaves today.",
        "the carrier takes the wrong one on {day}",
    ),
    Kind(
        "DEFECT",
        ("the {product} stopped working", "the {product} does not work any more", "I cannot turn the {product} on",
         "after two days the {product} was dead", "the {product} makes a loud noise and stops"),
        "we are sorry that your {product} does not work. We will repair it or send a new one.",
        "the carrier takes it on {day}",
    ),
    Kind(
        "ADDRESS",
        ("I want to change the address for the {product}", "I have moved, please bring the {product} to my new house",
         "the address for the {product} is wrong", "please send the {product} to my office",
         "can the {product} go to another address"),
        "thank you for telling us in time. The {product} will go to your new address.",
        "it arrives on {day}",
    ),
    Kind(
        "CANCEL",
        ("I want to cancel the {product}", "please do not send the {product}, I do not need it any more",
         "I ordered the {product} by mistake", "stop the order, I found a {product} elsewhere",
         "can I still cancel the {product}"),
        "your order is cancelled, and you pay nothing for the {product}.",
        "nothing more to do",
    ),
)  # fmt: skip

OPENINGS = ("Hello,", "Dear shop,", "Hi,", "Good morning,", "Hello there,", "Dear all,")
ORDERS = ("my order is {order}.", "order {order} is mine.", "this is about order {order}.", "the number is {order}.")
CLOSINGS = ("Please help.", "Thank you.", "What can I do?", "Please write back.", "I hope you can help.")


def row(rng: Random, split: str) -> dict[str, str]:
    """One message with its reply."""
    kind = rng.choice(KINDS)
    customer = people(rng, 1, split)[0]
    order = 2 * rng.randint(500, 4999) + (split == "test")
    words = {"product": rng.choice(PRODUCTS), "day": rng.choice(DAYS), "order": str(order)}
    asked = rng.choice(kind.asked).format(**words)
    opening, where, closing = rng.choice(OPENINGS), rng.choice(ORDERS).format(**words), rng.choice(CLOSINGS)
    if rng.random() < 0.5:
        text = f"{opening} {asked}. {where[0].upper()}{where[1:]} {closing} {customer.name}"
    else:
        text = f"{opening} {where} {asked[0].upper()}{asked[1:]}. {closing} {customer.name}"
    if "{day}" in kind.step:  # the reply names a day, which must be readable off the message
        text += f" (I am at home on {words['day']}.)"
    reply = (
        f"[{kind.ticket}] order {order}, {words['product']}\n"
        f"Dear {customer.name},\n"
        f"{kind.answer.format(**words)}\n"
        f"Next step: {kind.step.format(**words)}.\n"
        "-- your support desk"
    )
    return {"message": text, "reply": reply}


def rows(split: str, how_many: int, seed: int) -> list[dict[str, str]]:
    """`how_many` different rows of `split` ("train" or "test")."""
    rng = Random(f"{seed}:{split}")
    found: dict[str, dict[str, str]] = {}
    while len(found) < how_many:
        made = row(rng, split)
        found.setdefault(made["message"], made)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--test", type=int, default=120)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for split, how_many in (("train", args.train), ("test", args.test)):
        made = rows(split, how_many, args.seed)
        lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in made)
        (FOLDER / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        with (FOLDER / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(made)


if __name__ == "__main__":
    main()
