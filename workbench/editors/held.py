"""A text that is a file, as far as it is held: loaded, watched on disk, kept while it is not saved, given to another tab.

All disks are waited for in threads (`jobs.files`). What is done with it, and where it and the file differ, is `kept`.

    file on disk -> Loaded -> area         area -> (a second) -> swap file        other programs -> DiskChanged
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.message import Message

from workbench.editors.base import Editor
from workbench.editors.keeping import Keeper
from workbench.jobs import files
from workbench.jobs.files import FileWatch, OnDisk, Swap, Unsaved
from workbench.models.text_buffer import Buffer
from workbench.widgets.banner import Banner

if TYPE_CHECKING:
    from textual.document._document import Selection
    from textual.document._history import EditHistory

    from workbench.widgets.toml_area import TomlArea


@dataclass(frozen=True, slots=True)
class Handed:
    """What an editor gives to the one that goes on in its place, in the other group."""

    disk: OnDisk
    buffer: Buffer
    kept: str | None
    text: str
    history: EditHistory
    selection: Selection


class HeldEditor(Editor):
    """An editor with a `TomlArea` and a `Banner` over one file.

    Attributes:
        path: the file. disk: what it is known to hold. kept: the area's text as it was loaded or saved; None where the
        area differs from the file in any case (there is no file).
    """

    path: Path
    area: TomlArea

    class DiskChanged(Message):
        """Another program changed the file."""

        def __init__(self, now: OnDisk) -> None:
            super().__init__()
            self.now = now

    class Loaded(Message):
        """The file was read, and what other processes left of it."""

        def __init__(self, found: OnDisk, left: list[tuple[Path, Unsaved, bool]]) -> None:
            super().__init__()
            self.found, self.left = found, left

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.disk = OnDisk(None)
        self.buffer = Buffer("")
        self.kept: str | None = None
        self.loaded = False
        self._file_watch: FileWatch | None = None
        self._theirs: OnDisk | None = None
        self._saving: str | None = None
        self._left: tuple[Path, Unsaved] | None = None
        self._handed: Handed | None = None

    @property
    def banner(self) -> Banner:
        return self.query_one(Banner)

    # --- loading

    def begin(self, path: Path) -> None:
        """Read the file, in a thread; `on_held_editor_loaded` goes on."""
        self.path = path
        self.keeper = Keeper(self, Swap(self.app.state.folder, self.uri))
        self.run_worker(self._read, thread=True, exit_on_error=False, group="read")

    def _read(self) -> None:
        try:
            self.post_message(self.Loaded(files.read(self.path), self.keeper.swap.others()))
        except OSError as error:
            self.post_message(self.Loaded(OnDisk(None, "", f"cannot be read: {error.strerror}"), []))

    async def on_held_editor_loaded(self, event: Loaded) -> None:
        if self._handed is None:
            self._take(event.found, first=True)
        else:
            self._go_on(self._handed)
        self.loaded = True
        self._file_watch = FileWatch(self.path, self.disk.sha, lambda now: self.post_message(self.DiskChanged(now)))
        self._file_watch.start()
        if event.found.lossy:
            await self.banner.say(
                "lossy", f"{self.path.name}: {event.found.lossy}; it is shown, and not to be changed here"
            )
        elif event.found.text is None:
            await self.banner.say("gone", f"there is no {self.path.name} in {self.path.parent}: saving makes it")
        for path, unsaved, living in event.left:
            if living:
                await self.banner.say(
                    "twice", f"another workbench (process {unsaved.pid}) has unsaved changes of this file"
                )
            elif Buffer.of(unsaved.text) == Buffer.of(event.found.text or ""):
                self.keeper.forget(path)
            else:
                self._left = (path, unsaved)
                text = f"unsaved text of {unsaved.when} was kept"
                answers = {"recover": "Recover", "compare-left": "Compare", "drop": "Discard"}
                await self.banner.say("left", text, answers)
                break
        self.when_loaded()

    def when_loaded(self) -> None:
        """What else is to be done when the text is there."""

    def _take(self, now: OnDisk, *, first: bool = False) -> None:
        """The area is to hold what the file holds."""
        self.disk, self._theirs = now, None
        self.buffer = Buffer.of(now.text or "")
        self.kept = None if now.text is None else self.buffer.text
        self.area.read_only = bool(now.lossy)
        self._know()
        if first:
            self.area.load_text(self.buffer.text)
        else:
            self.area.put(self.buffer.text)
        self.note_change()

    def handed_over(self) -> Handed | None:
        if not self.loaded:
            return self._handed
        self.keeper.end()
        return Handed(self.disk, self.buffer, self.kept, self.area.text, self.area.history, self.area.selection)

    def take_over(self, handed: Handed | None) -> None:
        self._handed = handed

    def _go_on(self, handed: Handed) -> None:
        """Hold what the other one did; a file that has changed since is noticed by the watch."""
        self.disk, self.buffer, self.kept = handed.disk, handed.buffer, handed.kept
        self.area.read_only = bool(handed.disk.lossy)
        self.area.load_text(handed.text)
        self.area.history = handed.history
        self.area.selection = handed.selection
        self.loaded, self._handed = True, None
        self.note_change()

    def _know(self) -> None:
        """The watch need not tell what is known."""
        if self._file_watch is not None:
            self._file_watch.know(self.disk.sha)

    # --- changes

    @property
    def file_text(self) -> str:
        """What the file would hold if it were saved now."""
        return self.buffer.file_text(self.area.text)

    def note_change(self) -> None:
        """The text may have changed: dirty or not, and the swap file in a second."""
        self.dirty = self.area.text != self.kept and not self.area.read_only
        if self.loaded:
            self.keeper.soon()

    def keep_now(self) -> None:
        if self.loaded:
            self.keeper.now()

    def on_unmount(self) -> None:
        if self._file_watch is not None:
            self._file_watch.stop()
        if self.loaded:
            self.keeper.gone()
