"""The part of the compare view that asks: all columns or those without an answer, again, on from where an answer was cut
off, with other settings; and what tokens are worth under several models.

Goes to: `models.talk`; a session is started where none is there.
"""

from __future__ import annotations

from typing import Any

from workbench.editors.compare_keep import Keeping
from workbench.models.compare import BASE_CHOICE, Choice, Comparison, Turn
from workbench.widgets.answer_pane import AnswerPane
from workbench.widgets.prompt_box import PromptBox


class Asking(Keeping):
    """Mixed into an editor that has a `PromptBox`."""

    def begin_asking(self, comparison: Comparison) -> None:
        """Called once, before anything else here."""
        self.begin_shown(comparison)
        self._editing: Turn | None = None
        self._seed: int | None = None

    @property
    def box(self) -> PromptBox:
        return self.query_one(PromptBox)

    def ask(self, prompt: str, *, raw: bool, reference: str = "", where: str = "") -> None:
        """Ask all columns; a session is started where none is there."""
        if self._editing in self.comparison.turns:
            del self.comparison.turns[self.comparison.turns.index(self._editing) :]
        self._editing = None
        lead = self.comparison.columns[self.comparison.focused].name
        turn = Turn(prompt, raw, lead, reference=reference, where=where)
        self.comparison.turns.append(turn)
        self._put(turn, self.comparison.shown)

    def _put(self, turn: Turn, choices: list[Choice], **more: Any) -> None:
        self.notice = ""
        self.talk.ask(turn, choices, **more)
        for pane in self.query(AnswerPane):
            pane.area.follow()
        if not self.talk.connected:
            self.wake()
        self._measure()
        self.changed()

    def _free(self) -> None:
        if self.talk.busy:
            raise LookupError("the answers are still being written: s stops them")

    def _last(self) -> Turn:
        if self.comparison.turn is None:
            raise LookupError("nothing was asked yet: i writes a prompt")
        return self.comparison.turn

    def act_prompt_send(self) -> None:
        if self.box.text.strip():
            self._free()
            self.ask(self.box.take(), raw=self.comparison.sampling.raw)

    def act_compare_again(self) -> None:
        self._free()
        turn, all_shown = self._last(), self.comparison.shown
        missing = [c for c in all_shown if (a := turn.answers.get(c.name)) is None or a.state == "failed"]
        self._put(turn, missing or all_shown)

    def act_compare_retry(self) -> None:
        self._free()
        before = self._seed if self._seed is not None else self.comparison.sampling.seed or 0
        self._seed = before + 1
        self._put(self._last(), self.comparison.shown, seed=self._seed)
        self.notice = f"asked again with seed {self._seed}"
        self.changed()

    def act_compare_stop(self) -> None:
        if self.talk.stop():
            self.changed()

    def take_prompt(self, prompt: str) -> None:
        self.box.put(prompt)
        self.box.focus()

    def act_compare_edit(self) -> None:
        turn = self._last()
        self._editing = turn
        self.take_prompt(turn.prompt)

    def act_compare_continue(self) -> None:
        self._free()
        turn = self._last()
        cut_off = [c for c in self.comparison.shown if (a := turn.answers.get(c.name)) is not None and a.can_go_on]
        if not cut_off:
            raise LookupError("no answer was cut off: each ended by itself")
        self._put(turn, cut_off, go_on=True)

    def act_compare_clear(self) -> None:
        self._free()
        self.comparison.turns.clear()
        self._editing = None
        self.changed()

    # --- answers that are there

    def finished(self) -> None:
        self._measure()
        self.keep()

    def _measure(self) -> None:
        """Ask for the probabilities that the mode shows, and for those of a reference."""
        turn = self.comparison.turn
        if turn is None or self.talk.busy:
            return
        models = [BASE_CHOICE, *(c for c in self.comparison.shown if c.model is not None)]
        if turn.reference:
            self.talk.score(turn, None, models)
        if self.mode in ("tokens", "numbers"):
            for choice in self.comparison.shown:
                answer = turn.answers.get(choice.name)
                if answer is not None and answer.over:
                    self.talk.score(turn, answer, models)

    async def act_compare_settings(self) -> None:
        from workbench.modals.sampling import SamplingForm

        taken = await self.app.push_screen_wait(SamplingForm(self.comparison.sampling))
        if taken is not None:
            self.comparison.sampling, self._seed = taken, None
            self.changed()
