"""One prompt, several models, one batch: every column gets its next token from the same forward pass.

    columns        base        a          b                  proof: base's and each model's next token after the prompt
    prompts        ids         ids        ids     enter  ->  logits of each row  ->  a token each, streamed
                                                  step   ->  ...

Comes from: prompts of the session and of `loraworkbench generate`. Goes to: whoever drives it, a token a column at each
`advance`. A column's text is what its model says alone: rows do not see each other, and each draws its own random
numbers from the seed. Adapters that cannot share a batch (see `lanes.cannot_share`) are answered one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from engine.errors import InputError
from engine.generation.answering import Answer, OnToken, Settings, Writing, divergence, next_logits
from engine.generation.decoding import Rows, inference, rows_for
from engine.generation.sampling import choose
from engine.models.lanes import Lanes, cannot_share, lanes
from engine.models.loaded import Loaded
from engine.models.loss import token_nll

OnPiece = Callable[[int, int, float], None]
"""(column, token, its log-probability in nats under the column's own model) -> None."""


@dataclass(frozen=True, slots=True)
class Column:
    """Who is asked what. `model` None is the base; `prompt` is token ids, of at least one."""

    model: str | None
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One model's answer, with the proof of whose it is.

    Attributes:
        model: the adapter's name; None is the base.
        digest: of the adapter's file; "" for the base.
        largest_logit_difference: from base, over the vocabulary, for the token after the prompt.
        kl: KL(model || base) of that token's distribution, in nats.
        changed: any logit differs; False means that the adapter did nothing to this prompt.
    """

    model: str | None
    answer: Answer
    digest: str
    largest_logit_difference: float
    kl: float
    changed: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """How far a model's next token after the prompt is from base's: see `Compared`."""

    largest_logit_difference: float
    kl: float
    changed: bool


class Part:
    """Columns that are answered in one batch.

    Attributes:
        places: of the columns, among all that were asked. proofs: one a column, once the prompts have been read.
    """

    def __init__(
        self,
        loaded: Loaded,
        places: Sequence[int],
        columns: Sequence[Column],
        settings: Settings,
        on_piece: OnPiece | None,
    ) -> None:
        self.loaded, self.settings, self.on_piece = loaded, settings, on_piece
        ordered = sorted(zip(places, columns, strict=True), key=lambda pair: pair[1].model or "")
        self.places = [place for place, _ in ordered]
        self.columns = [column for _, column in ordered]
        self.writing = [Writing(0, c.prompt, settings, loaded) for c in self.columns]
        self.inside: list[int] = []
        self.proofs: list[Proof] = []
        self._rows: Rows | None = None

    @property
    def done(self) -> bool:
        return self._rows is not None and all(w.done for w in self.writing)

    def advance(self, assigned: Lanes | None) -> None:
        """One token for every column that is not done; at first the prompts are read, and the proof is made.

        Args:
            assigned: the lanes of the batch; None where the active adapter is the one column's (`alone`).

        Raises:
            WorkFailed: the model's scores are not numbers.
        """
        if self._rows is None:
            self._enter(assigned)
            return
        going = [i for i in self.inside if not self.writing[i].done]
        if len(going) < len(self.inside):
            self._rows.keep([self.inside.index(i) for i in going])
            self.inside = going
        self._assign(assigned, [self.columns[i].model for i in self.inside])
        self._take(self.loaded.head(self._rows.step([self.writing[i].tokens[-1] for i in self.inside])))

    def _enter(self, assigned: Lanes | None) -> None:
        """Read all prompts, and those of other models by the base as well."""
        self._rows = rows_for(self.loaded)
        prompts = dict.fromkeys(c.prompt for c in self.columns)
        asked = [Column(None, p) for p in prompts] if assigned is not None else []
        asked += [c for c in self.columns if c.model is not None or assigned is None]
        self._assign(assigned, [c.model for c in asked])
        logits = self.loaded.head(self._rows.enter([c.prompt for c in asked]))
        at = [asked.index(c) for c in self.columns]
        if assigned is not None:
            base = [asked.index(Column(None, c.prompt)) for c in self.columns]
            self.proofs = [prove(logits[own], logits[other]) for own, other in zip(at, base, strict=True)]
        self._rows.keep(at)
        self.inside = list(range(len(self.columns)))
        self._take(logits[at])

    def _assign(self, assigned: Lanes | None, models: list[str | None]) -> None:
        if assigned is not None:
            assigned.assign(models)

    def _take(self, logits: torch.Tensor) -> None:
        how = self.settings
        uniforms = [self.writing[i].uniform for i in self.inside]
        tokens = choose(logits, how.temperature, how.top_k, how.top_p, uniforms)
        chosen = logits.float().log_softmax(-1)[range(len(tokens)), tokens].tolist()
        for i, token, logprob in zip(self.inside, tokens, chosen, strict=True):
            if not self.writing[i].done:
                self.writing[i].take(token, how.stop_ids, None)
                if not self.writing[i].stopped and self.on_piece is not None:
                    self.on_piece(self.places[i], token, logprob)

    def forget(self) -> None:
        self._rows = None

    def answers(self) -> dict[int, Answer]:
        """By place, of what has been written so far."""
        return {p: w.answer(self.loaded.tokenizer) for p, w in zip(self.places, self.writing, strict=True)}


def prove(logits: torch.Tensor, base: torch.Tensor) -> Proof:
    """How far `logits` are from base's, (vocabulary,) each."""
    difference = float((logits.float() - base.float()).abs().max())
    return Proof(difference, divergence(logits, base), difference > 0.0)


class Together:
    """A question to several models: what shares a batch, and what has to go alone.

    Raises:
        KeyError: a column's adapter is not attached.
        InputError: a prompt has no tokens.
    """

    def __init__(
        self, loaded: Loaded, columns: Sequence[Column], settings: Settings, on_piece: OnPiece | None = None
    ) -> None:
        if empty := [i for i, c in enumerate(columns) if not c.prompt]:
            raise InputError(f"the prompt of column {empty[0] + 1} is empty: there is nothing to continue")
        self.loaded, self.columns = loaded, list(columns)
        self.reasons = {c.model: cannot_share(loaded, c.model) for c in columns}
        places = range(len(columns))
        sharing = [i for i in places if self.reasons[columns[i].model] is None]
        part = lambda chosen: Part(loaded, chosen, [columns[i] for i in chosen], settings, on_piece)  # noqa: E731
        self.shared = part(sharing) if sharing else None
        self.alone = [part([i]) for i in places if i not in sharing]

    def advance(self, assigned: Lanes) -> bool:
        """A token for each column of the shared batch; False when it is done. Inside `inference` and `lanes`."""
        if self.shared is not None and not self.shared.done:
            self.shared.advance(assigned)
        return self.shared is not None and not self.shared.done

    def advance_alone(self) -> Iterator[None]:
        """The columns that go alone, one after the other; pauses after each token. Inside `inference`."""
        for part in self.alone:
            (column,) = part.columns
            with self.loaded.using(None):
                base = next_logits(self.loaded, column.prompt)
            with self.loaded.using(column.model):
                part.proofs = [prove(next_logits(self.loaded, column.prompt), base)]
                while not part.done:
                    part.advance(None)
                    yield

    def forget(self) -> None:
        """Let go of what the model remembers of these texts; nothing can be written any more."""
        for part in [*([self.shared] if self.shared else []), *self.alone]:
            part.forget()

    def results(self, digests: Mapping[str, str]) -> dict[int, Compared]:
        """Each column's answer so far with its proof, by place; columns whose prompt has not been read are missing.

        Raises:
            KeyError: an adapter has no digest.
        """
        found: dict[int, Compared] = {}
        for part in [*([self.shared] if self.shared else []), *self.alone]:
            answers = part.answers()
            for place, column, proof in zip(part.places, part.columns, part.proofs, strict=False):
                digest = "" if column.model is None else digests[column.model]
                found[place] = Compared(
                    column.model, answers[place], digest, proof.largest_logit_difference, proof.kl, proof.changed
                )
        return dict(sorted(found.items()))


def compare(
    loaded: Loaded,
    models: Sequence[str | None],
    prompt: Sequence[int],
    settings: Settings,
    digests: Mapping[str, str],
    on_token: OnToken | None = None,
) -> list[Compared]:
    """The same prompt answered by several models at once, with the same random numbers.

    Args:
        models: adapters by name; None is the base.
        digests: of each adapter's file, by name (`adapters.inspect`).
        on_token: called with (place in `models`, token).

    Raises:
        KeyError: an adapter that is not attached, or has no digest.
        InputError, WorkFailed: see `answering.complete`.
    """
    missing = [name for name in models if name is not None and name not in digests]
    if missing:
        raise KeyError(missing[0])
    piece = None if on_token is None else lambda place, token, _: on_token(place, token)
    asked = Together(loaded, [Column(name, tuple(prompt)) for name in models], settings, piece)
    with inference(loaded):
        with lanes(loaded) as assigned:
            while asked.advance(assigned):
                pass
        for _ in asked.advance_alone():
            pass
    return list(asked.results(digests).values())


def score(loaded: Loaded, models: Sequence[str | None], ids: Sequence[int], first: int) -> list[list[float]]:
    """The log-probability of each token from `first` on under each model, in nats: (models, tokens).

    Args:
        ids: a whole text. first: where what is scored begins, at least 1.

    Raises:
        KeyError: an adapter is not attached.
    """
    rows: dict[str | None, list[float]] = {}
    sharing = sorted({m for m in models if cannot_share(loaded, m) is None}, key=lambda m: m or "")
    with inference(loaded):
        if sharing:
            with lanes(loaded) as assigned:
                assigned.assign(sharing)
                rows |= dict(zip(sharing, _logprobs(loaded, ids, first, len(sharing)), strict=True))
        for model in {m for m in models if m not in rows}:
            with loaded.using(model):
                rows[model] = _logprobs(loaded, ids, first, 1)[0]
    return [rows[m] for m in models]


def _logprobs(loaded: Loaded, ids: Sequence[int], first: int, rows: int) -> list[list[float]]:
    batch = torch.tensor([list(ids)] * rows, device=loaded.device)
    hidden = loaded.decoder(input_ids=batch, use_cache=False).last_hidden_state[:, first - 1 : -1]
    targets = batch[:, first:].reshape(-1)
    nll = token_nll(hidden.reshape(-1, hidden.shape[-1]), targets, loaded.head)
    return (-nll).reshape(rows, -1).tolist()
