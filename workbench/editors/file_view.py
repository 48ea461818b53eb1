"""A text file, read only and of any size: data files, logs. "file:data/faq.jsonl", relative to the workspace.

IndexThread -> Indexed -> count of lines        LinesView.Wanted -> thread -> Read -> lines
find bar -> FileSearch -> thread -> Matched -> marks
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from pathlib import Path
from typing import Any

from textual.app import ComposeResult
from textual.content import Content
from textual.message import Message

from engine.text import printable, size
from workbench.editors.base import Editor
from workbench.jobs import lines as reading
from workbench.jobs.lines import Found, IndexThread, Line, LineIndex
from workbench.widgets.banner import Banner
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.lines_view import LinesView


class FileView(Finding, Editor):
    """Lines with numbers; the inspector shows the one under the cursor, JSON laid out."""

    HELP = (
        "A file as it is, read only. j and k or the arrows move, g and G go to the ends, h and l or left and right go "
        "sideways, ctrl+f finds, ctrl+g goes to a line. The inspector shows the line under the cursor in full; JSON is "
        "laid out there. y copies the line."
    )
    DEFAULT_CSS = "FileView { layout: vertical; }"

    class Indexed(Message):
        """There are so many lines by now; `whole`: the end was reached."""

        def __init__(self, index: LineIndex, count: int, whole: bool, problem: str) -> None:
            super().__init__()
            self.index, self.count, self.whole, self.problem = index, count, whole, problem

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FileView.Indexed) and message.index is self.index

    class Read(Message):
        """Lines from number `first`."""

        def __init__(self, index: LineIndex, first: int, lines: list[Line]) -> None:
            super().__init__()
            self.index, self.first, self.lines = index, first, lines

    class Matched(Message):
        """Matches of search number `search` so far."""

        def __init__(self, search: int, found: list[Found], whole: bool) -> None:
            super().__init__()
            self.search, self.found, self.whole = search, found, whole

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, FileView.Matched) and message.search == self.search

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._index: LineIndex | None = None
        self._whole = False
        self._place: Any = None
        self.search = FileSearch(self)

    def compose(self) -> ComposeResult:
        yield Banner()
        yield LinesView()
        yield FindBar(self.search)

    @property
    def view(self) -> LinesView:
        return self.query_one(LinesView)

    def on_mount(self) -> None:
        self.heading = Path(self.target).name
        self.path = self.app.root / self.target
        self._thread = IndexThread(self.path, self._told)
        self._thread.start()

    def on_unmount(self) -> None:
        self._thread.stop()
        self.search.stop()

    def focus_first(self) -> None:
        self.view.focus()

    # --- lines

    def _told(self, index: LineIndex, whole: bool, error: OSError | None) -> None:
        problem = f"cannot be read: {error.strerror}" if error else ""
        self.post_message(self.Indexed(index, index.count, whole, problem))

    async def on_file_view_indexed(self, event: Indexed) -> None:
        if event.problem:
            await self.banner.say("unreadable", f"{self.target}: {event.problem}")
        else:
            self.banner.hush("unreadable")
        if event.index is not self._index:
            self._index = event.index
            self.view.forget()
        self._whole = event.whole
        self.view.set_count(event.count)
        if self._place is not None and (event.whole or event.count > self._place[0]):
            place, self._place = self._place, None
            self.reveal(place)
        self._tell_place()

    @property
    def banner(self) -> Banner:
        return self.query_one(Banner)

    def on_lines_view_wanted(self, event: LinesView.Wanted) -> None:
        event.stop()
        if self._index is not None:
            work = functools.partial(self._read, self._index, event.first, event.count)
            self.run_worker(work, thread=True, exit_on_error=False, group="lines")

    def _read(self, index: LineIndex, first: int, count: int) -> None:
        try:
            lines = index.read(first, count)
        except OSError:  # the index thread says so
            lines = []
        self.post_message(self.Read(index, first, lines))

    def on_file_view_read(self, event: Read) -> None:
        if event.index is self._index:
            self.view.give(event.first, event.lines)

    def on_file_view_matched(self, event: Matched) -> None:
        self.search.take(event)

    # --- the cursor

    def on_lines_view_moved(self, event: LinesView.Moved) -> None:
        event.stop()
        self._tell_place()
        line = self.view.line(self.view.cursor)
        self.inspected = laid_out(line) if line else None

    def _tell_place(self) -> None:
        if self._index is None:
            return
        more = "" if self._whole else "+"
        at = min(self.view.cursor + 1, self.view.count)
        self.told = f"Ln {at:,} of {self.view.count:,}{more}  {size(self._index.size)}"

    def reveal(self, place: Any) -> None:
        """Show (line, column), both from 1, or a line."""
        where = (place, 1) if isinstance(place, int) else place
        if not isinstance(where, tuple | list) or len(where) != 2 or not all(isinstance(p, int) for p in where):
            return
        if self._index is None or (not self._whole and self.view.count < where[0]):
            self._place = where
        else:
            self.view.show_line(where[0] - 1, where[1] - 1)

    def on_find_bar_closed(self) -> None:
        self.view.focus()

    async def act_edit_goto_line(self) -> None:
        from workbench.modals.confirm import AskLine

        def wrong(text: str) -> str | None:
            ok = text.strip().replace(",", "").isdecimal() and len(text) < 16
            return None if ok else f"a line from 1 to {self.view.count:,}"

        answer = await self.app.push_screen_wait(AskLine(f"Go to line (1 to {self.view.count:,})", "", wrong))
        if answer is not None:
            self.reveal((int(answer.strip().replace(",", "")), 1))
            self.view.focus()

    async def act_app_copy(self) -> None:
        line = self.view.line(self.view.cursor)
        if line is None:
            raise LookupError("there is no line to copy")
        copy = next(c.copy for c in self.app.commands if hasattr(c, "copy"))
        await copy(line.text)


def laid_out(line: Line) -> Content:
    """A line for the inspector: JSON with each part on its own line, else the text; nothing in it acts."""
    text = line.text
    if not line.cut and text[:1] in "{[" and len(text) > 1:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), ensure_ascii=False, indent=1)
    note = f"… {size(line.size)} in this line" if line.cut else ""
    shown = printable(text if len(text) <= 4000 else f"{text[:4000]}…")
    return Content("\n").join([Content(shown), *([Content.styled(note, "$text-warning")] if note else [])])


class FileSearch:
    """A `FindTarget` over a whole file; it looks in a thread, and stops when another search begins."""

    def __init__(self, view: FileView) -> None:
        self.view = view
        self.found: list[Found] = []
        self._number = 0
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def matches(self, text: str, case: bool) -> None:
        self.stop()
        self._over, self.found = threading.Event(), []
        self._number += 1
        self.view.view.set_found([])
        if text:
            work = functools.partial(self._look, text, case, self._number, self._over)
            self.view.run_worker(work, thread=True, exit_on_error=False, group="find")

    def _look(self, text: str, case: bool, number: int, over: threading.Event) -> None:
        import time

        if over.wait(0.15):  # typed on
            return
        found: list[Found] = []
        last = time.monotonic()
        try:
            for lot in reading.find(self.view.path, text, case, over.is_set):
                found += lot
                if time.monotonic() - last > reading.TOLD_SECONDS:
                    last = time.monotonic()
                    self.view.post_message(FileView.Matched(number, list(found), False))
        except OSError:
            pass
        if not over.is_set():
            self.view.post_message(FileView.Matched(number, found, True))

    def take(self, event: FileView.Matched) -> None:
        """Matches have come."""
        if event.search == self._number:
            self.found = event.found
            bar = self.view.find_bar
            self.view.view.set_found(self.found, bar.at)
            full = event.whole and len(self.found) < reading.MOST_FOUND
            bar.tell(len(self.found), whole=full or (event.whole and not self.found))

    def nearest(self) -> int:
        return next((n for n, f in enumerate(self.found) if f.line >= self.view.view.cursor), 0)

    def go(self, number: int) -> None:
        f = self.found[number]
        self.view.view.show_line(f.line, f.column)
        self.view.view.set_found(self.found, number)
