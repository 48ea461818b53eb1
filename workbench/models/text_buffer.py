"""A file's text as an editor of lines holds it, and back, without losing a character.

Textual splits lines at all that Python calls a line end (form feed, U+2028, ...); a TOML or JSON file has only line
feeds. So those others, and carriage returns that belong to no pair, are held as characters of a private area.
"""

from __future__ import annotations

from dataclasses import dataclass

_ODD = "\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029"
_AREAS = (0xF0000, 0x100000, 0xE000)

_HIDDEN = (
    *range(0x00, 0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F),
    *range(0x2066, 0x206A), 0xFEFF,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Buffer:
    """`text` has only line feeds; `newline` is what they were. `area`: where odd characters are held."""

    text: str
    newline: str = "\n"
    area: int = _AREAS[0]

    @classmethod
    def of(cls, text: str) -> Buffer:
        """The buffer of a file's text."""
        pairs = text.count("\r\n")
        newline = "\r\n" if pairs and text.count("\n") == pairs and text.count("\r") == pairs else "\n"
        if newline == "\r\n":
            text = text.replace("\r\n", "\n")
        area = next((a for a in _AREAS if not any(chr(a + ord(c)) in text for c in _ODD)), _AREAS[-1])
        return cls(text.translate({ord(c): area + ord(c) for c in _ODD}), newline, area)

    def file_text(self, text: str) -> str:
        """What the file is to hold when the editor holds `text`."""
        back = text.translate({self.area + ord(c): c for c in _ODD})
        return back if self.newline == "\n" else back.replace("\n", self.newline)


def _shown(code: int) -> int:
    """A character that a terminal shows in one cell for one that it may act on."""
    if code < 0x20:
        return 0x2400 + code
    return 0x2421 if code == 0x7F else 0xFFFD


_PICTURES = {code: _shown(code) for code in _HIDDEN} | {
    area + ord(c): _shown(ord(c)) for area in _AREAS[:2] for c in _ODD
}
_ASCII = dict.fromkeys(_PICTURES, "?")


def showable(line: str, *, ascii: bool = False) -> str:
    """`line` with as many characters, none of which acts on a terminal."""
    return line if line.isascii() and line.isprintable() else line.translate(_ASCII if ascii else _PICTURES)
