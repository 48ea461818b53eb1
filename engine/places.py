"""Where each key of a TOML text stands: line and column, which TOML parsers do not tell.

Comes from: a text that a parser has accepted, so that nothing needs to be checked here and one pass over it is enough.
Goes to: the messages of `spec`.
"""

from __future__ import annotations

import re
from functools import cached_property

import tomli

Path = tuple[str, ...]
Place = tuple[int, int]
"""Line and column, both from 1."""

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
KEY = re.compile(r'[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|\'[^\']*\'')
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\]|\\.)*"|\'[^\']*\'', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}#\n]*")


def key_places(text: str) -> dict[Path, Place]:
    """The place of every key and table of a valid TOML document, by path, where it is first named.

    `train.epochs = 3` names ("train",) and ("train", "epochs"); so do `[train]` with `epochs = 3` below it, and
    `train = {epochs = 3}`. In an array of tables the first to have a key counts.
    """
    return _Scan(text).document()


class Places:
    """What is said of where a key stands: its place in the file `name`, or in `sources` the `--set` it came from."""

    def __init__(self, text: str, name: str, sources: dict[Path, str]) -> None:
        self.text, self.name, self.sources = text, name, sources

    def of(self, path: Path) -> str:
        """file:line:column of the key at `path` (1-based), or of its table where the file does not have it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.sources:
                return self.sources[path[:length]]
            if found := self._in_file.get(path[:length]):
                return "{}:{}:{}".format(self.name, *found)
        below = (source for set_path, source in self.sources.items() if set_path[: len(path)] == path)
        return next(below, f"{self.name}:1:1")

    @cached_property
    def _in_file(self) -> dict[Path, Place]:
        try:
            return key_places(self.text)
        except RecursionError:  # hundreds of tables in each other
            return {}


class _Scan:
    """A cursor over the text; every method takes what its name says and leaves the cursor behind it."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.places: dict[Path, Place] = {}
        self._line, self._line_start = 1, 0

    def document(self) -> dict[Path, Place]:
        table: Path = ()
        self.space()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                table = self.key(())
                self.at = self.text.index("]", self.at) + 1
                self.at += self.text.startswith("]", self.at)
            else:
                self.pair(table)
            self.space()
        return self.places

    def pair(self, table: Path) -> None:
        path = self.key(table)
        self.at += 1  # the equals sign
        self.space()
        self.value(path)

    def key(self, table: Path) -> Path:
        """A dotted key; the path it has inside `table`."""
        path = table
        while True:
            self.space()
            found = KEY.match(self.text, self.at)
            assert found, "the parser accepted this text"
            name = found[0] if found[0][0] not in "\"'" else tomli.loads(f"key = {found[0]}")["key"]
            path = (*path, name)
            self.places.setdefault(path, self.place(found.start()))
            self.at = found.end()
            self.space()
            if not self.text.startswith(".", self.at):
                return path
            self.at += 1

    def value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "[{":
            self.at += 1
            self.space()
            while self.text[self.at] not in "]}":
                self.value(path) if opening == "[" else self.pair(path)
                self.space()
                self.at += self.text.startswith(",", self.at)
                self.space()
            self.at += 1
        else:
            found = (_STRING if opening in "\"'" else _PLAIN).match(self.text, self.at)
            assert found, "the parser accepted this text"
            self.at = found.end()

    def space(self) -> None:
        """White space, line ends and comments."""
        found = _SPACE.match(self.text, self.at)
        assert found, "it may be empty"
        self.at = found.end()

    def place(self, offset: int) -> Place:
        """Line and column of `offset`; offsets must not go back."""
        self._line += self.text.count("\n", self._line_start, offset)
        self._line_start = self.text.rfind("\n", 0, offset) + 1
        return self._line, offset - self._line_start + 1
