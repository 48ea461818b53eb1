"""One or two groups of tabs, side by side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.widgets import ContentSwitcher

from workbench import editors
from workbench.editors.base import Editor
from workbench.regions.tab_strip import Tab, TabStrip

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class EditorGroup(Vertical):
    """Tabs, and what is in the one in front."""

    DEFAULT_CSS = """
    EditorGroup { width: 1fr; height: 1fr; }
    EditorGroup ContentSwitcher { height: 1fr; width: 1fr; }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.switcher = ContentSwitcher()  # held: a group that is on its way out is still asked what is in front

    def compose(self) -> ComposeResult:
        yield TabStrip()
        yield self.switcher

    @property
    def all(self) -> list[Editor]:
        return list(self.switcher.query_children(Editor))

    @property
    def front(self) -> Editor | None:
        current = self.switcher.current
        return next((e for e in self.all if e.id == current), None) if current else None

    def find(self, uri: str) -> Editor | None:
        return next((e for e in self.all if e.uri == uri), None)

    async def add(self, editor: Editor) -> None:
        """Put an editor behind the others, and in front of them on the screen."""
        editor.id = f"editor-{id(editor)}"
        await self.switcher.mount(editor)
        self.show(editor)

    def show(self, editor: Editor | None) -> None:
        self.switcher.current = editor.id if editor else None
        self.retitle()

    def retitle(self) -> None:
        for strip in self.query_children(TabStrip):  # none is left in a group that was taken out meanwhile
            strip.tabs = tuple(Tab(e.uri, e.heading, e.dirty) for e in self.all)
            strip.front = self.front.uri if self.front else ""

    async def drop(self, editor: Editor) -> None:
        """Take an editor out; the one beside it comes to the front."""
        left = [e for e in self.all if e is not editor]
        at = self.all.index(editor)
        if self.front is editor:
            self.show(left[min(at, len(left) - 1)] if left else None)
        await editor.remove()
        self.retitle()


class EditorArea(Horizontal):
    """The groups. The second exists while something is in it."""

    DEFAULT_CSS = """
    EditorArea { height: 1fr; width: 1fr; }
    EditorArea > EditorGroup.-second { border-left: solid $panel-lighten-2; }
    """

    class FrontChanged(Message):
        """Another editor is in front, or it says something new; `front` None: there is none."""

        def __init__(self, front: Editor | None) -> None:
            super().__init__()
            self.front = front

    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def compose(self) -> ComposeResult:
        self.last = EditorGroup()
        self._opening = asyncio.Lock()
        self._asked: Editor | None = None
        yield self.last

    @property
    def groups(self) -> list[EditorGroup]:
        return list(self.query_children(EditorGroup))

    @property
    def group(self) -> EditorGroup:
        """The group that has the focus, or had it last."""
        for group in self.groups:
            if self.app.focused is not None and group in self.app.focused.ancestors:
                self.last = group
        if self.last not in self.groups:
            self.last = self.groups[0]
        return self.last

    @property
    def front(self) -> Editor | None:
        return self.group.front

    @property
    def all(self) -> list[Editor]:
        return [e for g in self.groups for e in g.all]

    def find(self, uri: str) -> Editor | None:
        return next((e for e in self.all if e.uri == uri), None)

    async def open(
        self, uri: str, *, place: Any = None, focus: bool = True, group: EditorGroup | None = None
    ) -> Editor:
        """Bring the tab of `uri` to the front, opened where it is not, and show `place` in it. Who asks first comes first.

        Raises:
            KeyError: the URI has a scheme that nothing opens.
        """
        async with self._opening:
            editor = self.find(uri)
            if editor is None:
                editor = editors.make(uri)
                await (group or self.group).add(editor)
            else:
                for holder in self.groups:
                    if editor in holder.all:
                        self.last = holder
                        holder.show(editor)
            if focus:
                self._focus(editor)
            if place is not None:
                editor.call_after_refresh(editor.reveal, place)
            self._tell()
            return editor

    def _focus(self, editor: Editor) -> None:
        """Give a tab the focus once it is laid out, unless another one has been asked for meanwhile."""
        self._asked = editor
        editor.call_after_refresh(lambda: editor.focus_first() if self._asked is editor else None)

    async def close(self, editor: Editor, *, ask: bool = True) -> bool:
        """Close a tab, unless it has unsaved changes that are to be kept; returns whether it is closed."""
        if ask and not await editor.may_close():
            return False
        for group in self.groups:
            if editor in group.all:
                had_focus = self.app.focused is not None and editor in self.app.focused.ancestors_with_self
                await group.drop(editor)
                if not group.all and len(self.groups) > 1:
                    await group.remove()
                    self.groups[0].remove_class("-second")
                if self._asked is editor:
                    self._asked = None
                if had_focus and self.front is not None:
                    self.front.focus_first()
        self._tell()
        return True

    async def split(self) -> None:
        """Move the tab in front to the other group, which is made where there is none."""
        group = self.group
        editor = group.front
        if editor is None or (len(self.groups) == 1 and len(group.all) < 2):
            return
        others = [g for g in self.groups if g is not group]
        if not others:
            other = EditorGroup(classes="-second")
            await self.mount(other)
        else:
            other = others[0]
        moved, handed = editors.make(editor.uri), editor.handed_over()
        if handed is None and not await editor.may_close():
            return
        moved.take_over(handed)
        await group.drop(editor)
        await other.add(moved)
        if not group.all:
            await group.remove()
            other.remove_class("-second")
        self.last = other
        if other.front is not None:
            self._focus(other.front)
        self._tell()

    def step(self, by: int) -> None:
        """The next tab of the group (`by` 1), or the previous one (-1)."""
        group = self.group
        if group.front is None or len(group.all) < 2:
            return
        editor = group.all[(group.all.index(group.front) + by) % len(group.all)]
        group.show(editor)
        self._asked = editor
        editor.focus_first()
        self._tell()

    def remembered(self) -> list[dict[str, Any]]:
        """Open tabs, for the state file."""
        return [{"tabs": [e.uri for e in g.all], "front": g.front.uri if g.front else ""} for g in self.groups if g.all]

    async def restore(self, groups: Any) -> None:
        """Open what `remembered` gave; what can no longer be opened is left out."""
        for number, saved in enumerate(groups if isinstance(groups, list) else []):
            if not isinstance(saved, dict) or number > 1:
                continue
            uris = [u for u in saved.get("tabs", []) if isinstance(u, str) and u.partition(":")[0] in editors.EDITORS]
            if number and uris:
                await self.mount(EditorGroup(classes="-second"))
            group = self.groups[-1]
            for uri in uris:
                await group.add(editors.make(uri))
            front = group.find(saved.get("front", ""))
            if front is not None:
                group.show(front)
        self.last = self.groups[0]
        self._tell()

    def on_editor_changed(self, event: Editor.Changed) -> None:
        event.stop()
        for group in self.groups:
            group.retitle()
        if event.editor is self.front:
            self._tell()

    async def on_tab_strip_chosen(self, event: TabStrip.Chosen) -> None:
        event.stop()
        editor = self.find(event.key)
        if editor is None:
            return
        if event.close:
            self.run_worker(self.close(editor), exit_on_error=False)  # it may ask
        else:
            await self.open(event.key)

    def _tell(self) -> None:
        self.post_message(self.FrontChanged(self.front))
