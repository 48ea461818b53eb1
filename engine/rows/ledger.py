"""What became of every row: kept, cut or refused, with reasons and places; the numbers add up or it is a bug.

`reader.load` opens a ledger; `dataset` goes on with it, as rendering and tokenising cut and refuse rows, too. A run
stores it and the `rows` verb prints it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from engine.rows.formats import Refusal

LISTED = 1000
"""How many refusals are listed with their places; all are counted."""
NOTHING_TO_LEARN = "nothing to learn"
"""How the reason begins for a row without a supervised token."""
_NUMBERS = ("read", "kept", "cut", "refused", "duplicates", "nothing_to_learn")


def kind(reason: str) -> str:
    """What a reason is counted under: the part before a colon, its numbers as N."""
    return re.sub(r"(?<![\w-])\d[\d,]*", "N", reason.partition(":")[0])


@dataclass(slots=True)
class Ledger:
    """read == kept + cut + refused, once every row has been through.

    Attributes:
        read: rows of the source, usable or not.
        kept, cut, refused: used whole, used without their end, not used.
        duplicates: of those kept or cut, how many have the content of an earlier row. They are used all the same.
        nothing_to_learn: of those refused, how many have no supervised token.
        refusals: the first `LISTED` of those refused.
        reasons: how many were refused for each `kind` of reason.
    """

    read: int = 0
    kept: int = 0
    cut: int = 0
    refused: int = 0
    duplicates: int = 0
    nothing_to_learn: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    _repeated: set[str] = field(default_factory=set)
    _shortened: set[str] = field(default_factory=set)

    def keep(self) -> None:
        """One row is used whole."""
        self.kept += 1

    def cut_one(self) -> None:
        """One row is used without its end."""
        self.cut += 1

    def refuse(self, where: str, reason: str, excerpt: str = "") -> None:
        """One row is not used. `reason` is "kind: detail"."""
        self.refused += 1
        self.nothing_to_learn += reason.startswith(NOTHING_TO_LEARN)
        self.reasons[kind(reason)] = self.reasons.get(kind(reason), 0) + 1
        if len(self.refusals) < LISTED:
            self.refusals.append(Refusal(where, reason, excerpt))

    def repeat(self, where: str) -> None:
        """The row at `where`, kept or cut, has the content of an earlier one."""
        self.duplicates += 1
        self._repeated.add(where)

    def recut(self, where: str) -> None:
        """The row at `where` was kept and turns out to be too long: it is cut. A second time changes nothing."""
        if where not in self._shortened:
            self._shortened.add(where)
            self.kept -= 1
            self.cut += 1

    def drop(self, where: str, reason: str, excerpt: str = "") -> None:
        """The row at `where` was kept or cut and turns out not to be usable: it is refused."""
        self._take_out(where)
        self.refuse(where, reason, excerpt)

    def move(self, wheres: Iterable[str]) -> Ledger:
        """Rows that were kept or cut leave this ledger for a new one, which is returned."""
        other = Ledger()
        for where in wheres:
            other.read += 1
            other.kept += 1
            shortened, repeated = self._take_out(where)
            self.read -= 1
            if shortened:
                other.recut(where)
            if repeated:
                other.repeat(where)
        return other

    def _take_out(self, where: str) -> tuple[bool, bool]:
        shortened, repeated = where in self._shortened, where in self._repeated
        self.cut -= shortened
        self.kept -= not shortened
        self.duplicates -= repeated
        self._shortened.discard(where)
        self._repeated.discard(where)
        return shortened, repeated

    def check(self) -> None:
        """Hold the promise.

        Raises:
            AssertionError: the numbers do not add up: a bug of ours, not of the data.
        """
        used = self.kept + self.cut
        adds_up = self.read == used + self.refused and self.refused == sum(self.reasons.values())
        within = self.duplicates <= used and self.nothing_to_learn <= self.refused
        if not (adds_up and within) or min(self.kept, self.cut) < 0:
            raise AssertionError(f"the ledger does not add up: {self.summary()}")

    def to_json(self) -> dict[str, Any]:
        """The numbers, `reasons` from the most frequent down, and the refusals listed."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            "reasons": dict(sorted(self.reasons.items(), key=lambda item: -item[1])),
            "refusals": [{"where": r.where, "reason": r.reason, "excerpt": r.excerpt} for r in self.refusals],
        }

    def summary(self) -> str:
        """One line: "1,000 rows read: 990 kept, 4 cut, 6 refused (2 with nothing to learn); 3 duplicates"."""
        nothing = f" ({self.nothing_to_learn:,} with nothing to learn)" if self.nothing_to_learn else ""
        twice = f"; {self.duplicates:,} duplicate{'s' * (self.duplicates != 1)}" if self.duplicates else ""
        rows = f"{self.read:,} row{'s' * (self.read != 1)} read"
        return f"{rows}: {self.kept:,} kept, {self.cut:,} cut, {self.refused:,} refused{nothing}{twice}"


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """The sum of several ledgers, to be shown; rows cannot be moved within it."""
    both = Ledger()
    for ledger in ledgers:
        for name in _NUMBERS:
            setattr(both, name, getattr(both, name) + getattr(ledger, name))
        for reason, count in ledger.reasons.items():
            both.reasons[reason] = both.reasons.get(reason, 0) + count
        both.refusals = (both.refusals + ledger.refusals)[:LISTED]
    return both
