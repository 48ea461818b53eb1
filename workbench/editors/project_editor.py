"""The project editor: project.toml with colours, help, completion, and its mistakes as they are made.

area -> (a quarter of a second) -> check_text in a thread -> Checked -> marks, Problems list, line of words
area -> place of the cursor -> inspector, status bar         Typed -> completion -> list at the cursor
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.css.query import NoMatches
from textual.geometry import Offset
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Static, TextArea

from engine.text import one_line
from workbench import actions
from workbench.editors.kept import KeptEditor
from workbench.editors.text_search import TextSearch
from workbench.models.completion import Known, complete
from workbench.models.problems import Problem
from workbench.models.spans import Mark
from workbench.widgets.banner import Banner
from workbench.widgets.completion_list import CompletionList
from workbench.widgets.find_bar import FindBar, Finding
from workbench.widgets.key_help import key_help
from workbench.widgets.toml_area import TomlArea

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp
    from workbench.jobs.check_text import Wrong
    from workbench.models.schema import Schema

CHECK_SECONDS = 0.25
"""Without a change, until the text is checked."""
HELP_SECONDS = 0.08
"""Without a move, until the inspector follows the cursor."""


class ProjectEditor(Finding, KeptEditor):
    """A project's TOML.

    Attributes:
        marks: mistakes of the text that was checked last.
        checked: number of the text that `marks` are about; `text_number` of the one on the screen.
    """

    HELP = (
        "The project file. What is typed is checked at once: mistakes are marked, and listed under PROBLEMS.\n\n"
        "Names and values are offered while typing: up and down choose, Tab or Enter takes, Escape closes the list. "
        "ctrl+n (or space t t) asks for the list anywhere.\n\n"
        "Escape leaves the text; then i or Enter goes back in, n and N go to the next and previous problem, u undoes, "
        "w saves, / finds, and space opens the menu. Where a line above the text asks something, Escape and Tab lead "
        "to its answers."
    )
    SCOPES: ClassVar = ("project",)
    DEFAULT_CSS = """
    ProjectEditor { layout: vertical; }
    ProjectEditor > #wrong { height: auto; max-height: 3; display: none; padding: 0 1; color: $text-error; background: $panel; }
    ProjectEditor > #wrong.-shown { display: block; }
    """
    BINDINGS: ClassVar = [
        *actions.bindings("project"),
        Binding("i,enter", "into_text", show=False), Binding("n", "app.do('edit.next-problem')", show=False),
        Binding("N", "app.do('edit.previous-problem')", show=False), Binding("u", "app.do('edit.undo')", show=False),
        Binding("w", "app.do('file.save')", show=False), Binding("slash", "app.do('edit.find')", show=False),
    ]  # fmt: skip
    can_focus = True

    class Checked(Message):
        """A text was checked."""

        def __init__(self, number: int, wrong: list[Wrong]) -> None:
            super().__init__()
            self.number, self.wrong = number, wrong

    class Learnt(Message):
        """What the engine says of keys, and what there is to be named."""

        def __init__(self, schema: Schema, known: Known) -> None:
            super().__init__()
            self.schema, self.known = schema, known

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.marks: list[Mark] = []
        self.schema: Schema = {}
        self.known = Known()
        self.text_number, self.checked = 0, -1
        self._check_timer: Timer | None = None
        self._help_timer: Timer | None = None
        self._place: Any = None

    def compose(self) -> ComposeResult:
        popup = CompletionList()
        self.area = TomlArea(popup)
        yield Banner()
        yield self.area
        yield Static(id="wrong", markup=False)
        yield FindBar(TextSearch(self.area))
        yield popup

    def on_mount(self) -> None:
        self.heading = self.target
        self.app.workspace_changed.subscribe(self, lambda _: self._learn())
        self.begin(self.app.root / "projects" / self.target / "project.toml")
        self._learn()

    def when_loaded(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            self.reveal(place)
        self._check_soon(0.01)
        self._tell_place()

    def focus_first(self) -> None:
        self.area.focus()

    # --- what is known of keys and values

    def _learn(self) -> None:
        self.run_worker(self._learn_now, thread=True, exit_on_error=False, group="learn", exclusive=True)

    def _learn_now(self) -> None:
        from workbench.jobs.files import known_bases, known_sources
        from workbench.models.schema import schema

        root = self.app.root
        self.post_message(self.Learnt(schema(), Known(known_sources(root), known_bases(root))))

    def on_project_editor_learnt(self, event: Learnt) -> None:
        self.schema, self.known = event.schema, event.known
        self._help_soon()

    # --- checking

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        if event.text_area is not self.area:
            return
        event.stop()
        self.text_number += 1
        self.note_change()
        self.find_bar.again()
        if self.loaded:
            self._check_soon(CHECK_SECONDS)
        self._help_soon()

    def _check_soon(self, seconds: float) -> None:
        if self._check_timer is not None:
            self._check_timer.stop()
        self._check_timer = self.set_timer(seconds, self._check)

    def _check(self) -> None:
        work = functools.partial(self._check_now, self.area.text, self.text_number)
        self.run_worker(work, thread=True, exit_on_error=False, group="check")

    def _check_now(self, text: str, number: int) -> None:
        from workbench.jobs.check_text import check_text

        self.post_message(self.Checked(number, check_text(text)))

    def on_project_editor_checked(self, event: Checked) -> None:
        if event.number < self.checked:
            return
        self.checked = event.number
        self.marks = [w.mark for w in event.wrong]
        self.area.set_marks(self.marks)
        if self.app.problems.put(self.uri, [Problem(self.uri, w.line, w.column, w.text) for w in event.wrong]):
            self._tell_problems(self.app)
        self._help_soon()

    def on_unmount(self) -> None:
        if self.app.problems.put(self.uri, []):
            self.app.call_later(self._tell_problems, self.app)

    @staticmethod
    def _tell_problems(app: WorkbenchApp) -> None:
        with contextlib.suppress(NoMatches):  # the whole workbench is going
            app.tell_problems()

    # --- the cursor

    def on_text_area_selection_changed(self, event: TextArea.SelectionChanged) -> None:
        if event.text_area is not self.area:
            return
        event.stop()
        self._tell_place()
        popup, (row, column) = self.area.popup, event.selection.end
        now = popup.completion
        if popup.shown and (row != now.row or not now.start <= column <= now.end + 1):
            popup.close()
        self._help_soon()

    def _tell_place(self) -> None:
        row, column = self.area.cursor_location
        self.told = f"Ln {row + 1}, Col {column + 1}  TOML"

    def _help_soon(self) -> None:
        if self._help_timer is not None:
            self._help_timer.stop()
        self._help_timer = self.set_timer(HELP_SECONDS, self._help)

    def _help(self) -> None:
        """The inspector, and the words of the mistakes on the cursor's line."""
        row, column = self.area.cursor_location
        if self.schema:
            self.inspected = key_help(self.area.lines, row, column, self.schema, self.marks, self.app.ascii)
        here = [m for m in self.marks if m.row == row]
        words = self.query_one("#wrong", Static)
        sign = "!" if self.app.ascii else "✗"
        words.update(Content("\n").join(Content(f"{sign} {one_line(m.text)}") for m in here))
        words.set_class(bool(here), "-shown")

    def reveal(self, place: Any) -> None:
        """Show (line, column), both from 1."""
        if not self.loaded:
            self._place = place
        elif isinstance(place, tuple | list) and len(place) == 2 and all(isinstance(p, int) for p in place):
            self.area.show_place(place[0] - 1, place[1] - 1)

    # --- completion

    def on_toml_area_typed(self, event: TomlArea.Typed) -> None:
        event.stop()
        wanted = event.character.isalnum() or event.character in ("_", "-", '"', "'", ".", "/", ":", "[")
        if wanted or (not event.character and self.area.popup.shown):
            self._offer(asked=False)
        else:
            self.area.popup.close()

    def _offer(self, *, asked: bool) -> bool:
        if not self.schema or self.area.read_only or not self.area.selection.is_empty:
            return False
        row, column = self.area.cursor_location
        found = complete(self.area.document.lines, row, column, self.schema, self.known, asked=asked)
        cursor = self.area.cursor_screen_offset
        self.area.popup.open(found, Offset(cursor.x - (column - found.start), cursor.y))
        return bool(found.candidates)

    def on_completion_list_chosen(self, event: CompletionList.Chosen) -> None:
        event.stop()
        self.area.accept(event.completion, event.candidate.insert)
        self.area.focus()
        if event.candidate.insert.endswith((" = ", ".")):
            self._offer(asked=True)

    def on_descendant_blur(self) -> None:
        self.area.popup.close()

    # --- actions

    def find_text(self) -> str:
        return self.area.selected_text

    def on_find_bar_closed(self) -> None:
        self.area.focus()

    def action_into_text(self) -> None:
        self.area.focus()

    def act_focus_leave(self) -> None:
        """Escape leaves the text for the pane, where letters are commands."""
        self.focus()

    def act_edit_undo(self) -> None:
        self.area.undo()

    def act_edit_redo(self) -> None:
        self.area.redo()

    def may_edit_comment(self) -> bool:
        return not self.area.read_only

    def act_edit_comment(self) -> None:
        self.area.toggle_comment()

    def act_edit_wrap(self) -> None:
        self.area.soft_wrap = not self.area.soft_wrap

    def act_edit_complete(self) -> None:
        self.area.focus()
        if not self._offer(asked=True):
            self.app.notify("nothing to offer here", timeout=2, markup=False)

    async def act_edit_goto_line(self) -> None:
        from workbench.modals.confirm import AskLine

        last = self.area.document.line_count

        def wrong(text: str) -> str | None:
            line = text.strip().partition(":")[0]
            return None if line.isdecimal() and len(line) < 10 else f"a line from 1 to {last}, or line:column"

        answer = await self.app.push_screen_wait(AskLine(f"Go to line (1 to {last}), or line:column", "", wrong))
        if answer is not None:
            line, _, column = answer.strip().partition(":")
            self.reveal((int(line), int(column) if column.strip().isdecimal() and len(column) < 10 else 1))
            self.area.focus()

    def act_edit_next_problem(self) -> None:
        self._step_problem(1)

    def act_edit_previous_problem(self) -> None:
        self._step_problem(-1)

    def _step_problem(self, by: int) -> None:
        if not self.marks:
            raise LookupError("no problems in this file")
        here = self.area.cursor_location
        ordered = sorted((m.row, m.start) for m in self.marks)
        ahead = [p for p in ordered if (p > here if by > 0 else p < here)]
        row, column = (ahead[0 if by > 0 else -1]) if ahead else ordered[0 if by > 0 else -1]
        self.area.show_place(row, column)
