"""What views of results have in common: levels of which one is shown, and files that are read anew, in a thread, whenever
the workspace says that something was written.
"""

from __future__ import annotations

from typing import Any

from textual.message import Message
from textual.widgets import ContentSwitcher

from workbench.editors.base import Editor
from workbench.models.workspace import ProjectInfo, Snapshot
from workbench.widgets.sortable_table import SortableTable


class LevelsView(Editor):
    """Views over the results of a project, or of all (`target` ""). A level is a child of its `ContentSwitcher`, by id.

    Attributes:
        FIRST: the level that it opens with.
    """

    FIRST = ""

    class Scanned(Message):
        """What `read_results` gave; `last`: nothing more comes of this reading."""

        def __init__(self, found: Any, last: bool) -> None:
            super().__init__()
            self.found, self.last = found, last

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._sort, self._descending = "", False
        self._scanning = self._again = False
        self._key: object = None

    # --- for a view to say

    def key_of(self, project: ProjectInfo) -> object:
        """What is read anew when it changes."""
        raise NotImplementedError

    def read_results(self) -> Any:
        """An iterable of what is found, each with more than the one before; run in a thread."""
        raise NotImplementedError

    def show_results(self, found: Any) -> None:
        """Show what `read_results` found."""
        raise NotImplementedError

    def show_sorted(self) -> None:
        """Show the sortable table in the order that was chosen."""
        raise NotImplementedError

    # --- reading

    def follow_results(self) -> None:
        """Begin: read now, and whenever the workspace changes."""
        self.app.workspace_changed.subscribe(self, self._snapshot)
        self.scan()

    def _snapshot(self, snapshot: Snapshot) -> None:
        key = [self.key_of(p) for name, p in snapshot.projects.items() if self.target in ("", name)]
        if key != self._key:
            self._key = key
            self.scan()

    def on_show(self) -> None:
        self.scan()

    def scan(self) -> None:
        """Read in a thread; once more afterwards where that is asked for meanwhile."""
        if self._scanning:
            self._again = True
            return
        self._scanning = True

        def read() -> None:
            found: Any = None
            try:
                for found in self.read_results():
                    self.post_message(self.Scanned(found, False))
            finally:
                self.post_message(self.Scanned(found, True))

        self.run_worker(read, thread=True, exit_on_error=False, group="scan")

    def on_levels_view_scanned(self, event: Scanned) -> None:
        event.stop()
        if not event.last:
            self.show_results(event.found)
            return
        self._scanning = False
        if self._again:
            self._again = False
            self.scan()

    # --- levels and tables

    @property
    def level(self) -> str:
        return self.query_one(ContentSwitcher).current or self.FIRST

    def focus_first(self) -> None:
        self.query_one(f"#{self.level}").focus()

    def under_cursor(self, table: str, among: list[Any]) -> Any:
        """What the row under the cursor of the table with this id stands for, None where there is none."""
        at = self.query_one(f"#{table}", SortableTable).cursor
        return among[at] if at < len(among) else None

    def sort_by(self, key: str) -> None:
        """By this column; once more: the other way round."""
        self._descending = not self._descending if key == self._sort else False
        self._sort = key
        self.show_sorted()

    def sort_by_next(self, keys: list[str]) -> None:
        """By the column after the present one."""
        self.sort_by(keys[(keys.index(self._sort) + 1) % len(keys)])
