"""Base and adapters side by side: one prompt to all, streamed into all at once, one key to see what another one says.

Comes from: a session (`compare_session`), which holds the base and the adapters and may be training one of them.
State is `models.compare` and `models.talk`; what the columns show is made in `models.compare_text`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static

from workbench import actions
from workbench.editors.base import Editor
from workbench.editors.compare_asking import Asking
from workbench.editors.compare_rows import RowPrompts
from workbench.models import compare
from workbench.models.compare import BASE, BASE_CHOICE, MOST_COLUMNS, Choice, Comparison
from workbench.models.workspace import Snapshot
from workbench.widgets.answer_pane import AnswerPane
from workbench.widgets.prompt_box import PromptBox

TICK_SECONDS = 1.0


class CompareView(RowPrompts, Asking, Editor):
    """Columns and focus. Asking is in `compare_asking`, drawing in `compare_shown`, what is kept in `compare_keep`, the session
    in `compare_session`, rows of the data in `compare_rows`."""

    HELP = (
        "Every column shows what one model says: the base, an adapter, a checkpoint, or the adapter that is being "
        "trained. Write a prompt and press Enter: all are asked at once. Digits choose what the focused column shows, n "
        "and ctrl+t go on to the next adapter, x swaps columns, r asks the same prompt again. Below each answer stands "
        "whose weights gave it, and how far they are from base on this prompt. d underlines words that the other column "
        "has not, t colours the tokens and then gives their probabilities, u asks the next unseen row of the data. S "
        "starts a session where none is there, or joins a run that trains."
    )
    SCOPES: ClassVar = ("compare", "prompt")
    BINDINGS: ClassVar = actions.bindings("compare")
    DEFAULT_CSS = """
    CompareView { layout: vertical; }
    CompareView > #head { height: auto; max-height: 3; padding: 0 1; color: $text-muted; }
    CompareView > #head.-wrong { color: $text-error; }
    CompareView > #columns { height: 1fr; width: 1fr; }
    """

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._digit: int | None = None
        self._chosen = False
        self._lived: list[str] = []
        self._last_focus: Widget | None = None
        self._handed: dict[str, Any] | None = None
        self.begin_asking(Comparison())
        self.begin_rows()

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        with Horizontal(id="columns"):
            for number in range(5):
                yield AnswerPane(number)
        yield PromptBox("a prompt to all columns (Enter sends, ctrl+j: new line, Esc: to the columns)")

    def on_mount(self) -> None:
        self.heading = f"compare {self.target}"
        self.app.workspace_changed.subscribe(self, self._snapshot)
        self.set_interval(TICK_SECONDS, self._tick)
        if self._handed is not None:
            self.box.put(self._handed["text"])
            self.box.earlier = self._handed["earlier"]
        self._choose_columns()
        self.look()
        self.changed()

    def on_unmount(self) -> None:
        self.end()
        self.end_rows()

    def on_resize(self) -> None:
        self.changed()

    def on_show(self) -> None:
        self.changed()

    def handed_over(self) -> Any:
        return {"comparison": self.comparison, "mode": self.mode, "text": self.box.text, "earlier": self.box.earlier}

    def take_over(self, handed: Any) -> None:
        self.comparison = self.talk.comparison = handed["comparison"]
        self.mode, self.at, self._chosen, self._handed = handed["mode"], self.comparison.focused, True, handed

    async def may_close(self) -> bool:
        """What was asked is in the transcripts; a prompt that was not sent is nowhere else."""
        from workbench.modals.confirm import Confirm

        if not self.box.text.strip():
            return True
        question = "The prompt in the box was not sent. Close the comparison all the same?"
        return bool(await self.app.push_screen_wait(Confirm(question, yes="Close")))

    def focus_first(self) -> None:
        """Where the focus was last; the box at first."""
        (self._last_focus or self.box).focus()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        self._last_focus = event.widget

    def reveal(self, place: Any) -> None:
        """Show runs beside the base: labels ("starter/0003", "starter/0003/adapter", "starter/0003/40" for the checkpoint
        of step 40), one or several; the session of the first one answers where it trains."""
        wanted = [place] if isinstance(place, str) else list(place)
        by_name = {c.name: c for c in compare.everything(self.app.snapshot, self.target, self.training)}
        found = [by_name[name] for name in map(_name_at, wanted) if name in by_name]
        if found:
            self._chosen = True
            self.comparison.columns = [BASE_CHOICE, *found[: MOST_COLUMNS - 1]]
            self.comparison.focused = self.at = min(self.at, len(self.comparison.columns) - 1)
            self.refresh_digests()
        if wanted:
            self.look("/".join(wanted[0].split("/")[:2]))
        self.changed()

    @property
    def choices(self) -> list[Choice]:
        """What the digits mean."""
        return compare.digits(self.app.snapshot, self.target, self.training)

    # --- what changes by itself

    def _snapshot(self, snapshot: Snapshot) -> None:
        self.training_changed()
        if (living := self._living()) != self._lived:  # a training began or ended in the session that we speak with
            self._lived = living
            self.talk.ask_status()
        self.changed()

    def training_changed(self) -> None:
        self.comparison.renew(compare.everything(self.app.snapshot, self.target, self.training))
        self._choose_columns()

    def _choose_columns(self) -> None:
        """Base and the newest adapter, until the user has chosen, or base has answered alone. A prompt that was sent
        before there was a choice is sent to it, too."""
        turn = self.comparison.turn
        if self._chosen or len(choices := self.choices) < 2:
            return
        if turn is not None and (len(self.comparison.turns) > 1 or set(turn.answers) != {BASE} or not self.talk.busy):
            return
        self.comparison.columns[-1] = choices[1]
        if turn is not None:
            self._chosen = True
            self.talk.ask(turn, [choices[1]], seed=turn.seed)
        self.refresh_digests()

    def _tick(self) -> None:
        if not all(widget.display for widget in self.ancestors_with_self):
            return
        if self.link is not None:
            if self.talk.status is not None and self.talk.status.run is not None:
                self.talk.ask_status()  # the step; a session that trains nothing is left to be idle
        elif self._living():
            self.look()

    def _living(self) -> list[str]:
        """Labels of runs and sessions of this project whose process lives."""
        info = self.app.snapshot.projects.get(self.target)
        if info is None:
            return []
        found = [r.label for r in info.runs if r.state == "running"]
        return found + [j.label for j in info.jobs if j.verb == "session" and j.state == "running"]

    # --- focus

    def on_answer_pane_chosen(self, event: AnswerPane.Chosen) -> None:
        event.stop()
        self._go(event.pane.number, focus=False)

    def _go(self, number: int, *, focus: bool = True) -> None:
        total = len(self.comparison.columns) + bool(self.comparison.turn and self.comparison.turn.reference)
        number = max(0, min(number, total - 1))
        if number != self.at:
            self.at = number
            self.comparison.focused = min(number, len(self.comparison.columns) - 1)
            self.changed()
        if focus:
            list(self.query(AnswerPane))[self.at].area.focus()

    def on_prompt_box_left(self, event: PromptBox.Left) -> None:
        event.stop()
        self._go(self.at)

    def on_key(self, event: events.Key) -> None:
        self._digit = int(event.key) if event.key.isdecimal() and len(event.key) == 1 else None

    def act_compare_left(self) -> None:
        self._go(self.at - 1)

    def act_compare_right(self) -> None:
        self._go(self.at + 1)

    def act_compare_prompt(self) -> None:
        self.box.focus()

    # --- columns

    def _show(self, choice: Choice) -> None:
        """The focused column shows another choice; one that is not loaded begins to be."""
        self._chosen = True
        self.comparison.show(choice)
        self.talk.load(choice)
        self.refresh_digests()
        self._measure()
        self.changed()

    async def act_compare_show(self) -> None:
        digit, self._digit = self._digit, None
        choices = self.choices
        if digit is None:
            await self.act_compare_pick()
        elif digit < len(choices):
            self._show(choices[digit])
        else:
            raise LookupError(f"there is no adapter {digit}: {self.target} has {len(choices) - 1}")

    def act_compare_next(self) -> None:
        self._step(1)

    def act_compare_previous(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        self.comparison.step(self.choices, by)
        self._show(self.comparison.columns[self.comparison.focused])

    async def act_compare_pick(self) -> None:
        from workbench.modals.pick import Pick

        choices = compare.everything(self.app.snapshot, self.target, self.training)
        names = [c.name for c in choices]
        now = self.comparison.columns[self.comparison.focused].name
        texts = [
            f"{n if n < 10 else ' '} {c.label}{' (in training)' if c.training else ''}" for n, c in enumerate(choices)
        ]
        chosen = await self.app.push_screen_wait(
            Pick("What does this column show?", texts, names.index(now) if now in names else 0)
        )
        if chosen is not None:
            self._show(choices[chosen])

    def act_compare_swap(self) -> None:
        self._chosen = True
        self.comparison.swap()
        self.changed()

    def act_compare_add(self) -> None:
        if not self.comparison.add(self.choices):
            raise LookupError("four columns are the most")
        self.at = self.comparison.focused
        self._show(self.comparison.columns[self.at])
        self._go(self.at)

    def act_compare_remove(self) -> None:
        if not self.comparison.remove():
            raise LookupError("this is the last column")
        self._chosen = True
        self.at = self.comparison.focused
        self.changed()
        self._go(self.at)

    # --- rows of the data

    def act_compare_row(self) -> None:
        self._free()
        self.step_row(1)

    def act_compare_row_back(self) -> None:
        self._free()
        self.step_row(-1)

    def asks_row(self, prompt: str, reference: str, where: str) -> None:
        self.ask(prompt, raw=True, reference=reference, where=where)

    def row_words(self, words: str) -> None:
        self.notice = words
        self.changed()

    # --- how it is shown

    def act_compare_diff(self) -> None:
        self.mode = "text" if self.mode == "diff" else "diff"
        self.changed()

    def act_compare_tokens(self) -> None:
        self.mode = {"tokens": "numbers", "numbers": "text"}.get(self.mode, "tokens")
        self._measure()
        self.changed()
        for pane in self.query(AnswerPane):
            pane.area.top()

    def act_compare_samples(self) -> None:
        """The answers to the watch prompts, of the run of the focused column."""
        label = self.comparison.columns[self.comparison.focused].label.split(" ")[0]
        if self.app.snapshot.run(label) is None:
            raise LookupError("base was not trained: choose an adapter in this column")
        self.app.open(f"run:{label}", place="samples")

    async def act_app_copy(self) -> None:
        """The answer of the focused column, or what is selected."""
        from workbench.commands.system import SystemCommands

        answer = self.comparison.answer(self.comparison.focused)
        text = self.screen.get_selected_text() or (answer.text if answer is not None else "")
        if not text:
            raise LookupError("there is no answer to copy yet")
        await next(c for c in self.app.commands if isinstance(c, SystemCommands)).copy(text)


def _name_at(place: str) -> str:
    """The name of the choice that a place in the explorer stands for."""
    project, number, *rest = place.split("/")
    return compare.run_name(f"{project}/{number}") + (f"-step-{rest[0]}" if rest and rest[0].isdecimal() else "")
