"""Where in a TOML text the cursor stands, also while the text is not valid: in which table, key and part.

    [lora]
    dropout = 0.|     ->  part "value", path ("lora", "dropout"), the word from column 10

Comes from: the editor's lines. Goes to: completion and the help for the key under the cursor. Only what comes before
the cursor's line, and that line itself, is looked at; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Part = Literal["key", "table", "value", "comment", "text"]
"""`text`: inside a string of several lines."""
Path = tuple[str, ...]

_KEY = r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'"""
_DOTTED = re.compile(rf"\s*(?:{_KEY})?(?:\s*\.\s*(?:{_KEY})?)*")
_NAME = re.compile(_KEY)
_SIMPLE = re.compile(r"\s*(?:[A-Za-z0-9_-]+\s*=\s*(?:\"[^\"\\\[\]]*\"\s*|[^\"'\[\]{}#]*))?(?:#.*)?")
"""A line that leaves the scanner as it found it, which most do."""
_COMMENTED = re.compile(r"\s*#\s*([A-Za-z0-9_-]+)\s*=")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*("?)|\'[^\']*(\'?)')
_BARE = re.compile(r"""[^\s,\[\]{}#"'=]+""")


@dataclass(frozen=True, slots=True)
class Place:
    """What is under the cursor.

    Attributes:
        part: of the line. table: the path of the header above. path: of the key that the line is about, table included.
        start, end: columns, from 0, of the word at the cursor; what is typed of it ends at the cursor.
        quote: the quotation mark that opens that word, "" for a bare one. closed: whether it is closed on the line.
        commented: the line is a key that is commented out.
        value: columns of the value on this line, (0, 0) where there is none.
        listed: the word stands inside brackets.
    """

    part: Part
    table: Path = ()
    path: Path = ()
    start: int = 0
    end: int = 0
    quote: str = ""
    closed: bool = False
    commented: bool = False
    value: tuple[int, int] = (0, 0)
    listed: bool = False


@dataclass
class _State:
    """Between two lines: the table, and the key whose value is not at its end."""

    table: Path = ()
    key: Path = ()
    depth: int = 0
    delimiter: str = ""
    words: list[tuple[int, int, str, bool]] = field(default_factory=list)
    """Of the line scanned last: start, end, quote and whether it is closed of each word of a value."""
    comment: int | None = None


def place_at(lines: Sequence[str], row: int, column: int) -> Place:
    """The place at line `row` and `column`, both from 0 and anywhere."""
    if not 0 <= row < len(lines):
        return Place("key")
    state = _State()
    for line in lines[:row]:
        if state.depth or state.delimiter or not _SIMPLE.fullmatch(line):
            _line(state, line)
    line = lines[row]
    column = max(0, min(column, len(line)))
    return _place(state, line, column)


def header(line: str) -> Path | None:
    """The path of a line that opens a table, also of one that is being typed; None for another line."""
    stripped = line.lstrip()
    if not stripped.startswith("["):
        return None
    return names(stripped.lstrip("[").split("]")[0].split("#")[0])


def names(dotted: str) -> Path:
    """'a."b c".d' -> ("a", "b c", "d")."""
    return tuple(n[1:-1] if n[:1] in "\"'" else n for n in _NAME.findall(dotted))


def _place(state: _State, line: str, column: int) -> Place:
    table = state.table
    if state.delimiter:
        begun = state.key
        end = line.find(state.delimiter)
        if end < 0 or column < end + len(state.delimiter):
            return Place("text", table, begun)
        _line(state, line)
        return _value_place(state, table, begun, line, column, 0)
    if state.depth:
        begun = state.key
        _line(state, line)
        return _value_place(state, table, begun, line, column, 0)
    opened = header(line)
    if opened is not None:
        inside = line.find("[") + 1 + line.lstrip().startswith("[[")
        close = line.find("]", inside)
        close = len(line) if close < 0 else close
        hash_at = line.find("#", close)
        if 0 <= hash_at < column:
            return Place("comment", opened, opened)
        start, end = _word(line, column, inside, close)
        return Place("table", table, opened, start, end)
    if line.lstrip().startswith("#"):
        found = _COMMENTED.match(line)
        path = (*table, found[1]) if found else ()
        return Place("comment", table, path, commented=bool(found), value=(found.end(), len(line)) if found else (0, 0))
    dotted = _DOTTED.match(line)
    assert dotted, "it may be empty"
    path = (*table, *names(dotted[0]))
    equals = line.find("=", dotted.end())
    if equals < 0 or column <= equals:
        start, end = _word(line, column, 0, dotted.end())
        if equals >= 0:
            _line(state, line)
        value = _span(state, line, equals) if equals >= 0 else (0, 0)
        return Place("key", table, path, start, end, value=value)
    _line(state, line)
    return _value_place(state, table, path, line, column, equals + 1)


def _value_place(state: _State, table: Path, path: Path, line: str, column: int, begin: int) -> Place:
    """Like `_place`, for a column in a value that begins at `begin`; the line has been scanned."""
    value = _span(state, line, begin - 1)
    if state.comment is not None and column > state.comment:
        return Place("comment", table, path, value=value)
    listed = state.depth > 0 or "[" in line[begin:column] or "{" in line[begin:column] or begin == 0
    for start, end, quote, closed in state.words:
        if start <= column <= end:
            return Place("value", table, path, start, end, quote, closed, value=value, listed=listed)
    return Place("value", table, path, column, column, value=value, listed=listed)


def _span(state: _State, line: str, equals: int) -> tuple[int, int]:
    begin = equals + 1
    end = len(line) if state.comment is None else state.comment
    text = line[begin:end]
    return begin + len(text) - len(text.lstrip()), begin + len(text.rstrip())


def _word(line: str, column: int, low: int, high: int) -> tuple[int, int]:
    """The name at `column`, between two columns."""
    for found in _NAME.finditer(line, low, max(low, high)):
        if found.start() <= column <= found.end():
            return found.start(), found.end()
    return column, column


def _line(state: _State, line: str) -> None:
    """Go over one line."""
    state.words, state.comment, at = [], None, 0
    if state.delimiter:
        end = line.find(state.delimiter)
        if end < 0:
            return
        at, state.delimiter = end + 3, ""
    elif not state.depth:
        opened = header(line)
        if opened is not None:
            state.table, state.key = opened, ()
            return
        dotted = _DOTTED.match(line)
        equals = line.find("=", dotted.end() if dotted else 0)
        if line.lstrip().startswith("#") or equals < 0:
            return
        state.key = (*state.table, *names(dotted[0] if dotted else ""))
        at = equals + 1
    _values(state, line, at)
    if not state.delimiter and not state.depth:
        state.key = ()


def _values(state: _State, line: str, at: int) -> None:
    """Go over the part of a line that belongs to a value."""
    while at < len(line):
        character = line[at]
        if character == "#":
            state.comment = at
            return
        if line.startswith(('"""', "'''"), at):
            delimiter = line[at : at + 3]
            end = line.find(delimiter, at + 3)
            if end < 0:
                state.delimiter = delimiter
                return
            at = end + 3
        elif character in "\"'":
            found = _STRING.match(line, at)
            assert found, "it begins with a quotation mark"
            closed = bool(found[1] or found[2])
            state.words.append((at + 1, found.end() - closed, character, closed))
            at = found.end()
        elif found := _BARE.match(line, at):
            state.words.append((at, found.end(), "", True))
            at = found.end()
        else:
            state.depth = max(0, state.depth + (character in "[{") - (character in "]}"))
            at += 1
