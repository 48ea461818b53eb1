"""The part of the compare view that asks rows of the project's data: their prompts as training sees them, their answers.

The rows are read by the engine, as in the data view (`jobs.rows_client`): unseen ones where the project has some. What
stands before a row's last supervised stretch is the prompt, that stretch the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.jobs.rows_client import ProjectChanged, RowsAnswer, RowsClient, RowsEnded, RowsNote

if TYPE_CHECKING:
    from workbench.editors.base import Editor as _Base
else:
    _Base = object


def question_of(document: dict[str, Any]) -> tuple[str, str] | None:
    """(prompt, reference) of a row as the engine tells it; None where nothing of it is learned."""
    segments = document.get("segments") or []
    last = next((n for n in range(len(segments) - 1, -1, -1) if segments[n]["weight"] > 0), None)
    if last is None:
        return None
    prompt = "".join(s["text"] for s in segments[:last])
    reference = segments[last]["text"]
    ends = [text for text, weight, _ in document.get("pieces") or [] if weight > 0]
    if ends and _special(ends[-1]) and reference.endswith(ends[-1]):
        reference = reference.removesuffix(ends[-1])  # the stop token, which is no text
    return prompt, reference


def _special(text: str) -> bool:
    return len(text) > 2 and text[0] == "<" and text[-1] == ">"


class RowPrompts(_Base):
    """Mixed into an editor. Attributes: rows: the engine's processes, None until a row is asked for."""

    def begin_rows(self) -> None:
        """Called once, before anything else here."""
        self.rows: RowsClient | None = None
        self._split, self._at, self._by = "", 0, 1
        self._of_survey = False
        self._row_words = ""

    def asks_row(self, prompt: str, reference: str, where: str) -> None:
        """A row is there; the editor overrides it."""

    def row_words(self, words: str) -> None:
        """Words about the row that is waited for; the editor overrides it."""

    def step_row(self, by: int) -> None:
        """Ask the next (1) or the previous (-1) unseen row."""
        self._by = by
        at = max(1, self._at + by)
        if at == self._at:
            self.row_words("this is the first row")
            return
        self._at = at
        if self.rows is None:
            self.rows = RowsClient(self.app.root, self.target, self.post_message)
            self.rows.ask("open")
            self.row_words("reading the data")
        elif self._split:
            self._ask_row()

    def end_rows(self) -> None:
        if self.rows is not None:
            self.rows.stop()
            self.rows = None

    def _ask_row(self) -> None:
        assert self.rows is not None
        if self._of_survey:
            self.rows.ask("unseen", start=self._at, count=1, width=40)
        else:
            self.rows.ask("row", split=self._split, number=self._at)
        self.row_words(f"row {self._at:,}: waiting for the tokenizer")

    def on_rows_answer(self, event: RowsAnswer) -> None:
        event.stop()
        if event.client is not self.rows or self.rows is None:
            return
        if event.ok is None:
            if event.do == "row":
                self._at = max(0, self._at - self._by)
            self.row_words(event.problem.words if event.problem else "no answer")
            return
        if event.do == "open":
            splits = event.ok.get("splits", {})
            self._split = "test" if "test" in splits else "train"
            self._of_survey = "fraction" in splits.get("test", {})
            if event.ok.get("shape_problem"):
                self.row_words(event.ok["shape_problem"])
            elif self._of_survey:
                self.rows.ask("ledger")
                self.row_words("finding out which rows are unseen")
            else:
                self._ask_row()
        elif event.do == "ledger":
            self._ask_row()
        elif event.do == "unseen":
            found = event.ok["rows"]
            if found:
                self.rows.ask("row", split="train", number=found[0]["number"])
            else:
                self._at = max(0, self._at - self._by)
                self.row_words("there is no further unseen row")
        elif event.do == "row":
            self._take_row(event.ok)

    def _take_row(self, document: dict[str, Any]) -> None:
        question = None if document.get("refused") is not None else question_of(document)
        if question is None or not question[0]:
            self.row_words(f"{document['where']}: not used: {document.get('refused') or 'it has no prompt'}")
            if self._at > 1 or self._by > 0:
                self.step_row(self._by)
            return
        self.row_words("")
        self.asks_row(*question, document["where"])

    def on_rows_note(self, event: RowsNote) -> None:
        event.stop()

    def on_rows_ended(self, event: RowsEnded) -> None:
        event.stop()
        if event.client is self.rows:
            self.end_rows()
            self._at = max(0, self._at - self._by)
            self.row_words(event.words)

    def on_project_changed(self, event: ProjectChanged) -> None:
        event.stop()
        if event.client is self.rows:
            self.end_rows()
            self._split, self._at = "", 0
