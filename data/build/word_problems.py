"""Write data/word_problems/{train,test}.jsonl: small problems in GSM8K's form.

    python -m data.build.word_problems [--train 3000] [--test 400]

A row is {"question", "answer"}; an answer is a sentence a step with its sum as `<<a+b=c>>`, then `#### N`. People of a
test row occur in no training row, and a combination of numbers that a kind of situation has in a test row occurs with
it in no training row and nowhere in the pre-training corpus.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from data.build.scenarios import Scenario, Step, make

FOLDER = Path(__file__).resolve().parents[1] / "word_problems"


def worked(step: Step) -> str:
    """A step in GSM8K's form: "Mia has 12+7=<<12+7=19>>19 apples."."""
    formula = f"{step.left}{step.operator}{step.right}"
    return f"{step.lead} {formula}=<<{formula}={step.value}>>{step.value} {step.tail}."


def row(scenario: Scenario) -> dict[str, str]:
    """The JSON object of one problem."""
    answer = "\n".join([*map(worked, scenario.steps), f"#### {scenario.answer}"])
    return {"question": f"{scenario.facts} {scenario.question}", "answer": answer}


def rows(split: str, how_many: int, seed: int) -> list[dict[str, str]]:
    """`how_many` different problems of `split` ("train" or "test")."""
    rng = Random(f"{seed}:{split}")
    found: dict[str, dict[str, str]] = {}
    while len(found) < how_many:
        made = row(make(rng, split, split))
        found.setdefault(made["question"], made)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for split, how_many in (("train", args.train), ("test", args.test)):
        lines = (json.dumps(r, ensure_ascii=False) + "\n" for r in rows(split, how_many, args.seed))
        (FOLDER / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
