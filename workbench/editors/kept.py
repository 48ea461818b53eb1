"""A text that is a file, as far as it and the file may differ: saved, changed by other programs, left unsaved by a process
that died, handed to $EDITOR, closed. What an editor of text derives from beside `Editor`.

    area -> ctrl+s -> file        other programs -> DiskChanged -> banner        swap file of a dead process -> banner
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from textual import on

from engine.errors import EngineError
from workbench.editors.held import HeldEditor
from workbench.jobs import external, files
from workbench.jobs.files import ChangedOnDiskError, OnDisk, Unsaved
from workbench.modals.confirm import Choose, Confirm
from workbench.models.text_buffer import Buffer
from workbench.widgets.banner import Banner

CHANGED_ANSWERS = {"compare": "Compare", "overwrite": "Overwrite", "reload": "Reload"}


class KeptEditor(HeldEditor):
    """Nothing is lost: where file and text differ, the user is asked."""

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

    async def on_held_editor_disk_changed(self, event: HeldEditor.DiskChanged) -> None:
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
            await asyncio.to_thread(self.keeper.swap.write, self.file_text, self.disk.sha, self.keeper.number)
        if answer in ("recover", "drop"):
            self._left = None
            self.banner.hush("left")
            if path != self.keeper.swap.path:
                self.keeper.forget(path)
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
            self.keeper.discard()
            return True
        return False
