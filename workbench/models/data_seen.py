"""One row as the model will see it: supervised text between brackets, token by token where that is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from textual.content import Content

from engine.text import one_line, printable
from workbench.models.data import ShownRow


@dataclass(frozen=True, slots=True)
class Marks:
    """How supervised text and token ends are marked where colour is not enough."""

    open: str = "⟦"
    close: str = "⟧"
    end: str = "│"
    line: str = "↵"


ASCII = Marks("[[", "]]", "|", "\\n")
SUPERVISED, PLAIN, NOTE = "$text-success underline", "", "$text-muted"
HEAD, TAIL = 12_000, 6_000
"""Characters of a long text that are shown from its beginning and from its end."""


def seen(pieces: Sequence[tuple[str, float]], marks: Marks, *, ends: bool = False) -> Content:
    """Text in pieces of one weight (or, with `ends`, token by token): supervised stretches between brackets, underlined
    and coloured, with their weight where it is not 1; with `ends`, a bar after each token and a mark for line feeds."""
    parts: list[tuple[str, str]] = []
    before = 0.0
    for text, weight in _shortened(pieces):
        if weight != before:
            if before:
                parts.append((marks.close + ("" if before == 1 else f"x{before:g}"), NOTE))
            if weight:
                parts.append((marks.open, NOTE))
            before = weight
        shown = printable(text).expandtabs(4)
        style = SUPERVISED if weight else PLAIN
        if ends:
            shown = shown.replace("\n", f"{marks.line}\n")
            last = "\n" * shown.endswith("\n")  # the bar stands on the line that the token ends
            parts += [(shown.removesuffix("\n"), style), (f"{marks.end}{last}", NOTE)]
        else:
            parts.append((shown, style))
    if before:
        parts.append((marks.close + ("" if before == 1 else f"x{before:g}"), NOTE))
    return Content.assemble(*parts)


def _shortened(pieces: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """The pieces without the middle of a text that is longer than `HEAD` and `TAIL`."""
    whole = sum(len(text) for text, _ in pieces)
    if whole <= HEAD + TAIL:
        yield from pieces
        return
    at, skipped = 0, False
    for text, weight in pieces:
        head, tail = text[: max(0, HEAD - at)], text[max(0, whole - TAIL - at) :]
        if head:
            yield head, weight
        if at + len(text) > HEAD and not skipped:
            skipped = True
            yield f"\n… {whole - HEAD - TAIL:,} characters are not shown …\n", 0.0
        if tail and at + len(text) > whole - TAIL and len(head) < len(text):
            yield tail, weight
        at += len(text)


def counts(row: dict[str, Any]) -> str:
    """ "41 of 118 tokens supervised", and what was cut."""
    supervised, tokens = row["supervised"], row["tokens"]
    text = f"{supervised:,} of {tokens:,} tokens supervised"
    if row["cut"]:
        text += f"; {row['length'] - tokens:,} more cut at train.max_length = {row['max_length']:,}"
    return text


def fields(row: ShownRow) -> Content:
    """A row as it lies there: each column with its text."""
    parts: list[tuple[str, str]] = []
    for name, text in row.cells.items():
        if name:
            parts.append((f"{one_line(name)}\n", "bold"))
        shown = (
            next(iter(_shortened([(text, 0.0)])))[0]
            if len(text) <= HEAD
            else "".join(t for t, _ in _shortened([(text, 0.0)]))
        )
        parts.append((printable(shown).expandtabs(4) + "\n\n", ""))
    return Content.assemble(*parts) if parts else Content("")
