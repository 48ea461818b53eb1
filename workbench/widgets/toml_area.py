"""The text area of the project editor: TOML coloured, mistakes and matches marked, indenting, commenting, completion.

It knows lines and columns, not projects: what is wrong (`set_marks`), what is found (`set_found`) and what could be
completed come from the editor around it, which gets `TextArea.Changed`, `TextArea.SelectionChanged`, `Typed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import textual
from rich.segment import Segment
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.document._document import Selection
from textual.document._wrapped_document import WrappedDocument
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

from workbench.models.completion import Completion
from workbench.models.spans import Mark
from workbench.models.text_buffer import showable

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.widgets.completion_list import CompletionList

INDENT = 2
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

    def __init__(self, area: TomlArea) -> None:
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


class TomlArea(TextArea):
    """A text area for TOML."""

    COMPONENT_CLASSES: ClassVar = {
        *TextArea.COMPONENT_CLASSES, *_SYNTAX.values(), "toml--mark", "toml--mark-gutter", "toml--found", "toml--found-at",
    }  # fmt: skip
    DEFAULT_CSS = """
    TomlArea { border: none; padding: 0; height: 1fr; width: 1fr; background: $background; scrollbar-size: 1 1; }
    TomlArea:focus { border: none; }
    TomlArea .toml--key { color: $text-primary; }
    TomlArea .toml--table { color: $text-secondary; text-style: bold; }
    TomlArea .toml--string { color: $text-success; }
    TomlArea .toml--constant { color: $text-warning; }
    TomlArea .toml--comment { color: $text-muted; text-style: italic; }
    TomlArea .toml--mark { color: $text-error; text-style: bold underline; }
    TomlArea .toml--mark-gutter { color: $text-error; text-style: bold; }
    TomlArea .toml--found { background: $warning 30%; text-style: underline; }
    TomlArea .toml--found-at { color: $warning; text-style: bold reverse; }
    """
    BINDINGS: ClassVar = [
        Binding("ctrl+home", "to_end(True)", "Start of the text", show=False),
        Binding("ctrl+end", "to_end", "End of the text", show=False),
    ]
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Typed(Message):
        """A key that inserts or deletes was handled: completion may want to look."""

        def __init__(self, character: str) -> None:
            super().__init__()
            self.character = character

    def __init__(self, popup: CompletionList, **more: Any) -> None:
        super().__init__(soft_wrap=False, show_line_numbers=True, tab_behavior="indent", **more)
        self.popup = popup
        self.cursor_blink = False
        self.indent_width = INDENT
        self._marks: dict[int, list[Mark]] = {}
        self._found: dict[int, list[tuple[int, int, int]]] = {}
        self._found_at = -1
        self._highlights = _Colours(self)  # type: ignore[assignment]
        language, query = _language()
        self.register_language("toml", language, query)
        self.language = "toml"

    # --- drawing

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

    # --- keys

    async def _on_key(self, event: events.Key) -> None:
        event.prevent_default()  # TextArea's own handler is called below, where it is wanted
        if self._popup_takes(event.key):
            event.stop()
            return
        if event.key == "escape":  # leaves the text, see focus.leave
            return
        if not self.read_only:
            handled = {"enter": self._new_line, "tab": self._indent, "shift+tab": self._outdent}.get(event.key)
            if handled is not None:
                event.stop()
                handled()
                return
        await super()._on_key(event)
        if event.is_printable and event.character and not self.read_only:
            self.post_message(self.Typed(event.character))

    def _popup_takes(self, key: str) -> bool:
        """Keys that the list of completions takes while it is open."""
        if not self.popup.shown:
            return False
        if key in ("up", "down", "pageup", "pagedown"):
            self.popup.move({"up": -1, "down": 1, "pageup": -8, "pagedown": 8}[key])
        elif key in ("enter", "tab"):
            self.popup.choose()
        elif key == "escape":
            self.popup.close()
        else:
            return False
        return True

    def action_delete_left(self) -> None:
        super().action_delete_left()
        self.post_message(self.Typed(""))

    def action_to_end(self, start: bool = False) -> None:
        self.move_cursor((0, 0) if start else self.document.end)

    def action_copy(self) -> None:
        super().action_copy()
        self._tell_copied()

    def action_cut(self) -> None:
        self._tell_copied()
        super().action_cut()

    def _tell_copied(self) -> None:
        """Also by the route that leaves tmux, and say which one."""
        if text := self.selected_text:
            copy = next((c.copy for c in self.app.commands if hasattr(c, "copy")), None)
            if copy is not None:
                self.run_worker(copy(text), exit_on_error=False)

    # --- edits of lines

    def _new_line(self) -> None:
        row, column = self.cursor_location
        line = self.document.get_line(row)
        lead = line[: len(line) - len(line.lstrip(" \t"))][:column]
        more = " " * INDENT if line[:column].rstrip().endswith(("[", "{")) and "=" in line[:column] else ""
        self._replace_via_keyboard(f"\n{lead}{more}", *self.selection)

    def _rows(self) -> range:
        """Rows that the selection touches."""
        start, end = sorted(self.selection)
        last = end[0] - (end[1] == 0 and end[0] > start[0])
        return range(start[0], last + 1)

    def _change_rows(self, lines: list[str]) -> None:
        """Put other text into the selection's rows, as one step of undo; the selection stays on its rows."""
        rows = self._rows()
        before = [self.document.get_line(r) for r in rows]
        if before == lines:
            return
        (start_row, start_column), (end_row, end_column) = self.selection
        grown = {r: len(new) - len(old) for r, old, new in zip(rows, before, lines, strict=True)}
        self.history.checkpoint()
        self.replace("\n".join(lines), (rows[0], 0), (rows[-1], len(before[-1])))
        self.history.checkpoint()
        self.selection = Selection(
            (start_row, max(0, start_column + grown.get(start_row, 0))),
            (end_row, max(0, end_column + grown.get(end_row, 0))),
        )

    def _indent(self) -> None:
        if self.selection.is_empty or len(self._rows()) == 1:
            spaces = self._find_columns_to_next_tab_stop()
            self._replace_via_keyboard(" " * spaces, *self.selection)
        else:
            lines = [self.document.get_line(r) for r in self._rows()]
            self._change_rows([" " * INDENT + line if line else line for line in lines])

    def _outdent(self) -> None:
        lines = [self.document.get_line(r) for r in self._rows()]
        self._change_rows([line[min(INDENT, len(line) - len(line.lstrip(" "))) :] for line in lines])

    def toggle_comment(self) -> None:
        """Comment the selection's rows out, or in again where all of them are."""
        lines = [self.document.get_line(r) for r in self._rows()]
        written = [line for line in lines if line.strip()]
        if written and all(line.lstrip().startswith("#") for line in written):
            self._change_rows([_uncommented(line) for line in lines])
        else:
            self._change_rows([f"# {line}" if line.strip() or not written else line for line in lines])

    def accept(self, completion: Completion, insert: str) -> None:
        """Put a candidate in the place of what is typed."""
        self.history.checkpoint()
        result = self.replace(insert, (completion.row, completion.start), (completion.row, completion.end))
        self.history.checkpoint()
        self.move_cursor(result.end_location)

    def put(self, text: str) -> None:
        """Make the text `text`: only the lines that differ are replaced, in one step of undo; the cursor stays."""
        old, new = self.lines, text.split("\n")
        if old == new:
            return
        low = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
        high = 0  # equal lines at the end
        while high < min(len(old), len(new)) - low and old[-1 - high] == new[-1 - high]:
            high += 1
        last, middle = len(old) - high, new[low : len(new) - high]
        if low == last:  # lines are only added
            start = end = (low, 0) if high else (last - 1, len(old[-1]))
            text = "\n".join([*middle, ""] if high else ["", *middle])
        elif not middle:  # lines are only taken away
            start, end = ((low, 0), (last, 0)) if high else ((low - 1, len(old[low - 1])), (last - 1, len(old[-1])))
            text = ""
        else:
            start, end, text = (low, 0), (last - 1, len(old[last - 1])), "\n".join(middle)
        row, column = self.cursor_location
        self.history.checkpoint()
        self.replace(text, start, end, maintain_selection_offset=False)
        self.history.checkpoint()
        row = min(row if row < last else row + len(new) - len(old), self.document.line_count - 1)
        self.selection = Selection.cursor((row, min(column, len(self.document.get_line(row)))))

    # --- places

    @property
    def lines(self) -> list[str]:
        return list(self.document.lines)

    def show_place(self, row: int, column: int, end: int | None = None) -> None:
        """Put the cursor there (from 0; beyond the text: at its end), selecting up to `end`, in the middle of the view."""
        row = max(0, min(row, self.document.line_count - 1))
        length = len(self.document.get_line(row))
        column = max(0, min(column, length))
        last = column if end is None else max(0, min(end, length))
        self.selection = Selection((row, last), (row, column)) if last != column else Selection.cursor((row, column))
        self.scroll_cursor_visible(center=True)


def _uncommented(line: str) -> str:
    at = line.find("#")
    if at < 0:
        return line
    return line[:at] + line[at + 1 + line[at + 1 :].startswith(" ") :]
