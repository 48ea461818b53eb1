"""The explorer: projects, their files, runs, adapters and checkpoints; data files. Enter opens, space-menu acts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from workbench import actions
from workbench.jobs.trash import move_to_trash
from workbench.modals.confirm import Confirm
from workbench.models.outline import Node, outline
from workbench.models.workspace import Snapshot

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class Explorer(Tree[Node]):
    """A tree that follows the snapshots, keeping what is unfolded and where the cursor is."""

    HELP = "Enter opens what the line names; right and left unfold and fold; d moves a project or run to .trash."
    SCOPES: ClassVar = ("explorer",)
    DEFAULT_CSS = """
    Explorer { background: $surface; padding: 0; height: 1fr; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar = [
        *actions.bindings("explorer"),
        Binding("j", "cursor_down", show=False), Binding("k", "cursor_up", show=False),
        Binding("g", "scroll_home", show=False), Binding("G", "scroll_end", show=False),
        Binding("l,right", "unfold", show=False), Binding("h,left", "fold", show=False),
    ]  # fmt: skip
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self) -> None:
        super().__init__("workspace")
        self.show_root = False
        self.guide_depth = 2
        self.auto_expand = False
        self._opened: dict[str, bool] = {}
        self._wanted = ""

    def on_mount(self) -> None:
        self.app.workspace_changed.subscribe(self, self.show)
        self.show(self.app.snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Bring the tree to what `snapshot` holds."""
        nodes = outline(snapshot, ascii=self.app.ascii)
        first = not self._opened
        cursor = self.cursor_node.data.key if self.cursor_node and self.cursor_node.data else None
        if first and snapshot.projects:
            self._opened[self.app.project or next(iter(snapshot.projects))] = True
        self._bring(self.root, nodes)
        if self._wanted and self._wanted in snapshot.projects:
            cursor, self._wanted = self._wanted, ""
        if cursor is not None:
            self._go(cursor)

    def reveal(self, project: str) -> None:
        """Unfold a project and put the cursor on it, as soon as a snapshot has it."""
        self._opened[project] = True
        self._wanted = project
        self.show(self.app.snapshot)

    def _bring(self, parent: TreeNode[Node], wanted: tuple[Node, ...]) -> None:
        have = [child.data.key for child in parent.children if child.data]
        if have != [n.key for n in wanted]:
            parent.remove_children()
            for node in wanted:
                parent.add(Text(node.label), node, allow_expand=bool(node.children))
        for child, node in zip(parent.children, wanted, strict=True):
            if child.data != node:
                child.data = node
                child.set_label(Text(node.label))
                if child.allow_expand != bool(node.children):  # draws the whole tree again, as `expand` does
                    child.allow_expand = bool(node.children)
            if node.children or child.children:
                self._bring(child, node.children)
                if self._opened.get(node.key, node.open) and not child.is_expanded:
                    child.expand()

    def _go(self, key: str) -> None:
        """Put the cursor on a node again, after its line was made anew."""
        for node in self._walk(self.root):
            if node.data and node.data.key == key:
                if node is not self.cursor_node:
                    self.call_after_refresh(self.move_cursor, node)
                return

    def _walk(self, node: TreeNode[Node]):
        for child in node.children:
            yield child
            yield from self._walk(child)

    def render_label(self, node: TreeNode[Node], base_style: Style, style: Style) -> Text:
        data = node.data
        fold = ""
        if node.allow_expand:
            fold = ("v " if node.is_expanded else "> ") if self.app.ascii else ("▾ " if node.is_expanded else "▸ ")
        label = Text(fold + (data.label if data else ""), style=style)
        if data and data.kind == "project" and data.key == self.app.project:
            label.stylize("bold")
        return label

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Node]) -> None:
        if event.node.data:
            self._opened[event.node.data.key] = True

    def on_tree_node_collapsed(self, event: Tree.NodeCollapsed[Node]) -> None:
        if event.node.data:
            self._opened[event.node.data.key] = False

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[Node]) -> None:
        """Commands are about the project under the cursor."""
        name = event.node.data.key.split("/")[0] if event.node.data else ""
        if self.has_focus and name in self.app.snapshot.projects:
            self.app.project = name

    def on_tree_node_selected(self, event: Tree.NodeSelected[Node]) -> None:
        event.stop()
        node = event.node.data
        if node is None:
            return
        if node.kind == "action":
            self.app.do("project.new")
        elif node.kind in ("project", "folder", "runs") and node.children:
            event.node.toggle()
        elif node.uri:
            self.app.open(node.uri)

    def action_unfold(self) -> None:
        node = self.cursor_node
        if node is not None and node.allow_expand and not node.is_expanded:
            node.expand()
        else:
            self.action_cursor_down()

    def action_fold(self) -> None:
        node = self.cursor_node
        if node is not None and node.allow_expand and node.is_expanded:
            node.collapse()
        elif node is not None and node.parent is not None and node.parent is not self.root:
            self.move_cursor(node.parent)

    def act_explorer_refresh(self) -> None:
        self.app.watch_workspace.now()

    @property
    def chosen(self) -> Node | None:
        return self.cursor_node.data if self.cursor_node else None

    def act_compare_open(self) -> None:
        """Of the project under the cursor; with the run, adapter or checkpoint that the cursor is on."""
        node = self.chosen
        name = node.key.split("/")[0] if node is not None else ""
        if name not in self.app.snapshot.projects:
            name = self.app.project
        if not name:
            raise LookupError("there is no project yet: make one with New project (space p n)")
        place = node.key if node is not None and node.kind in ("run", "adapter", "checkpoint") else None
        self.app.open(f"compare:{name}", place=place)

    def may_project_delete(self) -> bool:
        return self.chosen is not None and self.chosen.kind in ("project", "run")

    async def act_project_delete(self) -> None:
        node = self.chosen
        if node is None or node.path is None:
            return
        snapshot = self.app.snapshot
        concerned = [r for r in snapshot.runs if r.label == node.key or r.project == node.key]
        if any(r.state == "running" for r in concerned):
            raise LookupError(f"{node.key} is running: stop it first (shift+F5, or space r s)")
        what = f"project {node.key} with {len(concerned)} runs" if node.kind == "project" else f"run {node.key}"
        if not await self.app.push_screen_wait(Confirm(f"Move {what} to the workspace's .trash folder?", yes="Move")):
            return
        gone = await asyncio.to_thread(move_to_trash, self.app.root, node.path)
        editors = self.app.workbench.editors
        for editor in editors.all:
            if editor.target == node.key or (node.kind == "project" and editor.project == node.key):
                await editors.close(editor, ask=False)
        self.app.notify(f"{node.key} is now {gone}", markup=False)
        self.app.watch_workspace.now()
