"""The part of `browse` that needs the whole project and its tokenizer: rows as the model will see them, what becomes
of all rows, how long they are, which stand on both sides.

torch is kept out of the process: transformers loads the same tokenizer without it, in a fifth of the time.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.rows.formats import Refusal, Row
from engine.rows.ledger import Ledger
from engine.rows.shapes import RowError, convert
from engine.rows.sources import Sources
from engine.store import Workspace
from engine.tables import Project
from engine.tokens import shown, survey
from engine.tokens.dataset import fitted
from engine.tokens.survey import Survey

NOTE_SECONDS = 0.25
BINS = 20
MOST_PIECES = 4096
"""Tokens of a row that are listed one by one."""
LISTED = 1000
"""Refused rows and shared rows that are listed."""


class Measuring:
    """Answers for one project as it is on disk now.

    Args:
        send: takes a note about progress.
    """

    def __init__(self, root: Path, project: str, sources: Sources, send: Callable[[dict[str, Any]], None]) -> None:
        self.workspace, self.name, self.sources, self.send = Workspace(root), project, sources, send
        self._opening, self._tokenising, self._surveying = threading.Lock(), threading.Lock(), threading.Lock()
        self._project: Project | None = None
        self._tokenizer: Any = None
        self._survey: Survey | None = None

    @property
    def project(self) -> Project:
        """Raises SpecError: the project file is wrong."""
        with self._opening:
            if self._project is None:
                self._project = self.workspace.project(self.name).load()
            return self._project

    @property
    def tokenizer(self) -> Any:
        """Raises InputError: there is none."""
        project = self.project
        with self._opening:
            if self._tokenizer is None:
                self._tokenizer = _load_tokenizer(project, self.workspace)
            return self._tokenizer

    # --- a row

    def row(self, split: str, number: int) -> dict[str, Any]:
        """A row as the model will see it: see `shown.document`; also

        length: its tokens before anything is cut; pieces: [text, weight, id] of each token, none where there are too
        many; refused: why it is not used, else null (then nothing else is there but where and number).
        """
        raw = self._raw(split, number)
        document: dict[str, Any] = {"split": split, "number": number, "where": raw.where, "refused": None}
        if isinstance(raw, Refusal):
            return {**document, "refused": raw.reason}
        train, tokenizer = self.project.train, self.tokenizer
        look = self._look()
        if look.shape is None:
            raise InputError(self.sources.shape[1] or "the shape of the rows is not known")
        try:
            item = convert(raw, look.shape)
            with self._tokenising:
                ids, weights = look.encoder.encode(look.template.render(item))
            document["length"] = len(ids)
            overlong = "cut" if train.overlong == "stop" else train.overlong
            example = fitted(ids, weights, raw.where, item, train.max_length, overlong)
        except RowError as error:
            return {**document, "refused": error.reason}
        with self._tokenising:
            told = shown.document(tokenizer, split, example)
            few = len(example) <= MOST_PIECES
            texts = shown.pieces(tokenizer, example.ids.tolist()) if few else []
        weights = [0.0, *told.pop("weights")[1:]]
        told.pop("text")
        pieces = [list(each) for each in zip(texts, weights, told.pop("ids"), strict=False)] if few else None
        return {**document, **told, "pieces": pieces, "max_length": train.max_length}

    def _raw(self, split: str, number: int) -> Row | Refusal:
        table = self.sources.table(split)
        while (found := table.row(number)) is None:
            if table.complete or not table.work():
                found = table.row(number)
                break
        if found is None:
            raise InputError(f"there is no row {number:,}", where=table.source.path_or_hub)
        return found

    # --- all rows

    def _look(self) -> Survey:
        """The survey, begun or not."""
        project, tokenizer = self.project, self.tokenizer
        with self._opening:
            if self._survey is None:
                self._survey = Survey(project, self.workspace, tokenizer, self._tokenising)
                self._survey.shape = self.sources.shape[0]
            return self._survey

    def _measured(self) -> Survey:
        """The survey, finished. Notes tell how far it is."""
        look = self._look()
        last = last_lengths = time.monotonic()

        def tell() -> None:
            nonlocal last, last_lengths
            now = time.monotonic()
            if look.finished or now - last < NOTE_SECONDS:
                return
            last, note = now, self._progress(look)
            if now - last_lengths >= 4 * NOTE_SECONDS and look.stage == "tokenise":
                last_lengths, note["lengths"] = now, self._lengths(look, BINS)
            self.send({"note": "survey", **note})

        with self._surveying:
            if not look.finished:
                self.send({"note": "survey", **self._progress(look)})
                look.run(tell)
        return look

    def _progress(self, look: Survey) -> dict[str, Any]:
        ledgers = {name: numbers(each) for name, each in look.ledgers().items()}
        return {
            "stage": look.stage, "done": look.done, "total": look.total, "ledgers": ledgers,
            "unseen": None if look.unseen is None else len(look.unseen),
        }  # fmt: skip

    def ledger(self) -> dict[str, Any]:
        """What became of all rows: `Ledger.to_json` of each side, shape, template, why `train` would stop."""
        look = self._measured()
        sides = {name: each.to_json() for name, each in look.ledgers().items()}
        data, stops = self.project.data, look.stops
        over = [n for n, s in look.sides.items() if s.ledger.refused > data.max_refused * s.ledger.read]
        return {
            "sides": sides, "shape": look.shape.describe() if look.shape else None, "template": look.template.kind,
            "max_refused": data.max_refused, "too_many_refused": over,
            "stops": None if stops is None else {"problem": stops.problem, "where": stops.where, "remedy": stops.remedy},
            "unseen": None if look.unseen is None else len(look.unseen),
        }  # fmt: skip

    def lengths(self, bins: int) -> dict[str, Any]:
        """Lengths in tokens of each side before anything is cut: rows, spread, over-long rows, histogram."""
        return self._lengths(self._measured(), bins)

    def _lengths(self, look: Survey, bins: int) -> dict[str, Any]:
        limit = self.project.train.max_length
        sides: dict[str, Any] = {}
        for name, side in look.sides.items():
            found = np.array(side.lengths, np.uint32)  # a copy: the array may be growing
            told: dict[str, Any] = {"rows": len(found), "over": int((found > limit).sum()), "tokens": side.tokens}
            told["supervised"] = side.supervised
            if len(found):
                told |= survey.spread(found) | {"mean": round(float(found.mean()), 1)}
                told["bins"] = survey.histogram(found, limit, bins)
            sides[name] = told
        return {"max_length": limit, "overlong": self.project.train.overlong, "sides": sides}

    def overlap(self) -> dict[str, Any]:
        """Unseen rows that stand among the training rows: how many, of how many, and the first with their places."""
        look = self._measured()
        unseen = look.sides["test"].ledger if "test" in look.sides else None
        pairs = []
        for train, test in look.shared[:LISTED]:
            rows = self._raw("train", train), self._raw("test", test)
            text = " ".join(map(str, rows[1].fields.values())) if isinstance(rows[1], Row) else ""
            pairs.append({"train": train, "test": test, "train_where": rows[0].where, "test_where": rows[1].where,
                          "text": text[:200]})  # fmt: skip
        return {"count": look.shared_count, "unseen": unseen.read if unseen else None, "pairs": pairs}

    # --- marks, and the rows that data.test_fraction keeps

    def marks(self, split: str, wanted: list[int]) -> dict[str, Any]:
        """[what became of it, length in tokens] of rows by number; null where it is not known."""
        look = self._survey
        rows = look.rows.get("train" if self.sources.shares_rows(split) else split) if look else None
        if look is None or rows is None:
            return {"marks": [None] * len(wanted), "finished": False}
        known = len(rows.fates) if look.stage == "tokenise" else 0
        marks = [
            [fate_words(rows.fates[n - 1]), rows.lengths[n - 1]] if n <= known else
            [["unused"], 0] if look.finished else None
            for n in wanted
        ]  # fmt: skip
        return {"marks": marks, "finished": look.finished}

    def unseen_rows(self, start: int, count: int, width: int) -> dict[str, Any]:
        """As `Sources.page`, of the rows that data.test_fraction keeps; none until they are chosen."""
        look = self._survey
        if look is None or look.unseen is None:
            return {"start": start, "rows": [], "known": 0, "complete": False}
        rows = [self.sources.shown(self._raw("train", n), n, "train", width) for n in look.unseen[start - 1 :][:count]]
        return {"start": start, "rows": rows, "known": len(look.unseen), "complete": True}


def fate_words(fate: int) -> list[str]:
    """What became of a row: kept, cut or refused, then unseen, repeated, shared where they are so."""
    words = ["cut" if fate & survey.CUT else "kept" if fate & survey.KEPT else "refused"]
    more = ((survey.UNSEEN, "unseen"), (survey.REPEATED, "repeated"), (survey.SHARED, "shared"))
    return words + [word for bit, word in more if fate & bit]


def numbers(ledger: Ledger) -> dict[str, int]:
    """A ledger's numbers alone."""
    names = ("read", "kept", "cut", "refused", "duplicates", "nothing_to_learn")
    return {name: getattr(ledger, name) for name in names}


def _load_tokenizer(project: Project, workspace: Workspace) -> Any:
    if not project.model.trust_remote_code and "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed", for this process
    from engine.models.tokenizer import quiet, tokenizer_of

    quiet()
    return tokenizer_of(project, workspace)[1]
