"""A project file's text -> its mistakes, in a thread; pydantic is imported here and nowhere nearer to the screen."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.models.spans import Mark, mark


@dataclass(frozen=True, slots=True)
class Wrong:
    """One mistake: line and column from 1, the words, and what is to be marked."""

    line: int
    column: int
    text: str
    mark: Mark


def check_text(text: str) -> list[Wrong]:
    """All mistakes of a project file's text, in its order."""
    from engine import spec

    try:
        spec.parse(text.removeprefix("\ufeff"))
    except spec.SpecError as error:
        lines, found = text.split("\n"), []
        for mistake in error.mistakes:
            line, column = mistake.place or [1, 1]
            found.append(Wrong(line, column, mistake.problem, mark(lines, line, column, mistake.problem)))
        return found
    return []
