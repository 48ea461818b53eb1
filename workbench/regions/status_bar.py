"""The status bar: project, running jobs and problems at the left; machine, cursor and key hints at the right."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.text import cut, one_line


class StatusBar(Widget):
    """One line. What does not fit is cut at the left part first, then the hints go.

    Attributes:
        project: its name. running: about running jobs. problems: how many. machine: memory. told: the editor's words.
    """

    DEFAULT_CSS = "StatusBar { height: 1; dock: bottom; background: $primary-muted; color: $text; }"

    project: reactive[str] = reactive("")
    running: reactive[str] = reactive("")
    problems: reactive[int] = reactive(0)
    machine: reactive[str] = reactive("")
    told: reactive[str] = reactive("")
    HINTS = "space menu  ? help"

    class Chosen(Message):
        """A part was clicked: an action's id."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def _parts(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """(text, action) of the left and the right parts that are not empty."""
        problems = f"{self.problems} problem{'s' if self.problems != 1 else ''}" if self.problems else ""
        left = [(self.project, "app.quick-open"), (self.running, "run.open"), (problems, "view.problems")]
        right = [(self.machine, "view.inspector"), (self.told, ""), (self.HINTS, "app.menu")]
        return [(one_line(t), a) for t, a in left if t], [(one_line(t), a) for t, a in right if t]

    def _line(self) -> list[tuple[str, str]]:
        """(text, action) pieces that fill the line exactly."""
        left, right = self._parts()
        width = self.size.width
        length = lambda parts: sum(Content(t).cell_length + 2 for t, _ in parts)  # noqa: E731
        if length(left) + length(right) > width:
            right = [p for p in right if p[0] != self.HINTS]
        while left and length(left) + length(right) > width:
            text, action = left[-1]
            room = Content(text).cell_length - (length(left) + length(right) - width)
            if room >= 6:
                left[-1] = (cut(text, room), action)
                break
            left.pop()
        pieces = [(f" {t} ", a) for t, a in left]
        gap = max(0, width - length(left) - length(right))
        return [*pieces, (" " * gap, ""), *((f" {t} ", a) for t, a in right)]

    def render(self) -> Content:
        return Content("".join(text for text, _ in self._line()))

    def on_click(self, event: events.Click) -> None:
        x = event.x
        for text, action in self._line():
            x -= Content(text).cell_length
            if x < 0:
                if action:
                    self.post_message(self.Chosen(action))
                return
