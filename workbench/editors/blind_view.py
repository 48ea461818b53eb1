"""A blind test: two answers to the same prompt as A and B, and a person who says which is better without knowing whose.

The answers are shown when both are there, so that neither order nor speed tells who is who; the next pair is answered
while this one is read. A verdict is in the test's file before its names are on the screen (`engine.blind`).
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine.blind import BlindTest, Verdict
from engine.errors import EngineError
from engine.text import cut, one_line
from workbench import actions
from workbench.editors.base import Editor
from workbench.editors.compare_rows import RowPrompts
from workbench.editors.compare_session import SessionTalk
from workbench.models import blind, compare
from workbench.models import compare_text as shown
from workbench.models.blind import Trial, Wish
from workbench.models.compare import Comparison
from workbench.widgets.answer_pane import AnswerPane, Block


class BlindView(RowPrompts, SessionTalk, Editor):
    """Attributes: trial: the test, None until it is there. wish: one that is being made of unseen rows."""

    HELP = (
        "Two answers to the same prompt, in an order tossed for each pair. a: A is better, b: B is, = they are as good. "
        "The verdict is kept at once, then the names appear; n or Enter goes on to the next pair. The tally has an exact "
        "two-sided sign test. The test is stored with the run and goes on where it was left, also after a restart."
    )
    SCOPES: ClassVar = ("blind",)
    BINDINGS: ClassVar = actions.bindings("blind")
    DEFAULT_CSS = """
    BlindView { layout: vertical; }
    BlindView > #head { height: auto; max-height: 4; padding: 0 1; }
    BlindView > #prompt { height: auto; max-height: 8; padding: 0 1; color: $text-primary; text-style: bold; }
    BlindView > #columns { height: 1fr; width: 1fr; }
    """

    class Opened(Message):
        """A test is there, or not."""

        def __init__(self, test: BlindTest | None, problem: str = "") -> None:
            super().__init__()
            self.test, self.problem = test, problem

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.comparison = Comparison()
        self.begin(self.comparison)
        self.begin_rows()
        self.trial: Trial | None = None
        self.wish: Wish | None = None
        self._rows_found: list[str] = []
        self._said = ""
        self._wanted = False  # a tab that came back by itself starts no session

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="prompt", markup=False)
        with Horizontal(id="columns"):
            yield AnswerPane(0)
            yield AnswerPane(1)

    def on_mount(self) -> None:
        self.heading = f"blind {self.target}"
        self.app.workspace_changed.subscribe(self, lambda _: self._resume())
        self._resume()
        self.look()
        self.changed()

    def on_unmount(self) -> None:
        self.end()
        self.end_rows()

    def focus_first(self) -> None:
        self.query(AnswerPane).first().area.focus()

    def on_resize(self) -> None:
        self.changed()

    # --- which test

    def reveal(self, place: Any) -> None:
        """A `Wish`: make that test; the path of a test's file: go on with it."""
        self._wanted = True
        if isinstance(place, Wish):
            self.trial, self.wish, self._rows_found = None, place, []
            self.comparison.sampling = place.sampling
            if place.prompts:
                self._make(place.prompts, raw=place.sampling.raw)
            else:
                self._at = 0
                self.step_row(1)
        elif isinstance(place, Path):
            self._open(place)
        self.changed()

    def _resume(self) -> None:
        """The newest test of the project, where none is in front."""
        if self.trial is None and self.wish is None:
            path = blind.newest_test(self.app.snapshot, self.target)
            if path is not None:
                self._open(path)

    def _open(self, path: Path) -> None:
        self._work(lambda: BlindTest.open(path))

    def asks_row(self, prompt: str, reference: str, where: str) -> None:
        """A row of the data for the test that is being made."""
        wish = self.wish
        if wish is None or self.trial is not None:
            return
        self._rows_found.append(prompt)
        if len(self._rows_found) < wish.count:
            self.step_row(1)
        else:
            self._make(tuple(self._rows_found), raw=True)

    def row_words(self, words: str) -> None:
        self._said = words
        if self.wish is not None and self._rows_found and ("no further" in words or "there is no row" in words):
            self._make(tuple(self._rows_found), raw=True)
        self.changed()

    def _make(self, prompts: tuple[str, ...], *, raw: bool) -> None:
        wish = self.wish
        assert wish is not None
        run = next((r for c in wish.choices if (r := blind.run_of(c)) is not None), None)
        if run is None:
            self.wish, self._said = None, "a blind test needs an adapter that is stored: it is kept with its run"
            self.changed()
            return
        names, known = (wish.choices[0].name, wish.choices[1].name), self._known

        def make() -> BlindTest:
            from workbench.models.adapters import inspected

            infos = [inspected(c.path, known)[0] if c.path is not None else None for c in wish.choices]
            hashes = tuple(i.sha256 if i is not None else "" for i in infos)
            settings = blind.settings_of(wish.sampling, raw)
            return BlindTest.create(run, names, prompts, random.getrandbits(31), sha256=hashes, settings=settings)  # type: ignore[arg-type]

        self._work(make)

    def _work(self, make: Any) -> None:
        def work() -> None:
            try:
                self.post_message(self.Opened(make()))
            except (EngineError, OSError) as error:
                self.post_message(self.Opened(None, str(error)))

        self.run_worker(work, thread=True, exit_on_error=False, group="test", exclusive=True)

    def on_blind_view_opened(self, event: Opened) -> None:
        event.stop()
        if event.test is None:
            self._said = event.problem
        else:
            by_name = {c.name: c for c in compare.everything(self.app.snapshot, self.target, None)}
            first, second = (by_name.get(name) for name in event.test.plan.models)
            if first is None or second is None:
                self._said = f"{' or '.join(event.test.plan.models)} is not in this workspace any more"
            else:
                self._said = ""
                self.trial = Trial(event.test, (first, second))
                self.comparison.columns = [first, second]
                self.comparison.sampling = blind.sampling_of(event.test.plan.settings)
                self.end_rows()
        self.wish = None
        self.changed()

    # --- asking

    def _ask(self, pair: int) -> None:
        """Have a pair answered, where it is not yet; a session is started where none is there."""
        trial = self.trial
        if trial is None or pair >= len(trial.test.plan.prompts) or self.talk.busy:
            return
        turn = trial.turn(pair)
        if trial.answers(pair) is None:
            self.comparison.turns = [turn]
            self.talk.ask(turn, trial.choices)
            if not self.talk.connected:
                self.wake()

    def finished(self) -> None:
        """This pair is there: the next one is answered while it is read."""
        trial = self.trial
        if trial is not None and trial.pair is not None and trial.answers(trial.pair) is not None:
            following = next((p for p in range(trial.pair + 1, len(trial.test.plan.prompts))), None)
            if following is not None and not trial.problem(following):
                self._ask(following)

    # --- what is shown

    def changed(self) -> None:
        if not self.is_mounted or not self.size.width:
            return
        trial = self.trial
        panes = list(self.query(AnswerPane))
        pair = trial.pair if trial is not None else None
        if trial is None or pair is None:
            words = self._result(trial) if trial is not None else self._said or self.words
            self._show(words or "no blind test yet: b in the comparison makes one", "")
            for pane, name in zip(panes, "AB", strict=True):
                pane.show(name, [], [])
            return
        answers, problem = trial.answers(pair), trial.problem(pair)
        prompt = cut(one_line(trial.test.plan.prompts[pair]), 600)
        count = f"pair {len(trial.test.judged) + (trial.verdict is None)} of {len(trial.test.plan.prompts)}"
        if trial.verdict is not None:
            judged = trial.verdict
            better = "as good" if judged.winner is None else f"{blind.who(judged.winner)} was better"
            tally = blind.tally_words(trial.test.tally(), trial.test.plan.models)
            self._show(f"{count}: {better}. {tally}. n: the next pair", prompt)
        elif answers is None and problem:
            self._show(f"{count}: {problem}; n asks again", prompt)
        elif answers is None and not (self._wanted or self.talk.connected):
            self._show(f"{count}: n goes on with it; a session is started for that", prompt)
        elif answers is None:
            self._show(f"{count}: both are answering. {self.words}".strip(), prompt)
            if not trial.turn(pair).answers:
                self.call_later(self._ask, pair)
        else:
            same = " (the two are the same, word for word)" if answers[0] == answers[1] else ""
            self._show(f"{count}: which is better? a, b, or = where they are as good{same}", prompt)
        texts = trial.test.sides(pair, answers) if answers is not None else ("", "")
        names = (trial.verdict.a, trial.verdict.b) if trial.verdict is not None else ("", "")
        for pane, letter, text, name in zip(panes, "AB", texts, names, strict=True):
            block: Block = ((pair, text), lambda text=text: [(text[: shown.LONGEST], "")], False)
            pane.show(f"{letter}: {one_line(name)}" if name else letter, [block], [])
            pane.set_class(letter == "A", "-first")

    def _show(self, head: str, prompt: str) -> None:
        self.query_one("#head", Static).update(Content(one_line(head)))
        self.query_one("#prompt", Static).update(Content(f"> {prompt}" if prompt else ""))
        trial = self.trial
        self.told = f"{len(trial.test.judged)} of {len(trial.test.plan.prompts)} judged" if trial is not None else ""

    def _result(self, trial: Trial) -> str:
        tally = blind.tally_words(trial.test.tally(), trial.test.plan.models)
        return f"all {len(trial.test.plan.prompts)} pairs are judged: {tally}"

    # --- verdicts

    async def _judge(self, verdict: Verdict) -> None:
        trial = self.trial
        if trial is None or trial.pair is None or trial.verdict is not None:
            return
        answers = trial.answers(trial.pair)
        if answers is None:
            raise LookupError("both have to have answered first")
        trial.verdict = await asyncio.to_thread(trial.test.judge, trial.pair, verdict, answers)
        self.changed()

    async def act_blind_a(self) -> None:
        await self._judge("a")

    async def act_blind_b(self) -> None:
        await self._judge("b")

    async def act_blind_equal(self) -> None:
        await self._judge("=")

    def act_blind_next(self) -> None:
        trial = self.trial
        self._wanted = True
        if trial is None or trial.pair is None:
            return
        if trial.verdict is not None:
            trial.go_on()
        elif trial.problem(trial.pair) and not self.talk.busy:
            trial.turns.pop(trial.pair)
        self.changed()
