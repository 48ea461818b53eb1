"""The one bar that finds: in the project editor, in logs, rows and tables. It knows no text; what it stands over does.

    bar = FindBar(target)   below the text, hidden      target.matches("lora", case=False) -> 3
    bar.begin()             shown, with the focus       target.go(0), go(1), ...

A target that counts in a thread returns None and says what it has by `bar.tell(...)`. An editor that has a bar derives
from `Finding`, which does the actions edit.find, edit.find-next, edit.find-previous and edit.replace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, Static

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class FindTarget(Protocol):
    """What is searched."""

    def matches(self, text: str, case: bool) -> int | None:
        """Look for `text`, with regard to case or without; "" ends the search and takes its marks away.

        Returns:
            how many places there are, or None where they are still counted (`FindBar.tell` says the rest).
        """
        ...

    def nearest(self) -> int:
        """The number, from 0, of the match to begin with: at the cursor, or the first in sight."""
        ...

    def go(self, number: int) -> None:
        """Show match `number`, from 0."""
        ...


@runtime_checkable
class ReplaceTarget(FindTarget, Protocol):
    """What can be changed as well."""

    def replace_match(self, number: int, text: str) -> None:
        """Put `text` in the place of match `number`."""
        ...

    def replace_all(self, text: str) -> int:
        """Put `text` in the place of every match; returns how many."""
        ...


class Chip(Static):
    """A word that is a button: clicked, or with the focus Enter or space."""

    DEFAULT_CSS = """
    Chip { width: auto; height: 1; padding: 0 1; color: $text-muted; }
    Chip.-on { color: $text; background: $primary; text-style: bold; }
    Chip:focus { text-style: reverse; }
    Chip:hover { color: $text; }
    """
    can_focus = True

    class Pressed(Message):
        """Its `id` says which one."""

        def __init__(self, chip: Chip) -> None:
            super().__init__()
            self.chip = chip

    def on_click(self) -> None:
        self.post_message(self.Pressed(self))

    def on_key(self, event: events.Key) -> None:
        if event.key in ("enter", "space"):
            event.stop()
            event.prevent_default()
            self.post_message(self.Pressed(self))


class FindBar(Vertical):
    """One line, two with replacing. Enter and down: next; up: previous; Escape: back to the text.

    Attributes:
        target: what is searched. total: matches, None where nothing is looked for. at: the one shown, from 0.
        whole: whether `total` is final. case: whether case counts.
    """

    HELP = "Enter or down goes to the next match, up to the previous one; Tab reaches the buttons; Escape closes."
    DEFAULT_CSS = """
    FindBar { height: auto; width: 1fr; display: none; background: $panel; }
    FindBar.-shown { display: block; }
    FindBar Horizontal { height: 1; width: 1fr; }
    FindBar .label { width: 9; padding: 0 1; color: $text-muted; }
    FindBar Input { width: 1fr; max-width: 60; background: $surface; }
    FindBar #count { width: auto; min-width: 12; padding: 0 1; }
    FindBar #replacing { display: none; }
    FindBar.-replacing #replacing { display: block; }
    """

    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Closed(Message):
        """The bar went; the focus is to go back to what was searched."""

        def __init__(self, bar: FindBar) -> None:
            super().__init__()
            self.bar = bar

        @property
        def control(self) -> FindBar:
            return self.bar

    def __init__(self, target: FindTarget | None = None, id: str | None = None) -> None:
        super().__init__(id=id)
        self.target = target
        self.total: int | None = None
        self.at, self.whole, self.case = -1, True, False

    def compose(self) -> ComposeResult:
        symbols = {"previous": "^", "next": "v", "close": "x"} if self.app.ascii else {}
        with Horizontal():
            yield Static("Find", classes="label")
            yield Input(compact=True, id="find", select_on_focus=True)
            yield Static("", id="count", markup=False)
            yield Chip("Aa", id="case")
            yield Chip(symbols.get("previous", "↑"), id="previous")
            yield Chip(symbols.get("next", "↓"), id="next")
            yield Chip(symbols.get("close", "✗"), id="close")
        with Horizontal(id="replacing"):
            yield Static("Replace", classes="label")
            yield Input(compact=True, id="replace")
            yield Chip("one", id="one")
            yield Chip("all", id="all")

    def on_mount(self) -> None:
        for field in self.query(Input):
            field.styles.height = 1  # the application's style sheet gives all of them three

    @property
    def shown(self) -> bool:
        return self.has_class("-shown")

    @property
    def wanted(self) -> str:
        """What is looked for."""
        return self.query_one("#find", Input).value

    def begin(self, text: str = "", *, replacing: bool = False) -> None:
        """Show the bar with the focus; `text` (a selection, say) replaces what was looked for last."""
        self.add_class("-shown")
        self.set_class(replacing and isinstance(self.target, ReplaceTarget), "-replacing")
        field = self.query_one("#find", Input)
        if text and "\n" not in text:
            field.value = text
        field.focus()
        field.action_select_all()
        self._look()

    def end(self) -> None:
        """Hide the bar and take the marks away."""
        if self.shown:
            self.remove_class("-shown", "-replacing")
            self.total, self.at = None, -1
            if self.target is not None:
                self.target.matches("", self.case)
            self.post_message(self.Closed(self))

    def step(self, by: int) -> None:
        """The next match (1) or the previous one (-1), round the ends."""
        if self.total and self.target is not None:
            self.at = (self.at + by) % self.total
            self.target.go(self.at)
        self._say()

    def tell(self, total: int, *, whole: bool = True) -> None:
        """What a target that counts in a thread has found so far; the first one is shown when it is there."""
        first = not self.total and total
        self.total, self.whole = total, whole
        if first and self.target is not None:
            self.at = self.target.nearest()
            self.target.go(self.at)
        self._say()

    def again(self) -> None:
        """Look again after the text has changed; the view stays where it is."""
        if self.shown and self.wanted and self.target is not None:
            found = self.target.matches(self.wanted, self.case)
            if found is not None:
                self.total, self.whole = found, True
                self.at = min(self.at, found - 1)
                self._say()

    def _look(self) -> None:
        """Look for what the field holds, and show the nearest."""
        self.total, self.at, self.whole = None, -1, True
        if self.target is None:
            return
        found = self.target.matches(self.wanted, self.case)
        if not self.wanted:
            self._say()
        elif found is None:
            self.total, self.whole = 0, False
            self._say()
        else:
            self.tell(found)

    def _say(self) -> None:
        if self.total is None or not self.wanted:
            text = Content("")
        elif self.total == 0:
            text = Content("looking…") if not self.whole else Content.styled("none", "$text-warning bold")
        else:
            text = Content(f"{self.at + 1} of {self.total:,}" + ("" if self.whole else "+"))
        self.query_one("#count", Static).update(text)

    # --- keys and clicks

    def on_key(self, event: events.Key) -> None:
        moves = {"down": 1, "up": -1}
        if event.key == "escape":
            self.end()
        elif event.key in moves and isinstance(self.app.focused, Input):
            self.step(moves[event.key])
        elif event.key == "tab" and self.has_class("-replacing") and self.query_one("#find").has_focus:
            self.query_one("#replace", Input).focus()
        elif event.key == "shift+tab" and self.query_one("#replace").has_focus:
            self.query_one("#find", Input).focus()
        else:
            return
        event.stop()
        event.prevent_default()

    @on(Input.Changed, "#find")
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if self.shown:
            self._look()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if event.input.id == "replace":
            self._replace_one()
        else:
            self.step(1)

    @on(Chip.Pressed)
    def _pressed(self, event: Chip.Pressed) -> None:
        event.stop()
        match event.chip.id:
            case "case":
                self.case = not self.case
                event.chip.set_class(self.case, "-on")
                event.chip.update("Aa on" if self.case else "Aa")
                self._look()
            case "previous":
                self.step(-1)
            case "next":
                self.step(1)
            case "close":
                self.end()
            case "one":
                self._replace_one()
            case "all":
                self._replace_all()

    def _replace_one(self) -> None:
        if isinstance(self.target, ReplaceTarget) and self.total and self.at >= 0:
            self.target.replace_match(self.at, self.query_one("#replace", Input).value)
            self._look()

    def _replace_all(self) -> None:
        if isinstance(self.target, ReplaceTarget) and self.total:
            done = self.target.replace_all(self.query_one("#replace", Input).value)
            self._look()
            self.app.notify(f"{done} replaced; undo takes them back", timeout=4, markup=False)


class Finding:
    """What an editor with a `FindBar` derives from, beside `Editor`: the actions that find.

    `find_text` may be overridden to begin with what is selected.
    """

    def find_text(self) -> str:
        return ""

    @property
    def find_bar(self: Any) -> FindBar:
        return self.query_one(FindBar)

    def act_edit_find(self) -> None:
        self.find_bar.begin(self.find_text())

    def may_edit_replace(self) -> bool:
        return isinstance(self.find_bar.target, ReplaceTarget)

    def act_edit_replace(self) -> None:
        self.find_bar.begin(self.find_text(), replacing=True)

    def act_edit_find_next(self) -> None:
        self._find_step(1)

    def act_edit_find_previous(self) -> None:
        self._find_step(-1)

    def _find_step(self, by: int) -> None:
        bar = self.find_bar
        if bar.shown:
            bar.step(by)
        else:
            bar.begin()
