"""A text that is a file: loaded, saved, watched on disk, kept while it is not saved, handed to $EDITOR.

What an editor of text derives from beside `Editor`. All disks are waited for in threads (`jobs.files`).

    file on disk -> Loaded -> area         area -> ctrl+s -> file          other programs -> DiskChanged -> banner
    area -> (a second) -> swap file        swap file of a dead process -> banner: recover
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.message import Message

from engine.errors import EngineError
from workbench.editors.base import Editor
from workbench.jobs import external, files
from workbench.jobs.files import ChangedOnDiskError, FileWatch, OnDisk, Swap, Unsaved
from workbench.modals.confirm import Choose, Confirm
from workbench.models.text_buffer import Buffer
from workbench.widgets.banner import Banner

if TYPE_CHECKING:
    from textual.document._document import Selection
    from textual.document._history import EditHistory

    from workbench.widgets.toml_area import TomlArea

KEEP_SECONDS = 1.0
"""After a change, until the unsaved text is in the swap file."""
CHANGED_ANSWERS = {"compare": "Compare", "overwrite": "Overwrite", "reload": "Reload"}


@dataclass(frozen=True, slots=True)
class Handed:
    """What an editor gives to the one that goes on in its place, in the other group."""

    disk: OnDisk
    buffer: Buffer
    kept: str | None
    text: str
    history: EditHistory
    selection: Selection


class KeptEditor(Editor):
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
        self._number = 0
        self._keeping = False
        self._swap_failed = False
        self._discarded = False
        self._handed: Handed | None = None

    @property
    def banner(self) -> Banner:
        return self.query_one(Banner)

    # --- loading

    def begin(self, path: Path) -> None:
        """Read the file, in a thread; `on_kept_editor_loaded` goes on."""
        self.path = path
        self.swap = Swap(self.app.state.folder, self.uri)
        self.run_worker(self._read, thread=True, exit_on_error=False, group="read")

    def _read(self) -> None:
        try:
            self.post_message(self.Loaded(files.read(self.path), self.swap.others()))
        except OSError as error:
            self.post_message(self.Loaded(OnDisk(None, "", f"cannot be read: {error.strerror}"), []))

    async def on_kept_editor_loaded(self, event: Loaded) -> None:
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
                self._forget(path)
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
        self._discarded = True  # no more of it is kept from here
        self.swap.close()
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
        if self.loaded and not self._keeping:
            self._keeping = True
            self.set_timer(KEEP_SECONDS, self._keep)

    def _keep(self) -> None:
        self._keeping = False
        self._number += 1
        if self.dirty:
            work = functools.partial(self._keep_now, self.file_text, self.disk.sha, self._number)
        else:
            work = functools.partial(self.swap.clear, self._number)
        self.run_worker(work, thread=True, exit_on_error=False, group="swap")

    def _keep_now(self, text: str, base: str, number: int) -> None:
        try:
            self.swap.write(text, base, number)
            self._swap_failed = False
        except (EngineError, OSError) as error:
            if not self._swap_failed:
                self._swap_failed = True
                text = f"{error}\nunsaved text cannot be kept: save it soon, or elsewhere"
                self.app.call_from_thread(self.app.notify, text, severity="warning", markup=False)

    def keep_now(self) -> None:
        if self.loaded and self.dirty and not self._discarded:
            self._number += 1
            self._keep_last(self.file_text, self.disk.sha, self._number)

    def on_unmount(self) -> None:
        if self._file_watch is not None:
            self._file_watch.stop()
        if self.loaded and self.dirty and not self._discarded:  # the workbench ends in whatever way: keep the newest
            text, base, number = self.file_text, self.disk.sha, self._number + 1
            threading.Thread(target=self._keep_last, args=(text, base, number)).start()

    def _keep_last(self, text: str, base: str, number: int) -> None:
        with contextlib.suppress(EngineError, OSError):
            self.swap.write(text, base, number)

    def _discard(self) -> None:
        """The unsaved text is not wanted."""
        self._discarded = True
        self._number += 1
        self.swap.close()
        self.run_worker(
            functools.partial(self.swap.clear, self._number), thread=True, exit_on_error=False, group="swap"
        )

    def _forget(self, path: Path) -> None:
        self.run_worker(functools.partial(path.unlink, missing_ok=True), thread=True, exit_on_error=False, group="swap")

    # --- saving

    async def save(self, *, force: bool = False) -> bool:
        """Write the file; returns whether it is written. What stands in the way is asked about.

        Raises:
            EngineError: the disk is full, or the file cannot be written; nothing is lost.
        """
        if not self.loaded or self.area.read_only:
            raise LookupError(f"{self.path.name} cannot be saved here: {self.disk.lossy or 'it is still being read'}")
        text, shown = self.file_text, self.area.text
        self._saving = text
        try:
            sha = await asyncio.to_thread(files.save, self.path, text, None if force else self.disk.sha)
        except ChangedOnDiskError as error:
            self._theirs = error.now
            question = f"{self.path.name} was changed on disk by another program since it was read."
            answer = await self.app.push_screen_wait(Choose(question, CHANGED_ANSWERS | {"": "Cancel"}))
            return await self._settle(answer or "")
        finally:
            self._saving = None
        self.disk, self.kept, self._theirs = OnDisk(text, sha), shown, None
        self._know()
        self.banner.hush("changed")
        self.banner.hush("gone")
        self.note_change()
        self.app.watch_workspace.now()
        return True

    async def _settle(self, answer: str) -> bool:
        """What the user wants where file and text differ; returns whether the text is saved then."""
        if answer == "compare":
            answer = await self._compare() or ""
        if answer == "overwrite":
            return await self.save(force=True)
        if answer == "reload" and self._theirs is not None:
            self._take(self._theirs)
            self.banner.hush("changed")
        return False

    async def _compare(self, theirs: str | None = None, name: str = "on disk", answers: dict[str, str] | None = None):
        """Show the file (or `theirs`) and the text side by side; returns the answer."""
        from workbench.modals.compare import Compare, compared

        if theirs is None:
            now = self._theirs or await asyncio.to_thread(files.read, self.path)
            if now.sha != self.disk.sha:
                self._theirs = now
            theirs = now.text or ""
            answers = {"overwrite": "Overwrite the file", "reload": "Reload from disk"} if self._theirs else {}
        diff = await asyncio.to_thread(compared, theirs, self.file_text, name, "in the editor")
        return await self.app.push_screen_wait(
            Compare(f"{self.path.name}: {name} (-) and in the editor (+)", diff, answers or {})
        )

    async def act_file_save(self) -> None:
        if self.dirty or self.kept is None:
            await self.save()

    async def act_file_revert(self) -> None:
        if self.dirty and not await self.app.push_screen_wait(
            Confirm(f"Reload {self.path.name}, without the changes made here? (Undo brings them back.)", yes="Reload")
        ):
            return
        self._take(await asyncio.to_thread(files.read, self.path))
        self.banner.hush("changed")

    async def act_edit_compare(self) -> None:
        await self._settle(await self._compare() or "")

    async def act_file_external(self) -> None:
        """Save, hand the terminal to $EDITOR, and read what it made of the file."""
        command = await asyncio.to_thread(external.editor_command)
        if self.dirty and not await self.save():
            return
        with self.app.suspend():
            code = external.edit(command, self.path)
        if code:
            self.app.notify(f"{command[0]} ended with code {code}", severity="warning", markup=False)
        now = await asyncio.to_thread(files.read, self.path)
        if now.sha != self.disk.sha:
            self._take(now)

    # --- other programs, and other times

    async def on_kept_editor_disk_changed(self, event: DiskChanged) -> None:
        now = event.now
        if self._saving is not None and now.text == self._saving:
            return  # our own doing
        if now.sha == self.disk.sha:
            self._theirs = None
            self.banner.hush("changed")
        elif now.text is None:
            self.disk, self.kept = now, None
            self.note_change()
            await self.banner.say("gone", f"{self.path.name} was removed from the disk: saving writes it again")
        elif self.dirty and self.area.text != Buffer.of(now.text).text:
            self._theirs = now
            await self.banner.say(
                "changed", f"{self.path.name} was changed on disk by another program", CHANGED_ANSWERS
            )
        else:
            self._take(now)
            self.banner.hush("gone")
            self.app.notify(f"{self.path.name} was changed on disk and read again", timeout=4, markup=False)

    @on(Banner.Answered)
    def _answered(self, event: Banner.Answered) -> None:
        event.stop()
        self.run_worker(self._answer(event.answer), exit_on_error=False, group="answers")

    async def _answer(self, answer: str) -> None:
        try:
            if answer in CHANGED_ANSWERS:
                await self._settle(answer)
            elif self._left is not None:
                await self._about_left(answer, *self._left)
        except (EngineError, LookupError, OSError) as error:
            self.app.show_error(error)

    async def _about_left(self, answer: str, path: Path, unsaved: Unsaved) -> None:
        """Recover, compare or discard what another process left."""
        if answer == "compare-left":
            answers = {"recover": "Recover", "drop": "Discard"}
            answer = await self._compare(unsaved.text, f"unsaved, {unsaved.when}", answers) or ""
        if answer == "recover":
            self.area.put(Buffer.of(unsaved.text).text)
            self.note_change()
            await asyncio.to_thread(self.swap.write, self.file_text, self.disk.sha, self._number)
        if answer in ("recover", "drop"):
            self._left = None
            self.banner.hush("left")
            if path != self.swap.path:
                self._forget(path)
            self.area.focus()

    async def may_close(self) -> bool:
        """Ask about unsaved changes: save, discard or cancel."""
        if not self.dirty:
            return True
        answers = {"save": "Save", "discard": "Discard", "": "Cancel"}
        answer = await self.app.push_screen_wait(Choose(f"{self.heading} has changes that are not saved.", answers))
        if answer == "save":
            try:
                return await self.save()
            except EngineError as error:
                self.app.show_error(error)
                return False
        if answer == "discard":
            self._discard()
            return True
        return False
