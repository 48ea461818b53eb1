"""Prompts -> answers: batched, sampled so that a seed means the same text whatever else is in the batch, and streamed.

    prompts, longest first -> rows in a batch bounded by tokens -> a token each -> finished rows leave, others enter

Comes from: token ids (`Encoder.prompt`), the [generate] table, a `Loaded` with any adapter active. Goes to:
`evaluation` (exact match), samples while training, `loraworkbench generate`, the session's chat. `decoding` runs the
model, `sampling` chooses tokens and turns them into text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.errors import InputError, WorkFailed
from engine.generation.decoding import inference, rows_for
from engine.generation.sampling import TextStream, choose, decode, draws
from engine.models import memory
from engine.models.loaded import Loaded
from engine.tables import GenerateTable

BATCH_TOKENS = 16384

OnToken = Callable[[int, int], None]
"""(row, token) -> None, as soon as a token is chosen; stop tokens are not reported. It may raise to stop everything."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How texts are generated.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 is greedy. top_k: 0 is all. top_p: 1 is all. See `sampling.choose`.
        stop_ids: tokens that end an answer. stop_texts: texts that do; the answer is cut before them.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What followed a prompt.

    Attributes:
        ids: the tokens chosen, without the stop token (those of a stop text are there).
        text: them as text, special tokens left out, cut before a stop text.
        stopped: it ended by itself, at a stop token or a stop text.
        full: it ended because the model's longest context was reached.
    """

    ids: tuple[int, ...]
    text: str
    stopped: bool
    full: bool = False


def settings_from(table: GenerateTable, loaded: Loaded, stop_text: str) -> Settings:
    """The settings of a [generate] table for a model.

    Stop tokens are the EOS of the tokenizer and those of the model's generation config, and `stop_text`, the token
    that ends an answer in the template (`prompts.stop_text`). Stop texts that are one special token become stop tokens,
    because special tokens do not occur in the text.
    """
    tokenizer = loaded.tokenizer
    ids: set[int] = set()
    for eos in (tokenizer.eos_token_id, getattr(loaded.causal.generation_config, "eos_token_id", None)):
        ids |= set(eos) if isinstance(eos, Sequence) else {eos} if eos is not None else set()
    special = tokenizer.get_added_vocab()
    texts = []
    for text in [stop_text, *table.stop]:
        if text in special:
            ids.add(special[text])
        elif text:
            texts.append(text)
    return Settings(
        max_new_tokens=table.max_new_tokens,
        temperature=table.temperature,
        top_p=table.top_p,
        top_k=table.top_k,
        seed=table.seed,
        stop_ids=frozenset(ids),
        stop_texts=tuple(dict.fromkeys(texts)),
    )


class Writing:
    """A row on its way from prompt to answer.

    Attributes:
        tokens: the prompt and what has been chosen, all that is needed to go on from here.
        room: how many tokens the answer may have. reserve: how many the row may grow to.
    """

    def __init__(self, index: int, prompt: Sequence[int], settings: Settings, loaded: Loaded) -> None:
        self.index = index
        limit = loaded.limit or len(prompt) + settings.max_new_tokens
        self.tokens = list(prompt)
        self.room = max(0, min(settings.max_new_tokens, limit - len(prompt)))
        self.cramped = self.room < settings.max_new_tokens
        self.reserve = len(prompt) + self.room
        self.prompted = len(prompt)
        self.uniforms = draws(settings.seed, index, self.room) if settings.temperature > 0 else np.zeros(self.room)
        self.stream = TextStream(loaded.tokenizer, settings.stop_texts) if settings.stop_texts else None
        self.text = ""
        self.stopped = False

    @property
    def written(self) -> int:
        return len(self.tokens) - self.prompted

    @property
    def done(self) -> bool:
        return self.stopped or self.written == self.room

    @property
    def uniform(self) -> float:
        """The random number of the next token."""
        return 0.5 if self.done else self.uniforms[self.written]

    def take(self, token: int, stop_ids: frozenset[int], on_token: OnToken | None) -> None:
        if token in stop_ids:
            self.stopped = True
            return
        self.tokens.append(token)
        if on_token is not None:
            on_token(self.index, token)
        if self.stream is not None:
            self.text += self.stream.push(token)
            self.stopped = self.stream.stopped

    def answer(self, tokenizer: Any) -> Answer:
        ids = tuple(self.tokens[self.prompted :])
        text = decode(tokenizer, ids) if self.stream is None else self.text + self.stream.finish()
        stopped = self.stopped or (self.stream is not None and self.stream.stopped)
        return Answer(ids, text, stopped, self.cramped and not stopped)


def complete(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
    on_token: OnToken | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Answer]:
    """Answer prompts with the active adapter.

    Which rows share a batch changes speed and, through the order of floating-point sums, the last bits of the scores;
    it changes neither the random numbers of a row nor what it sees.

    Args:
        prompts: token ids. A prompt that leaves no room in the model's context gets an empty answer marked `full`.
        progress: called with (answers done, answers in all).
        batch_tokens: the bound on rows x (longest prompt + max_new_tokens), and with it on memory; one longer row
            still goes alone.

    Returns:
        Answers in the order of the prompts.

    Raises:
        InputError: a prompt has no tokens, or the architecture cannot be continued (`decoding.rows_for`).
        WorkFailed: the model's scores are not numbers, or one row alone does not fit into memory.
    """
    if empty := [i for i, prompt in enumerate(prompts) if not len(prompt)]:
        raise InputError(f"prompt {empty[0] + 1} is empty: there is nothing to continue")
    writing = [Writing(i, prompt, settings, loaded) for i, prompt in enumerate(prompts)]
    with inference(loaded):
        batch = _Batch(loaded, [w for w in writing if not w.done], settings, on_token, batch_tokens)
        while left := batch.unfinished:
            batch.advance()
            if progress is not None and batch.unfinished < left:
                progress(len(writing) - batch.unfinished, len(writing))
    return [w.answer(loaded.tokenizer) for w in writing]


class _Batch:
    """The rows in the model, and those that wait for a place.

    Attributes:
        inside: what the rows of `rows` are for; some may be done, and leave when an eighth is.
        waiting: sorted, the next one last.
    """

    def __init__(
        self, loaded: Loaded, waiting: list[Writing], settings: Settings, on_token: OnToken | None, batch_tokens: int
    ) -> None:
        self.loaded, self.settings, self.on_token, self.batch_tokens = loaded, settings, on_token, batch_tokens
        self.rows, self.inside, self.waiting = rows_for(loaded), [], _longest_last(waiting)

    @property
    def unfinished(self) -> int:
        return len(self.waiting) + sum(not w.done for w in self.inside)

    def advance(self) -> None:
        """A token for every row that is inside, or the first one for rows that enter; with half as many rows when
        memory runs out.
        """
        try:
            self._advance()
            return
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            if len(self.inside) <= 1:
                remedy = "use a smaller base, a shorter prompt or fewer generate.max_new_tokens"
                raise WorkFailed("one prompt alone does not fit into memory", remedy=remedy) from error
        # Out of the handler, whose traceback holds the tensors that are to be freed.
        self.batch_tokens = len(self.inside) // 2 * max(w.reserve for w in self.inside)
        self.waiting = _longest_last(self.waiting + [w for w in self.inside if not w.done])
        self.rows, self.inside = rows_for(self.loaded), []
        memory.release(self.loaded.device)

    def _advance(self) -> None:
        going = _places_kept([w.done for w in self.inside])
        entering = self._entering([self.inside[i] for i in going])
        done = len(self.inside) - len(going)
        if done and (entering or done * 8 >= len(self.inside) or self._outgrown(going)):
            self.rows.keep(going)
            self.inside = [self.inside[i] for i in going]
        if entering:
            self.inside += entering
            self._take(entering, self.rows.enter([w.tokens for w in entering]))
        else:
            self._take(self.inside, self.rows.step([w.tokens[-1] for w in self.inside]))

    def _entering(self, going: list[Writing]) -> list[Writing]:
        """Those of the waiting that get in now: none until a quarter of the places is free."""
        if not self.waiting:
            return []
        widest = max(w.reserve for w in (*going, self.waiting[-1]))
        places = 1 if self.rows.alone else max(1, self.batch_tokens // widest)
        free = places - len(going)
        if free <= 0 or (going and free * 4 < places):
            return []
        self.waiting, entering = self.waiting[:-free], self.waiting[-free:]
        return entering[::-1]

    def _outgrown(self, going: list[int]) -> bool:
        """Whether a row that is done makes the batch wider than those that go on can ever be."""
        return max(self.rows.lengths) >= max(self.inside[i].reserve for i in going)

    def _take(self, writing: list[Writing], hidden: torch.Tensor) -> None:
        how = self.settings
        logits = self.loaded.head(hidden)
        chosen = choose(logits, how.temperature, how.top_k, how.top_p, [w.uniform for w in writing])
        tokens = self.loaded.agreed(chosen)
        for w, token in zip(writing, tokens, strict=True):
            if not w.done:
                w.take(token, how.stop_ids, self.on_token)


def _places_kept(done: Sequence[bool]) -> list[int]:
    """Places that are not done, those at the end in the gaps that others leave, so that few have to move."""
    going = [place for place, left in enumerate(done) if not left]
    return [place if not done[place] else going.pop() for place in range(len(going))]


def _longest_last(writing: list[Writing]) -> list[Writing]:
    return sorted(writing, key=lambda w: (w.reserve, len(w.tokens), -w.index))


def next_logits(loaded: Loaded, prompt: Sequence[int]) -> torch.Tensor:
    """Logits of the token after a prompt, by the active adapter: (vocabulary,) float32 on the CPU."""
    ids = torch.tensor([list(prompt)], device=loaded.device)
    with inference(loaded):
        hidden = loaded.decoder(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
        return loaded.head(hidden)[0].float().cpu()


def divergence(logits: torch.Tensor, base: torch.Tensor) -> float:
    """KL(p || q) in nats of the distributions with these logits, (vocabulary,) each; never below 0."""
    p, q = (torch.log_softmax(x.double(), dim=-1) for x in (logits, base))
    return max(0.0, float((p.exp() * (p - q)).sum()))
