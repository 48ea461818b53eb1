"""What a model answered while it was trained: the answers of one step, and steps to go through."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from engine.events import Sample
from engine.text import printable
from workbench import actions

LONGEST = 4000
"""Characters of a prompt or an answer that are shown."""


class SamplesView(Vertical):
    """The newest answers, until the user goes back."""

    HELP = "Left and right (h, l) go to the answers of earlier and later steps; j and k scroll."
    SCOPES: ClassVar = ("samples",)
    BINDINGS: ClassVar = actions.bindings("samples")
    DEFAULT_CSS = """
    SamplesView { height: 1fr; width: 1fr; }
    SamplesView > #where { height: 1; color: $text-muted; }
    SamplesView > VerticalScroll { height: 1fr; }
    SamplesView #answers { height: auto; width: 1fr; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._by_step: dict[int | None, list[Sample]] = {}
        self._step: int | None = None
        self._follow = True
        self._shown: object = None

    def compose(self) -> ComposeResult:
        yield Static("", id="where", markup=False)
        with _Answers():
            yield Static("", id="answers", markup=False)

    def show(self, samples: Iterable[Sample]) -> None:
        """Take all samples there are."""
        found: dict[int | None, list[Sample]] = {}
        for sample in samples:
            found.setdefault(sample.step, []).append(sample)
        self._by_step = found
        if self._follow or self._step not in found:
            self._step = next(reversed(found), None)
        self._draw()

    @property
    def count(self) -> int:
        return sum(map(len, self._by_step.values()))

    def go(self, by: int) -> None:
        """The step before (-1) or after (1)."""
        steps = list(self._by_step)
        if steps:
            at = min(len(steps) - 1, max(0, steps.index(self._step) + by))
            self._step, self._follow = steps[at], at == len(steps) - 1
            self._draw()
            self.query_one(VerticalScroll).scroll_home(animate=False)

    def go_to(self, step: int) -> None:
        """The answers of the step nearest to `step`."""
        known = [s for s in self._by_step if s is not None]
        if known:
            self._step = min(known, key=lambda s: abs(s - step))
            self._follow = False
            self._draw()

    def _draw(self) -> None:
        state = (self._step, len(self._by_step), len(self._by_step.get(self._step, ())))
        if state == self._shown:
            return
        self._shown = state
        steps = list(self._by_step)
        where, answers = self.query_one("#where", Static), self.query_one("#answers", Static)
        if not steps:
            where.update("")
            answers.update(
                Content.styled("no samples yet: generate.prompts says what is asked at every evaluation", "$text-muted")
            )
            return
        at = steps.index(self._step) + 1
        name = "" if self._step is None else f"step {self._step:,}, "
        where.update(f"{name}{at} of {len(steps)}   (left and right: earlier and later)")
        blocks = []
        for sample in self._by_step[self._step]:
            blocks.append(Content.styled(_shortened(sample.prompt), "$text-muted"))
            blocks.append(Content.styled(_shortened(sample.model) + ": ", "bold") + Content(_shortened(sample.text)))
            blocks.append(Content(""))
        answers.update(Content("\n").join(blocks))

    def act_samples_older(self) -> None:
        self.go(-1)

    def act_samples_newer(self) -> None:
        self.go(1)


class _Answers(VerticalScroll, can_focus=True):
    BINDINGS: ClassVar = [
        Binding("j", "scroll_down", show=False), Binding("k", "scroll_up", show=False),
        Binding("g", "scroll_home", show=False), Binding("G", "scroll_end", show=False),
    ]  # fmt: skip


def _shortened(text: str) -> str:
    """What may be shown of a text: printable, tabs as spaces, not a megabyte of it."""
    more = f"… ({len(text) - LONGEST:,} more characters)" if len(text) > LONGEST else ""
    return printable(text[:LONGEST]).expandtabs(4) + more
