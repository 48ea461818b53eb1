"""The ledger adds up whatever happens to a row, and says no more than it may."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.rows.ledger import LISTED, Ledger, kind, total


@given(
    st.lists(st.sampled_from(["keep", "cut", "refuse", "recut", "drop", "repeat", "move"]), max_size=60), st.randoms()
)
def test_the_ledger_adds_up_whatever_happens(steps: list[str], random: Any) -> None:
    ledger, alive, others = Ledger(), [], []
    for number, step in enumerate(steps):
        where = f"a:{number}"
        if step in ("keep", "cut", "refuse"):
            ledger.read += 1
        if step == "keep":
            ledger.keep()
            alive.append(where)
        elif step == "cut":
            ledger.cut_one()
        elif step == "refuse":
            ledger.refuse(where, random.choice(["ragged record: 5 fields, header has 4", "nothing to learn: no text"]))
        elif alive:
            chosen = random.choice(alive)
            if step == "recut":
                ledger.recut(chosen)
            elif step == "repeat" and chosen not in ledger._repeated:
                ledger.repeat(chosen)
            elif step in ("drop", "move"):
                alive.remove(chosen)
                if step == "drop":
                    ledger.drop(chosen, "nothing to learn within train.max_length")
                else:
                    others.append(ledger.move([chosen]))
        for each in (ledger, *others):
            each.check()
    both = total([ledger, *others])
    both.check()
    assert both.read == sum(step in ("keep", "cut", "refuse") for step in steps)
    assert set(both.to_json()) == {
        "read",
        "kept",
        "cut",
        "refused",
        "duplicates",
        "nothing_to_learn",
        "reasons",
        "refusals",
    }


def test_the_ledger_lists_a_thousand_and_counts_all() -> None:
    ledger = Ledger(read=LISTED + 5)
    for number in range(LISTED + 5):
        ledger.refuse(f"a:{number}", f"ragged record: {number} fields", "x")
    ledger.check()
    told = ledger.to_json()
    assert (told["refused"], len(told["refusals"]), told["reasons"]) == (
        LISTED + 5,
        LISTED,
        {"ragged record": LISTED + 5},
    )
    assert told["refusals"][3] == {"where": "a:3", "reason": "ragged record: 3 fields", "excerpt": "x"}
    json.dumps(told)


def test_a_ledger_that_does_not_add_up_is_a_bug() -> None:
    ledger = Ledger(read=2)
    ledger.keep()
    with pytest.raises(AssertionError, match="does not add up: 2 rows read: 1 kept"):
        ledger.check()


def test_reasons_are_counted_by_kind() -> None:
    assert kind("not valid UTF-8: byte 0xff at offset 3") == "not valid UTF-8"
    assert kind("5,000 tokens, more than train.max_length = 2048") == "N tokens, more than train.max_length = N"
