"""The text area of the project editor: keys, indenting, commenting, completion. How it is drawn is `marked_area`.

It knows lines and columns, not projects: what is wrong (`set_marks`), what is found (`set_found`) and what could be
completed come from the editor around it, which gets `TextArea.Changed`, `TextArea.SelectionChanged`, `Typed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.binding import Binding
from textual.document._document import Selection
from textual.message import Message

from workbench.models.completion import Completion
from workbench.widgets.marked_area import MarkedArea

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.widgets.completion_list import CompletionList

INDENT = 2


class TomlArea(MarkedArea):
    """A text area for TOML."""

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

    def __init__(self, popup: CompletionList) -> None:
        super().__init__()
        self.popup = popup
        self.indent_width = INDENT

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
