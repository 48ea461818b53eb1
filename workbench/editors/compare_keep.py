"""The part of the compare view that keeps what was said: every comparison goes to the project's transcripts, a good
answer becomes a row of a dataset, all of it can be found again and written out.

Goes to: `engine.transcripts`, in threads.
"""

from __future__ import annotations

import asyncio
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.editors.compare_shown import ComparisonShown
from workbench.models.compare import BASE, Answer, Choice, Turn

if TYPE_CHECKING:
    from engine.transcripts import Entry


class Keeping(ComparisonShown):
    """Mixed into an editor."""

    # --- transcripts

    def keep(self) -> None:
        """Write the last turn's answers to the transcripts, once each time all columns have answered."""
        turn = self.comparison.turn
        if turn is None:
            return
        entry = self.entry_of(turn)
        mark = "\n".join(f"{a.model} {a.step} {a.ended} {a.text}" for a in entry.answers)
        if not entry.answers or mark == turn.kept_as:
            return
        turn.kept_as = mark
        folder = self.app.root / "projects" / self.target

        def work() -> None:
            from engine import transcripts
            from engine.errors import EngineError
            from workbench.jobs.messages import Notice

            try:
                transcripts.append(transcripts.path_of(folder), entry)
            except EngineError as error:
                self.app.post_message(Notice(f"{error.where}: {error.problem}", "This comparison is not kept", "error"))

        self.run_worker(work, thread=True, exit_on_error=False, group="keep")

    def entry_of(self, turn: Turn) -> Entry:
        """A turn as transcripts have it: the answers of the choices that the columns show."""
        from engine.transcripts import Entry

        comparison, status = self.comparison, self.talk.status
        answers, histories = [], []
        for choice in comparison.shown:
            answer = turn.answers.get(choice.name)
            if answer is None or answer.said is None:
                continue
            answers.append(_kept(choice, answer))
            histories.append(comparison.asked(choice, turn).messages[:-1])
        shared = not histories or all(h == histories[0] for h in histories)
        for answer, history in zip(answers, histories, strict=True):
            answer.history = None if shared else history
        settings = {n: v for n, v in comparison.sampling.values.items() if v is not None}
        if turn.seed is not None:
            settings["seed"] = turn.seed
        return Entry(
            turn.prompt, answers, histories[0] if shared and histories else [], turn.raw,
            status.base if status else "", status.quantization if status else "", settings, time.time(),
        )  # fmt: skip

    async def act_compare_transcripts(self) -> None:
        from workbench.modals.transcripts import Transcripts

        entry = await self.app.push_screen_wait(Transcripts(self.app.root, self.target))
        if entry is not None:
            self.take_prompt(entry.prompt)

    def take_prompt(self, prompt: str) -> None:
        """Put a prompt into the box; the editor overrides it."""

    # --- a blind test

    async def act_compare_blind(self) -> None:
        """Make a blind test of the first two columns that differ, or go on with one."""
        from workbench.modals.confirm import AskLine, Choose
        from workbench.models import blind, compare

        snapshot, pair = self.app.snapshot, self.comparison.shown[:2]
        if len(pair) < 2:
            raise LookupError("both columns show the same: choose another adapter in one of them first")
        stored = {c.name: c for c in compare.everything(snapshot, self.target, None)}
        pair = [stored.get(c.name, c) for c in pair]
        if all(blind.run_of(c) is None for c in pair):
            raise LookupError("an adapter in training is not stored yet: a blind test is kept with its run")
        typed = tuple(t.prompt for t in self.comparison.turns if not t.where and t.raw == self.comparison.sampling.raw)
        begun = await asyncio.to_thread(blind.newest_test, snapshot, self.target)
        answers = {"rows": "Unseen rows of the data"}
        if typed:
            answers["typed"] = f"These {len(typed)} prompts" if len(typed) > 1 else "The prompt above"
        if begun is not None:
            answers["old"] = "Go on with the newest test"
        chosen = "rows"
        if len(answers) > 1:
            question = f"A blind test of {pair[0].label} and {pair[1].label}: on which prompts?"
            chosen = await self.app.push_screen_wait(Choose(question, answers))
        place: Any = begun
        if chosen == "typed":
            place = blind.Wish((pair[0], pair[1]), self.comparison.sampling, typed)
        elif chosen == "rows":
            given = await self.app.push_screen_wait(AskLine("How many unseen rows?", f"{blind.PAIRS}", _count_problem))
            place = blind.Wish((pair[0], pair[1]), self.comparison.sampling, count=int(given)) if given else None
        if chosen is not None and place is not None:
            self.app.open(f"blind:{self.target}", place=place)

    # --- a row of a dataset

    async def act_compare_dataset(self) -> None:
        """Add the focused column's answer to a dataset."""
        from engine.transcripts import add_to_dataset
        from workbench.modals.confirm import AskLine

        turn, comparison = self.comparison.turn, self.comparison
        answer = comparison.answer(comparison.focused)
        if turn is None or answer is None or not answer.over or not answer.text.strip():
            raise LookupError("there is no answer in this column to add")
        if turn.where:
            raise LookupError(f"this prompt is a row of the data already: {turn.where}")
        root = self.app.root
        file, columns = await asyncio.to_thread(dataset_of, root, self.target)
        given = await self.app.push_screen_wait(
            AskLine("Add this prompt and answer as a row to (relative to the workspace)", file, _jsonl_problem)
        )
        if given is None:
            return
        path = Path(given) if Path(given).is_absolute() else root / given
        history = comparison.asked(answer.choice, turn).messages[:-1] if not turn.raw else []
        await asyncio.to_thread(add_to_dataset, path, turn.prompt, answer.text, history, columns=columns)
        self.app.notify(f"Added to {given} as its last row: the next run learns from it.", timeout=5, markup=False)
        self.app.watch_workspace.now()


def _kept(choice: Choice, answer: Answer) -> Any:
    """An answer as transcripts have it."""
    from engine.transcripts import Answer as Kept

    said = answer.said
    assert said is not None
    ended = "cancelled" if answer.state == "cut" else "stopped" if said.stopped else "full" if said.full else "cut"
    base = choice.name == BASE
    return Kept(
        choice.name, answer.text, said.sha256, said.step, None, None if base else said.changed,
        None if base else said.largest_logit_difference, None if base else said.kl, said.tokens, said.seconds, ended,
    )  # fmt: skip


def dataset_of(root: Path, project: str) -> tuple[str, dict[str, str]]:
    """The file that answers are added to, relative to the workspace, and the columns that the project names: its own
    training file where that takes rows, else one for its answers."""
    try:
        data = tomllib.loads((root / "projects" / project / "project.toml").read_text(encoding="utf-8")).get("data", {})
    except (OSError, ValueError):
        data = {}
    names = ("prompt_column", "completion_column", "messages_column")
    train = data.get("train", "")
    if isinstance(train, str) and train.endswith(".jsonl") and not train.startswith("hub:"):
        return train, {n: data[n] for n in names if isinstance(data.get(n), str)}
    return f"data/{project}-answers.jsonl", {}


def _count_problem(text: str) -> str | None:
    from workbench.models.blind import MOST_PAIRS

    fits = text.strip().isdecimal() and 1 <= int(text) <= MOST_PAIRS
    return None if fits else f"a whole number from 1 to {MOST_PAIRS}"


def _jsonl_problem(text: str) -> str | None:
    return None if text.strip().endswith(".jsonl") else "rows can be added to JSONL files (their names end in .jsonl)"
