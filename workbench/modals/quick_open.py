"""The one box: quick open, command palette, keys of the project file, runs, lines, themes (see `models.choices`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.fuzzy import Matcher
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from engine.text import cells, cut, one_line
from workbench.modals.help import keys_text
from workbench.models import choices
from workbench.models.choices import THEME, Choice

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

MOST = 200


class QuickOpen(ModalScreen[Callable[[], None] | None]):
    """Returns what to do, None after Escape. Arrows move in the list while text is typed; themes are shown as one moves."""

    BINDINGS: ClassVar = [
        ("escape", "cancel", "Close"),
        ("down,ctrl+n", "move(1)", "Next"),
        ("up,ctrl+p", "move(-1)", "Previous"),
        ("pagedown", "move(10)", "Page down"),
        ("pageup", "move(-10)", "Page up"),
    ]
    DEFAULT_CSS = """
    QuickOpen .dialog { width: 90; height: auto; margin-top: 1; padding: 0 1; }
    QuickOpen Input { margin-bottom: 1; background: $panel; }
    QuickOpen OptionList { height: auto; max-height: 20; border: none; background: $surface; padding: 0;
                           scrollbar-size-vertical: 1; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self, start: str, applicable: frozenset[str]) -> None:
        super().__init__()
        self.start, self.applicable = start, applicable
        self.found: list[Choice] = []
        self.places: dict[tuple[str, ...], tuple[int, int]] | None = None
        self.before = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Input(self.start, placeholder="name, or one of  > @ # : ?", select_on_focus=False, compact=True)
            yield OptionList()

    def on_mount(self) -> None:
        self.before = self.app.theme
        self.query_one(OptionList).can_focus = False
        box = self.query_one(Input)
        box.focus()
        box.cursor_position = len(self.start)
        self._find(self.start)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._find(event.value)

    # --- what is found

    def _listed(self, mode: str, text: str) -> list[Choice]:
        app = self.app
        editors = app.workbench.editors
        if mode == ">":
            registry = self._keys()
            return choices.commands(self.applicable, registry)
        if mode == "#":
            return choices.runs(app.snapshot)
        if mode == ":":
            return choices.line(text, editors.front.uri if editors.front else "")
        if mode == "?":
            return choices.prefixes()
        if mode == THEME:
            return choices.themes(app.available_themes, self.before)
        if mode == "@":
            if self.places is None:
                self.places = {}
                self.run_worker(partial(self._read_places, app.project), thread=True, exit_on_error=False)
            return choices.toml_keys(app.project, self.places)
        return choices.things(app.snapshot, [e.uri for e in editors.all if e.uri != "welcome:"])

    def _keys(self) -> dict[str, str]:
        from workbench import actions

        return {a.id: keys_text(a, self.app.settings.keys) for a in actions.registry().values()}

    def _read_places(self, project: str) -> None:
        """In a thread: where the keys of the project's file are."""
        from engine.places import key_places

        info = self.app.snapshot.projects.get(project)
        if info is None:
            return
        try:
            text = info.file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return
        self.places = {path: (place[0], place[1]) for path, place in key_places(text).items()}
        self.app.call_from_thread(self._find_again)

    def _find_again(self) -> None:
        if self.is_mounted:
            self._find(self.query_one(Input).value)

    def _find(self, query: str) -> None:
        mode, text = choices.split(query)
        listed = self._listed(mode, text)
        if text and mode not in (":", "?"):
            matcher = Matcher(text)
            scored = [(matcher.match(c.text), -number, c) for number, c in enumerate(listed)]
            listed = [c for score, _, c in sorted(scored, key=lambda s: (s[0], s[1]), reverse=True) if score > 0]
        self.found = listed[:MOST]
        options = self.query_one(OptionList)
        options.clear_options()
        width = max(20, min(90, self.app.size.width * 95 // 100) - 7)  # less border, padding, scrollbar
        for choice in self.found:
            detail = one_line(choice.detail)
            text = cut(one_line(choice.text), max(10, width - len(detail) - 2))
            gap = " " * max(2, width - cells(text) - cells(detail))
            options.add_option(Option(Content.assemble(text, gap, (detail, "$text-muted"))))
        if not self.found:
            options.add_option(Option(Content("Nothing found."), disabled=True))
        options.highlighted = 0 if self.found else None

    # --- choosing

    def action_move(self, by: int) -> None:
        options = self.query_one(OptionList)
        if self.found:
            at = options.highlighted or 0
            options.highlighted = (
                (at + by) % len(self.found) if abs(by) == 1 else max(0, min(len(self.found) - 1, at + by))
            )

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index < len(self.found) and self.found[event.option_index].theme:
            self.app.theme = self.found[event.option_index].theme

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(event.option_index)

    def on_input_submitted(self) -> None:
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self._choose(highlighted)

    def _choose(self, index: int) -> None:
        if index >= len(self.found):
            return
        choice = self.found[index]
        if choice.type is not None:
            self.query_one(Input).value = choice.type
        elif choice.theme:
            self.dismiss(partial(setattr, self.app, "theme", choice.theme))
        elif choice.act:
            self.dismiss(partial(self.app.do, choice.act))
        else:
            self.dismiss(partial(self.app.open, choice.uri, place=choice.place))

    def action_cancel(self) -> None:
        self.app.theme = self.before
        self.dismiss(None)
