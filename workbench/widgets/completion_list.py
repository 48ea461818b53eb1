"""The list of completions that floats at the cursor. It never has the focus: the text hands it the keys it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events
from textual.content import Content
from textual.geometry import Offset
from textual.message import Message
from textual.widget import Widget

from engine.text import cells, cut, one_line, pad, wrap
from workbench.models.completion import Candidate, Completion

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

ROWS = 8
WIDEST = 58
ABOUT_ROWS = 5


class CompletionList(Widget):
    """Candidates, the chosen one marked and explained below.

    Attributes:
        completion: what is shown. at: number of the chosen candidate, from 0.
    """

    DEFAULT_CSS = """
    CompletionList {
        overlay: screen; constrain: inside inside; position: absolute; display: none;
        background: $panel; color: $text; width: 40; height: 8;
    }
    CompletionList.-shown { display: block; }
    """
    can_focus = False
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Chosen(Message):
        """A candidate was taken."""

        def __init__(self, completion: Completion, candidate: Candidate) -> None:
            super().__init__()
            self.completion, self.candidate = completion, candidate

    def __init__(self) -> None:
        super().__init__()
        self.completion = Completion(0, 0, 0)
        self.at = 0
        self._first = 0
        self._wide = 40

    @property
    def shown(self) -> bool:
        return self.has_class("-shown")

    def open(self, completion: Completion, cursor: Offset) -> None:
        """Show `completion` below (or above) the place on the screen where its word begins; nothing where it is empty."""
        if not completion.candidates:
            self.close()
            return
        self.completion, self.at, self._first = completion, 0, 0
        self._place(cursor)
        self.add_class("-shown")
        self.refresh()

    def _place(self, cursor: Offset) -> None:
        shown, screen = self.completion.candidates, self.app.size
        widest = max(cells(one_line(c.label)) + cells(c.detail) + 5 for c in shown)
        self._wide = max(30, min(WIDEST, screen.width - 2, max(widest, 44)))
        height = min(ROWS, len(shown)) + 1 + ABOUT_ROWS
        below, above = screen.height - cursor.y - 2, cursor.y
        height = min(height, max(below, above))
        y = cursor.y + 1 if height <= below or below >= above else cursor.y - height
        self.styles.width, self.styles.height = self._wide, height
        self.absolute_offset = Offset(max(0, min(cursor.x - 2, screen.width - self._wide)), y)  # labels below the word

    def close(self) -> None:
        self.remove_class("-shown")

    def move(self, by: int) -> None:
        """Choose another candidate, round the ends by single steps."""
        count = len(self.completion.candidates)
        self.at = (self.at + by) % count if abs(by) == 1 else max(0, min(count - 1, self.at + by))
        self.refresh()

    def choose(self) -> None:
        """Take the chosen candidate."""
        self.close()
        if self.completion.candidates:
            self.post_message(self.Chosen(self.completion, self.completion.candidates[self.at]))

    @property
    def _rows(self) -> int:
        """Candidates that are in sight."""
        height = self.styles.height.value if self.styles.height else ROWS
        return max(1, min(ROWS, len(self.completion.candidates), int(height) - 3))

    def render(self) -> Content:
        rows, candidates = self._rows, self.completion.candidates
        if not candidates:
            return Content("")
        self._first = min(max(self._first, self.at - rows + 1), self.at)
        lines = []
        for number, c in enumerate(candidates[self._first : self._first + rows], self._first):
            mark = ">" if number == self.at else " "
            detail = cut(one_line(c.detail), 24)
            room = self._wide - cells(detail) - 4
            text = f"{mark} {pad(cut(one_line(c.label), room), room)} {detail} "
            lines.append(Content.styled(text, "bold $text on $primary") if number == self.at else Content(text))
        line = "-" if self.app.ascii else "─"
        count = f" {self.at + 1} of {len(candidates)} ".rjust(self._wide - 3, line)
        lines.append(Content.styled(f" {count}{line} ", "$text-muted"))
        about = [
            part for text in candidates[self.at].about.split("\n") for part in wrap(one_line(text), self._wide - 2)
        ]
        lines += [Content(f" {part}") for part in about[:ABOUT_ROWS]]
        return Content("\n").join(lines)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """Not on the click: by then the text has lost the focus, and the list with it is closed."""
        event.stop()
        number = self._first + event.y
        if event.y < self._rows and number < len(self.completion.candidates):
            self.at = number
            self.choose()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.move(1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.move(-1)
