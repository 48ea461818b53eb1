"""JSON lines and JSON arrays -> records; numbers keep the spelling that the file gives them.

Every object is decoded by the standard library's decoder, with three additions: a number becomes a `Literal`, an
object that has one key twice is refused, and so is half a surrogate pair, which no tokenizer can encode. An array is
walked element by element, so that each knows its line and one broken element does not cost the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.rows.formats import BLANK, Record, Refusal, excerpt, line_fault, lines, open_file, without_mark


class Literal(str):
    """A number as the source spells it: `7.50` stays "7.50". Text for every use but a weight."""

    __slots__ = ()


class NotARowError(Exception):
    """This JSON text is no row; `reason` is for a `Refusal`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise NotARowError(f"duplicate key: {excerpt(twice)!r}")
    return fields


_decoder = json.JSONDecoder(
    parse_int=Literal, parse_float=Literal, parse_constant=Literal, object_pairs_hook=_object, strict=True
)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def kind_of(value: Any) -> str:
    """What a value of a row is, in words."""
    names = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object", Literal: "a number", str: "text"}
    return names.get(type(value), f"of type {type(value).__name__}")


def to_json(value: Any) -> str:
    """`value` as JSON text, with each `Literal` as it was spelled."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_json(str(key))}: {to_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False, default=str)


def _check_row(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise NotARowError(f"not an object: this is {kind_of(value)}")
    if _SURROGATE_ESCAPE.search(source):
        rest: list[Any] = [value]
        while rest:
            item = rest.pop()
            if isinstance(item, dict):
                rest += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                rest += item
            elif isinstance(item, str) and (found := _SURROGATE.search(item)):
                raise NotARowError(f"lone surrogate: \\u{ord(found[0]):04x} is half a character")
    return value


# --- JSON lines


def read_lines(path: Path, name: str) -> Iterator[Record]:
    """One object a line. Blank lines are no rows; a line that is not one whole object is refused."""
    yield from line_records(lines(path, name), name)


def line_records(numbered: Iterable[tuple[int, bytes]], name: str) -> Iterator[Record]:
    """The rows of these lines."""
    for number, line in numbered:
        if not line.strip(BLANK):
            continue
        where = f"{name}:{number}"
        try:
            yield where, _parse_line(line)
        except NotARowError as error:
            yield Refusal(where, error.reason, excerpt(line))


def _parse_line(line: bytes) -> dict[str, Any]:
    if fault := line_fault(line):
        raise NotARowError(fault)
    text = line.decode("utf-8").rstrip("\r\n")  # or a line that ends too early would be wrong at column 1 of the next
    try:
        return _check_row(_decoder.decode(text), text)
    except json.JSONDecodeError as error:
        raise NotARowError(f"not valid JSON: {_said(error)} at column {error.colno}") from error
    except RecursionError as error:
        raise NotARowError("not valid JSON: nested too deeply") from error


def _said(error: json.JSONDecodeError) -> str:
    return error.msg.removesuffix(" at")


# --- JSON arrays


def read_json(path: Path, name: str) -> Iterator[Record]:
    """The elements of a JSON array (whose text is held in memory), or of a file named .json that is JSON lines.

    Raises:
        InputError: it is neither.
    """
    yield from _Array(path, name).records() if holds_array(path, name) else read_lines(path, name)


def holds_array(path: Path, name: str) -> bool:
    """Whether a file named .json holds a JSON array, not JSON lines.

    Raises:
        InputError: it holds neither.
    """
    first = _first_character(path, name)
    if not first or first == b"[":
        return bool(first)
    if any(_is_object(line) for _, line in islice(lines(path, name), 100)):
        return False
    raise InputError(
        "this is neither a JSON array of objects nor JSON lines",
        where=name,
        remedy="write the rows as [{...}, {...}] or as one object a line",
    )


def _first_character(path: Path, name: str) -> bytes:
    with open_file(path, name) as file:
        piece = without_mark(file.read(4096), name)
        while piece and not piece.strip(BLANK):
            piece = file.read(4096)
        return piece.lstrip(BLANK)[:1]


def _is_object(line: bytes) -> bool:
    """A whole object from the line's first column: not the inside of one that is spread over lines."""
    if not line.startswith(b"{"):
        return False
    try:
        _parse_line(line)
    except NotARowError:
        return False
    return True


_TOKEN = re.compile(
    r"""\s*+(?:
    (?P<mark>[\[\]{},:])
    | "[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"                                   # a string, closed on its line
    | [-+]?[.0-9][-+.\w]*+ | (?:true|false|null|NaN|-?Infinity|True|False|None)\b     # 007 and None are tokens, too
    )""",
    re.VERBOSE,
)
_FIRST_KEY = re.compile(r'\{\s*("[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+")\s*:')
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
_SPACE = re.compile(r"[ \t\r\n]*")


class _Array:
    """The text of a file that holds one JSON array, walked from element to element."""

    def __init__(self, path: Path, name: str) -> None:
        with open_file(path, name) as file:
            data = without_mark(file.read(), name)
        try:
            self.text, self.damaged = data.decode("utf-8"), False
        except UnicodeDecodeError:
            self.text, self.damaged = data.decode("utf-8", "surrogateescape"), True
        self.name = name
        self.end = len(self.text.rstrip())
        self.line, self.line_start, self.counted = 1, 0, 0  # of the element reached
        self.first_key: str | None = None

    def records(self) -> Iterator[Record]:
        """Every element, and every place where one is missing, as a row or a refusal, in order."""
        at = self._after_space(self.text.index("[") + 1)
        if self.text.startswith("]", at) and at + 1 == self.end:
            return
        while True:
            where = self._where(at)
            if at >= self.end:
                yield Refusal(where, "not valid JSON: the array is never closed, the file may be cut off")
                return
            try:
                fields, stop = self._element(at)
                yield where, fields
            except NotARowError as error:
                stop, lost = self._next(at)
                yield Refusal(where, error.reason + lost, excerpt(self.text[at : min(stop, at + 320)]))
                if stop >= self.end:
                    return
            if self.text.startswith("]", stop):
                if stop + 1 == self.end:
                    return
                yield Refusal(self._where(stop), "not valid JSON: text after the end of the array")
                stop = self._after_space(stop + 1)
            at = self._after_space(stop + 1) if self.text.startswith(",", stop) else stop

    def _where(self, at: int) -> str:
        """The place of `at`, which never goes back, so that each line end is counted once.

        "file:line" where `at` is the first place on its line, else "file:line:column": no two are the same.
        """
        ends = self.text.count("\n", self.counted, at)
        if ends:
            self.line += ends
            self.line_start = self.text.rfind("\n", self.counted, at) + 1
        first, self.counted = bool(ends) or not self.counted, at
        return f"{self.name}:{self.line}" + ("" if first else f":{at - self.line_start + 1}")

    def _element(self, at: int) -> tuple[dict[str, Any], int]:
        """The object at `at`, and where the comma or bracket after it stands.

        Raises:
            NotARowError: there is none, or it cannot be a row.
        """
        value, end = self._decode(at)
        source = self.text[at:end]
        if self.damaged and (found := _ESCAPED_BYTE.search(source)):
            offset = len(source[: found.start()].encode("utf-8", "surrogateescape"))
            raise NotARowError(
                f"not valid UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at offset {offset} of the element"
            )
        fields = _check_row(value, source)
        stop = self._after_space(end)
        if stop < self.end and self.text[stop] not in ",]":
            raise NotARowError(f"not valid JSON: Expecting ',' or ']' {self._place(stop)}")
        if found := _FIRST_KEY.match(source):
            self.first_key = found[1]
        return fields, stop

    def _decode(self, at: int) -> tuple[Any, int]:
        """The value at `at` and its end, from a piece of the text that grows until the value fits.

        From the whole text, every error would count all lines before it: quadratic in a file of broken elements.
        """
        size = 1 << 14
        while True:
            piece = self.text[at : at + size]
            whole = at + size >= len(self.text)
            try:
                value, end = _decoder.raw_decode(piece)
                if whole or end < len(piece):
                    return value, at + end
            except json.JSONDecodeError as error:
                if whole or not (error.pos > len(piece) - 16 or error.msg.startswith("Unterminated")):
                    raise NotARowError(f"not valid JSON: {_said(error)} {self._place(at + error.pos)}") from error
            except RecursionError as error:
                raise NotARowError("not valid JSON: nested too deeply") from error
            size *= 8

    def _next(self, at: int) -> tuple[int, str]:
        """Where to go on after the broken element at `at` (the comma or bracket after it, or the next element), and a
        remark where that is the end of the file.

        Where brackets and strings still balance, the element's own end. Else the next "{" that stands where an element
        would: on a line of its own with the same indent, or, within a line, before the same first key. Else the end.
        """
        text = self.text
        if (end := self._balanced(at)) is not None:
            return end, ""
        indent = text[max(self.line_start, at - 200) : at]
        if not indent.strip():
            begins = re.compile(rf"\n{indent}({{)")
        else:
            own = _FIRST_KEY.match(text, at)
            key = own[1] if own else self.first_key
            begins = re.compile(r"[,}\]]\s*(\{" + (rf"\s*{re.escape(key)}\s*:)" if key else ")"))
        if begun := begins.search(text, at + 1):
            return begun.start(1), ""
        stop = self.end - 1 if text[self.end - 1] == "]" and self.end - 1 > at else self.end
        after = text.count("\n", at, stop)
        return stop, f"; the {after} lines after it, to the end of the file, cannot be told from it" if after else ""

    def _balanced(self, at: int) -> int | None:
        """The end of an element that is well-formed but for its values; None as soon as its structure is in doubt.

        An unclosed quote shows as a word outside of strings, a missing brace as an object where a key belongs.
        """
        opened: list[str] = []
        value_before, mark_before = False, ""
        while (token := _TOKEN.match(self.text, at)) and len(opened) < 200:
            at, mark = token.end(), token["mark"] or ""
            if not mark or mark in "[{":
                if value_before or (mark and mark_before == "," and opened and opened[-1] == "{"):
                    return None
                value_before = not mark
                if mark:
                    opened.append(mark)
            elif not opened:
                return at - 1 if mark in ",]" else None
            elif mark in "]}":
                if opened.pop() + mark not in ("[]", "{}"):
                    return None
                value_before = True
            else:
                value_before = False
            mark_before = mark
        return None

    def _after_space(self, at: int) -> int:
        return _SPACE.match(self.text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too

    def _place(self, at: int) -> str:
        """Line and column of `at`, which lies in the element that `where` stands before."""
        line = self.line + self.text.count("\n", self.counted, at)
        start = max(self.line_start, self.text.rfind("\n", self.counted, at) + 1)
        return f"at line {line}, column {at - start + 1}"
