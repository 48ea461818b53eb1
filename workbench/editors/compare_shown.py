"""The part of the compare view that draws: what stands in the head line, in each column, in status bar and inspector.

Comes from: the comparison and what its session says. Goes to: `widgets.answer_pane`; the words are made in
`models.compare_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from engine.text import cut, one_line, size
from workbench.editors.compare_session import SessionTalk
from workbench.models import compare_text as shown
from workbench.models.compare import BASE_CHOICE, Answer, Choice, Comparison, Turn
from workbench.widgets.answer_pane import AnswerPane, Block

NARROWEST = 30
"""Cells of a column; where there is less room, the columns around the focused one are shown."""


class ComparisonShown(SessionTalk):
    """Mixed into an editor.

    Attributes:
        comparison: what is shown. mode: how, of `compare_text.MODES`. notice: words that stand in the head line instead of
            the session's.
        at: the pane in focus; the one behind the last column is the reference's.
    """

    def begin_shown(self, comparison: Comparison) -> None:
        """Called once, before anything else here."""
        self.begin(comparison)
        self.comparison = comparison
        self.mode, self.notice, self.at, self._first = "text", "", 0, 0
        self._told_head = ("", False)
        self._in_sight: list[tuple[AnswerPane, int]] = []
        self._digits: dict[str, str] = {}

    if TYPE_CHECKING:

        @property
        def choices(self) -> list[Choice]: ...

    def changed(self) -> None:
        self._in_sight = []
        if not self.is_mounted or not self.size.width:
            return
        self._head()
        panes, columns = list(self.query(AnswerPane)), self.comparison.columns
        turn = self.comparison.turn
        total = len(columns) + bool(turn is not None and turn.reference)
        fit = max(1, min(total, self.size.width // NARROWEST))
        self.at = min(self.at, total - 1)
        self._first = max(0, min(self._first, total - fit, self.at), self.at - fit + 1)
        before = [pane.display for pane in panes]
        self._digits = {choice.name: str(digit) for digit, choice in enumerate(self.choices[:10])}
        for number, pane in enumerate(panes):
            pane.display = self._first <= number < self._first + fit
            pane.set_class(number == self._first, "-first")
            pane.set_class(number == self.at, "-focused")
            if pane.display:
                if number < len(columns):
                    self._in_sight.append((pane, number))
                    self._column(pane, number)
                elif turn is not None:
                    self._reference(pane, turn)
        self._tell_aside(fit, total)
        if before != [pane.display for pane in panes]:
            self.call_after_refresh(self.changed)  # now they have their widths

    def grew(self) -> None:
        for pane, number in self._in_sight:
            self._column(pane, number)

    def _head(self) -> None:
        status, ascii = self.talk.status, self.app.ascii
        words, wrong = self.words, self.lost
        if self.link is not None and status is not None:
            words = f"{self.link.label}: {status.base}, {status.quantization}"
            if status.run is not None:
                words += f", trains, step {status.step or 0:,} of {status.steps or 0:,}"
            elif status.bytes_used:
                words += f", {size(status.bytes_used)}"
        elif words and not self.starting:
            words += "; a prompt starts one anew (S, too)"
        elif not words:
            words = "no session yet: a prompt starts one (S, too); it loads the base once for all columns"
        if self.notice or self.talk.problem:
            words, wrong = self.notice or self.talk.problem, wrong
        modes = "" if self.mode == "text" else f"{self.mode}: {shown.MODES[self.mode]}"
        dot = " - " if ascii else " · "
        line = dot.join(p for p in (one_line(words), self.comparison.sampling.words, modes) if p)
        if (line, wrong) != self._told_head:
            self._told_head = line, wrong
            head = self.query_one("#head", Static)
            head.update(Content(line))
            head.set_class(wrong, "-wrong")

    def _column(self, pane: AnswerPane, number: int) -> None:
        choice, comparison, ascii = self.comparison.columns[number], self.comparison, self.app.ascii
        answer, rival = comparison.answer(number), self._rival(choice)
        held = self.talk.held(choice)
        digit = self._digits.get(choice.name, "-")
        title = shown.title(digit, choice, held, answer, self._state(choice), max(8, pane.size.width - 2))
        blocks: list[Block] = []
        other = self._neighbour(number)
        for turn in comparison.turns:
            last = turn is comparison.turn
            mine, theirs = turn.answers.get(choice.name), turn.answers.get(other.name) if other else None
            mode = self.mode if last or self.mode == "diff" else "text"
            key = (id(turn), choice.name, mode, ascii, *_mark(mine), *(_mark(theirs) if mode == "diff" else ()), rival)
            blocks.append(((id(turn), "prompt"), lambda turn=turn: shown.prompt_runs(turn, ascii), True))
            blocks.append((key, lambda a=mine, t=theirs, mode=mode: shown.answer_runs(a, mode, t, rival, ascii), False))
        if not blocks:
            blocks.append(("empty", lambda: [("Write a prompt below; Enter asks all columns at once.", "note")], False))
        pane.show(title, blocks, shown.proof(answer, ascii))

    def _state(self, choice: Choice) -> str:
        """Words for a column's title."""
        if self.talk.loading(choice):
            return "loading"
        held = self.talk.held(choice)
        if held is None:
            return "" if choice.name == BASE_CHOICE.name or not self.talk.connected else "not loaded"
        words = []
        if held.training:
            step = self.talk.status.step if self.talk.status is not None else None
            words.append(f"training, step {step or 0:,}")
        if held.alone:
            words.append(f"answers after the others: {cut(one_line(held.alone), 40)}")
        return ", ".join(words)

    def _rival(self, choice: Choice) -> str:
        """The model whose probabilities stand beside a choice's own: base, or for base the next one shown."""
        if choice.model is not None:
            return BASE_CHOICE.name
        return next((c.name for c in self.comparison.shown if c.model is not None), BASE_CHOICE.name)

    def _neighbour(self, number: int) -> Choice | None:
        """The column that another is compared with word by word: the first one, or for that the second."""
        columns = self.comparison.columns
        return columns[0] if number else columns[1] if len(columns) > 1 else None

    def _reference(self, pane: AnswerPane, turn: Turn) -> None:
        focused = self.comparison.columns[self.comparison.focused]
        adapter = focused if focused.model is not None else next(
            (c for c in self.comparison.shown if c.model is not None), BASE_CHOICE
        )  # fmt: skip
        ascii, numbers = self.app.ascii, self.mode == "numbers"
        key = ("reference", id(turn), adapter.name, numbers, ascii, tuple(turn.reference_scores))
        block: Block = (key, lambda: shown.reference_runs(turn, adapter.name, ascii, numbers=numbers), False)
        pane.show(cut(f"reference, {one_line(turn.where)}", max(8, pane.size.width - 2)), [block], [])

    def _tell_aside(self, fit: int, total: int) -> None:
        """Status bar and inspector."""
        comparison, status = self.comparison, self.talk.status
        choice = comparison.columns[comparison.focused]
        place = f"column {self.at + 1} of {total}" + (
            f", {self._first + 1} to {self._first + fit} shown" if fit < total else ""
        )
        self.told = f"{place}: {one_line(choice.label)}" if self.at < len(comparison.columns) else f"{place}: reference"
        lines = [Content.styled("Comparison", "bold")]
        for digit, c in enumerate(self.choices[:10]):
            held = "" if c.model is None or self.talk.ready(c) else "  (on disk)"
            lines.append(Content(f"{digit} {one_line(c.label)}{held}"))
        lines.append(Content(""))
        if status is not None:
            lines.append(Content(f"base {one_line(status.base)}, {status.quantization}"))
            lines.append(Content(f"process {status.pid}, {size(status.bytes_used)}"))
        values = comparison.sampling.values
        lines += [Content(f"{name.replace('_', ' ')}: {'as the project says' if v is None else format(v, 'g')}")
                  for name, v in values.items()]  # fmt: skip
        self.inspected = Content("\n").join(lines)


def _mark(answer: Answer | None) -> tuple:
    """What the look of an answer depends on."""
    if answer is None:
        return (None,)
    return id(answer), answer.state, len(answer.text), len(answer.tokens), tuple(answer.scores)
