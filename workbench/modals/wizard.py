"""The form that makes a new project: name, base, training data, unseen data; what the rows are is shown before.

fields -> Wishes -> jobs.projects.preview (an engine process, in a thread) -> Answered -> what the rows look like
Create -> jobs.projects.create -> the project's name
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Button, Input, OptionList, Static

from engine.errors import EngineError
from engine.text import cut, one_line
from workbench.jobs.projects import Preview, Wishes, create, name_problem, preview, share_of

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

FIELDS = {
    "name": ("Name", "letters, digits, - _ ."),
    "base": ("Base model", 'a Hub id, a folder, or "starter"'),
    "data": ("Training data", "a file, a folder, or hub:NAME"),
    "unseen": ("Unseen data", "a file, hub:NAME, or a share of the rows: 10 %"),
    "prompt": ("Prompt column", "a column of the rows"),
    "completion": ("Completion", "a column of the rows"),
}
"""Field -> its label, and what may be written there."""
COLUMNS = ("prompt", "completion")
"""Fields that are there only where the engine cannot tell the shape of the rows."""
LOOK_SECONDS = 0.6
"""Without a change, until the engine is asked."""
NAME_MEANWHILE = "new-project"


class Wizard(ModalScreen[str | None]):
    """Returns the name of the project that was made; None after Escape.

    Args:
        sources, bases: what is offered for data and base.
    """

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Cancel")]
    DEFAULT_CSS = """
    Wizard .dialog { margin-top: 0; padding: 0 1; max-height: 100%; }
    Wizard .line { height: 1; }
    Wizard .label { width: 16; color: $text-muted; }
    Wizard .line Input { width: 1fr; background: $panel; }
    Wizard .line Input:focus { background: $primary-muted; }
    Wizard .hidden { display: none; }
    Wizard #choices { height: auto; max-height: 5; border: none; padding: 0; margin-left: 16; display: none; }
    Wizard #choices.-shown { display: block; }
    Wizard #said { height: auto; max-height: 2; margin-top: 1; }
    Wizard #rows { height: auto; max-height: 7; color: $text-muted; }
    Wizard .buttons { margin-top: 1; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Answered(Message):
        """The engine has said what it makes of look number `number`."""

        def __init__(self, number: int, answer: Preview | EngineError) -> None:
            super().__init__()
            self.number, self.answer = number, answer

    def __init__(self, sources: Sequence[str] = (), bases: Sequence[str] = ("starter",)) -> None:
        super().__init__()
        self.sources, self.bases = list(sources), list(bases)
        self.preview: Preview | None = None
        self._looks = 0
        self._timer: Timer | None = None
        self._asked: Wishes | None = None
        self._making = False
        self._own_unseen = False
        self._offers: list[str] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("New project", markup=False)
            for key, (label, hint) in FIELDS.items():
                with Horizontal(classes=f"line{' hidden' if key in COLUMNS else ''}", id=f"line-{key}"):
                    yield Static(label, classes="label", markup=False)
                    yield Input(placeholder=hint, id=key, compact=True)
            choices = OptionList(id="choices", compact=True)
            choices.can_focus = False
            yield choices
            yield Static(id="said", markup=False)
            yield Static(id="rows", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Create", id="create", compact=True)
                yield Button("Cancel (Esc)", id="cancel", compact=True)

    def on_mount(self) -> None:
        for field in self.query(Input):
            field.styles.height = 1
        self._field("base").value = "starter"
        self._field("name").focus()

    def _field(self, key: str) -> Input:
        return self.query_one(f"#{key}", Input)

    @property
    def wishes(self) -> Wishes:
        """What the fields say."""
        value = {key: self._field(key).value.strip() for key in FIELDS}
        return Wishes(
            value["name"], value["base"], value["data"], value["unseen"], value["prompt"], value["completion"]
        )

    # --- what is offered for the field with the focus

    def _offered(self, key: str, typed: str) -> list[str]:
        columns = self.preview.columns if self.preview else []
        unseen = ["10 %", *_first("test", self.sources)]
        offers = {"base": self.bases, "data": _first("train", self.sources), "unseen": unseen}.get(key, columns)
        offers = [] if key == "name" else [o for o in offers if key != "unseen" or o != self._field("data").value]
        if typed in offers:
            return offers  # chosen already: the others are there to change to
        word = typed.casefold()
        return [o for o in offers if word in o.casefold()]

    def _offer(self) -> None:
        """Show what could stand in the field that has the focus."""
        choices = self.query_one("#choices", OptionList)
        focused = self.focused
        key = focused.id or "" if isinstance(focused, Input) else ""
        offers = self._offered(key, self._field(key).value) if key else []
        width = 54
        choices.clear_options()
        choices.add_options([Content(cut(one_line(o), width)) for o in offers])
        self._offers = offers
        choices.highlighted = offers.index(self._field(key).value) if key and self._field(key).value in offers else None
        choices.set_class(bool(offers), "-shown")

    def on_descendant_focus(self) -> None:
        self._offer()
        self._say_of_field()
        self._look_soon(0.05)

    @on(OptionList.OptionSelected, "#choices")
    def _picked(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        focused = self.focused
        if isinstance(focused, Input) and event.option_index < len(self._offers):
            focused.value = self._offers[event.option_index]
            self._go_on(focused)

    def on_key(self, event: events.Key) -> None:
        choices, focused = self.query_one("#choices", OptionList), self.focused
        if event.key in ("down", "up") and isinstance(focused, Input) and choices.has_class("-shown"):
            event.stop()
            event.prevent_default()
            choices.action_cursor_down() if event.key == "down" else choices.action_cursor_up()
        elif event.key in ("down", "up"):
            event.stop()
            self.focus_next() if event.key == "down" else self.focus_previous()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        highlighted = self.query_one("#choices", OptionList).highlighted
        if highlighted is not None and highlighted < len(self._offers):
            event.input.value = self._offers[highlighted]
        self._go_on(event.input)

    def _go_on(self, field: Input) -> None:
        """To the next field, from the last one to Create."""
        shown = [key for key in FIELDS if not self.query_one(f"#line-{key}").has_class("hidden")]
        at = shown.index(field.id or "name") + 1
        target = self._field(shown[at]) if at < len(shown) else self.query_one("#create", Button)
        target.focus()

    # --- what is said

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        if event.input.id == "data":
            self._guess_unseen(event.value)
            for key in COLUMNS:  # of other rows
                self._field(key).value = ""
                self.query_one(f"#line-{key}").add_class("hidden")
        elif event.input.id == "unseen" and event.input.has_focus:
            self._own_unseen = bool(event.value)
        if event.input.has_focus:
            self._offer()
        self._say_of_field()
        data = self._field("data")
        if not data.has_focus or data.value in self.sources:  # half a path is not worth a look
            self._look_soon(LOOK_SECONDS)

    def _look_soon(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(seconds, self._look)

    def _guess_unseen(self, data: str) -> None:
        """data/x/train.jsonl has its unseen rows in data/x/test.jsonl, where that is there."""
        if self._own_unseen:
            return
        head, _, last = data.rpartition("/")
        beside = f"{head}/{last.replace('train', 'test', 1)}" if "train" in last else ""
        self._field("unseen").value = beside if beside in self.sources else "10 %" if data else ""

    def wrong(self) -> tuple[str, str] | None:
        """(field, what is wrong with it) of the first field that is wrong."""
        w = self.wishes
        if problem := name_problem(w.name, self.app.snapshot.projects):
            return "name", problem
        if not w.base:
            return "base", 'a base model is needed; "starter" needs no network'
        if not w.data:
            return "data", "training data are needed"
        number = w.unseen.removesuffix("%").strip()
        if number.replace(".", "", 1).isdecimal() and share_of(w.unseen) is None:
            return "unseen", "a share is more than 0 and less than 1, or 100 %"
        return None

    def _say_of_field(self) -> None:
        """What is wrong with the field that has the focus, as long as it is not empty."""
        wrong, focused = self.wrong(), self.focused
        here = isinstance(focused, Input) and wrong is not None and wrong[0] == focused.id and focused.value
        self._say(wrong[1] if wrong and here else "")

    def _say(self, text: str, style: str = "$text-error") -> None:
        self.query_one("#said", Static).update(Content.styled(one_line(text), style))

    def _look(self) -> None:
        """Ask the engine what the data are."""
        wishes = self.wishes
        if not wishes.data:
            self._show_rows(Content(""))
            return
        asked = Wishes(
            NAME_MEANWHILE, wishes.base, wishes.data, wishes.unseen, wishes.prompt_column, wishes.completion_column
        )
        if asked == self._asked:
            return
        self._asked = asked
        self._looks += 1
        self._show_rows(Content("looking at the rows…"))
        work = functools.partial(self._look_now, asked, self._looks)
        self.run_worker(work, thread=True, exit_on_error=False, group="look")

    def _look_now(self, wishes: Wishes, number: int) -> None:
        try:
            answer = preview(self.app.root, wishes)
        except EngineError as error:
            answer = error
        self.post_message(self.Answered(number, answer))

    def on_wizard_answered(self, event: Answered) -> None:
        if event.number != self._looks:
            return
        if isinstance(event.answer, EngineError):
            error = event.answer
            words = "; ".join(one_line(p) for p in (error.where, error.problem, error.remedy) if p)
            self._show_rows(Content.styled(words, "$text-error"))
            return
        self.preview = found = event.answer
        unclear = found.shape is None and len(found.columns) > 1 and not self.wishes.prompt_column
        if unclear:
            self._ask_columns(found.columns)
        lines = [Content.styled(cut(one_line(found.found), 400), "$text-success" if found.shape else "$text-warning")]
        for row in found.sample[: 1 if unclear else 2]:
            lines += [Content(cut(f"  {one_line(c)}: {one_line(v)}", 72)) for c, v in list(row.items())[:3]]
        self._show_rows(Content("\n").join(lines))

    def _ask_columns(self, columns: list[str]) -> None:
        for key in COLUMNS:
            self.query_one(f"#line-{key}").remove_class("hidden")
        if len(columns) == 2:
            for key, column in zip(COLUMNS, columns, strict=True):
                self._field(key).value = column

    def _show_rows(self, content: Content) -> None:
        self.query_one("#rows", Static).update(content)

    # --- the end

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "cancel":
            self.dismiss(None)
        else:
            self.run_worker(self._create(), exit_on_error=False, group="create")

    async def _create(self) -> None:
        wrong = self.wrong()
        if wrong is not None:
            self._field(wrong[0]).focus()
            self.call_after_refresh(self._say, wrong[1])
            return
        if self._making:
            return
        self._making = True
        self._say("writing…", "$text-muted")
        wishes = self.wishes
        try:
            await asyncio.to_thread(create, self.app.root, wishes)
        except EngineError as error:
            self._say("; ".join(p for p in (error.where, error.problem, error.remedy) if p))
            return
        finally:
            self._making = False
        self.dismiss(wishes.name)


def _first(word: str, names: Sequence[str]) -> list[str]:
    """`names`, those of files that are called something with `word` first."""
    return sorted(names, key=lambda name: word not in name.rpartition("/")[2])
