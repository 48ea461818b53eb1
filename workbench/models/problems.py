"""Mistakes in files, by file, as the Problems list shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where (the tab that shows it, line and column from 1) and what."""

    uri: str
    line: int
    column: int
    text: str


class Problems:
    """All problems; each source (a URI) replaces its own."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Problem, ...]] = {}

    def put(self, source: str, problems: list[Problem]) -> bool:
        """Replace what `source` said; returns whether that changed anything."""
        new = tuple(problems)
        if self._of.get(source, ()) == new:
            return False
        self._of[source] = new
        return True

    def of(self, source: str) -> tuple[Problem, ...]:
        return self._of.get(source, ())

    def __iter__(self) -> Iterator[Problem]:
        for source in sorted(self._of):
            yield from self._of[source]

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))
