"""A text area as it is drawn: TOML coloured, mistakes and matches marked. What keys do in it is `toml_area`.

Colours come from the syntax tree (tree-sitter), asked for the lines that are drawn, never for the whole text at every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import textual
from rich.segment import Segment
from rich.text import Text
from textual.document._wrapped_document import WrappedDocument
from textual.geometry import Region
from textual.strip import Strip
from textual.widgets import TextArea

from workbench.models.spans import Mark
from workbench.models.text_buffer import showable

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

_SYNTAX = {
    "property": "toml--key", "toml.type": "toml--table", "string": "toml--string", "boolean": "toml--constant",
    "number": "toml--constant", "float": "toml--constant", "toml.datetime": "toml--constant", "comment": "toml--comment",
}  # fmt: skip
"""Names of the highlight query -> component classes."""
_AHEAD = 120
"""Lines that are coloured at once, from the one that is asked for."""


@cache
def _language() -> tuple[Any, str]:
    """tree-sitter's TOML, and Textual's query for it."""
    import tree_sitter
    import tree_sitter_toml

    query = Path(textual.__file__).parent / "tree-sitter" / "highlights" / "toml.scm"
    return tree_sitter.Language(tree_sitter_toml.language()), query.read_text(encoding="utf-8")


class _Colours(dict[int, list]):
    """Highlights of lines, asked of the syntax tree when a line is drawn: never of all of it at every key."""

    def __init__(self, area: MarkedArea) -> None:
        super().__init__()
        self.area = area

    def __bool__(self) -> bool:
        return True

    def __missing__(self, row: int) -> list:
        first, last = row, row + _AHEAD
        for number in range(first, last):
            self.setdefault(number, [])
        query = self.area._highlight_query
        if query is None:
            return self[row]
        captures = self.area.document.query_syntax_tree(query, (first, 0), (last, 0))
        for name, nodes in captures.items():
            for node in nodes:
                (top, left), (bottom, right) = node.start_point, node.end_point
                for number in range(max(top, first), min(bottom, last - 1) + 1):
                    self[number].append((left if number == top else 0, right if number == bottom else None, name))
        return self[row]


class _Wrapped(WrappedDocument):
    """Textual's own counts all lines for its height, which it asks for with every line that it draws."""

    @property
    def height(self) -> int:
        return len(self._offset_to_line_info)


class MarkedArea(TextArea):
    """TOML with colours, marks and matches."""

    COMPONENT_CLASSES: ClassVar = {
        *TextArea.COMPONENT_CLASSES, *_SYNTAX.values(), "toml--mark", "toml--mark-gutter", "toml--found", "toml--found-at",
    }  # fmt: skip
    DEFAULT_CSS = """
    MarkedArea { border: none; padding: 0; height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; }
    MarkedArea:focus { border: none; }
    MarkedArea .toml--key { color: $text-primary; }
    MarkedArea .toml--table { color: $text-secondary; text-style: bold; }
    MarkedArea .toml--string { color: $text-success; }
    MarkedArea .toml--constant { color: $text-warning; }
    MarkedArea .toml--comment { color: $text-muted; text-style: italic; }
    MarkedArea .toml--mark { color: $text-error; text-style: bold underline; }
    MarkedArea .toml--mark-gutter { color: $text-error; text-style: bold; }
    MarkedArea .toml--found { background: $warning 30%; text-style: underline; }
    MarkedArea .toml--found-at { color: $warning; text-style: bold reverse; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self) -> None:
        super().__init__(soft_wrap=False, show_line_numbers=True, tab_behavior="indent")
        self.cursor_blink = False
        self._marks: dict[int, list[Mark]] = {}
        self._found: dict[int, list[tuple[int, int, int]]] = {}
        self._found_at = -1
        self._highlights = _Colours(self)  # type: ignore[assignment]
        language, query = _language()
        self.register_language("toml", language, query)
        self.language = "toml"

    def set_marks(self, marks: Sequence[Mark]) -> None:
        """Mark mistakes on their lines, in the gutter and under their characters."""
        self._marks = {}
        for m in marks:
            self._marks.setdefault(m.row, []).append(m)
        self._redraw()

    def set_found(self, places: Sequence[tuple[int, int, int]], at: int = -1) -> None:
        """Mark matches, (row, start, end) each; `at` is the number of the one that is shown."""
        self._found = {}
        for number, (row, start, end) in enumerate(places):
            self._found.setdefault(row, []).append((start, end, number))
        self._found_at = at
        self._redraw()

    def _redraw(self) -> None:
        self._line_cache.clear()
        self.refresh()

    def _set_document(self, text: str, language: str | None) -> None:
        super()._set_document(text, language)
        self.wrapped_document.__class__ = _Wrapped
        self._rewrap_and_refresh_virtual_size()

    def _build_highlight_map(self) -> None:
        self._line_cache.clear()
        self._highlights.clear()

    def render_lines(self, crop: Region) -> list[Strip]:
        if self._theme is not None:
            self._theme.syntax_styles = {n: self.get_component_rich_style(c, partial=True) for n, c in _SYNTAX.items()}
        return super().render_lines(crop)

    def get_line(self, line_index: int) -> Text:
        """A line as it is shown: nothing in it acts on the terminal, and what is marked is."""
        line = Text(showable(self.document.get_line(line_index), ascii=self.app.ascii), end="", no_wrap=True)
        return line

    def _render_line(self, y: int) -> Strip:
        strip = super()._render_line(y)
        where = self.wrapped_document._offset_to_line_info
        if not 0 <= y + self.scroll_offset.y < len(where):
            return strip
        row, section = where[y + self.scroll_offset.y]
        gutter = self.gutter_width
        for start, end, number in self._found.get(row, ()):
            strip = self._styled(strip, row, section, start, end, f"toml--found{'-at' * (number == self._found_at)}")
        marks = self._marks.get(row, ())
        for m in marks:
            strip = self._styled(strip, row, section, m.start, m.end, "toml--mark")
        if marks and section == 0 and gutter >= 2:
            sign = Segment("!" if self.app.ascii else "✗", self.get_component_rich_style("toml--mark-gutter"))
            strip = Strip.join([strip.crop(0, gutter - 2), Strip([sign], 1), strip.crop(gutter - 1)])
        return strip

    def _styled(self, strip: Strip, row: int, section: int, start: int, end: int, name: str) -> Strip:
        """A style over columns of a row, as far as they are in this section of it (rows may be wrapped) and in sight."""
        text = self.document.get_line(row)
        cuts = [0, *self.wrapped_document.get_offsets(row), len(text) + 1]
        first, last = cuts[section], cuts[section + 1]
        if end <= first or start >= last:
            return strip
        before = self.get_column_width(row, first) + (0 if self.soft_wrap else self.scroll_offset.x) - self.gutter_width
        low = self.get_column_width(row, max(first, min(start, len(text)))) - before
        high = self.get_column_width(row, min(end, last, len(text))) - before + (end > len(text))
        low = max(low, self.gutter_width)
        if high <= low or low >= strip.cell_length:
            return strip
        style = self.get_component_rich_style(name, partial=True)
        middle = Strip(Segment.apply_style(strip.crop(low, high), post_style=style))
        return Strip.join([strip.crop(0, low), middle, strip.crop(high)])
