"""nll of every scored token of every text exactly once, in batches without padding, whatever the length of the texts.

    examples, end to end -> windows -> batches, longest first -> nll of each token -> sums by example and scope

Comes from: `tokens.examples`, a `Loaded` with any adapter active. Goes to: `matrix`, the loss while training, the
proof of a merge.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engine.errors import WorkFailed
from engine.evaluation.metrics import RowScore
from engine.evaluation.results import ALL
from engine.models import memory
from engine.models.loaded import Loaded
from engine.tokens.examples import Batch, Example, split_by_tokens

Progress = Callable[[int, int], None]
"""Called with (done, total)."""

CPU_TOKENS_PER_THREAD = 1024
"""Tokens at once, on a CPU: more do not stay in its caches, and take a quarter more time each."""


def windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """How a text of `length` ids goes through a model that takes `context`: (start, first, end) of each window.

    ids[start:end-1] go in, ids[first:end] are scored; together the windows score 1 .. length-1, each once. With
    context 4:

        ids    0 1 2 3 4 5 6 7 8 9
               - s s s s                (0, 1, 5)    -: only seen, s: scored
                       - s s s s        (4, 5, 9)
                         - - - - s      (5, 9, 10)   filled up to its left
    """
    made = []
    for first in range(1, length, context):
        end = min(first + context, length)
        made.append((max(0, end - 1 - context), first, end))
    return made


def score(
    loaded: Loaded,
    examples: Sequence[Example],
    *,
    scope: str,
    window: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> list[RowScore]:
    """`score_scopes` for one scope."""
    return score_scopes(loaded, examples, (scope,), window=window, batch_tokens=batch_tokens, progress=progress)[scope]


def score_scopes(
    loaded: Loaded,
    examples: Sequence[Example],
    scopes: Sequence[str],
    *,
    window: int,
    batch_tokens: int,
    progress: Progress | None = None,
) -> dict[str, list[RowScore]]:
    """nll, tokens and bytes of each example under the weights now in use, for several scopes in one pass.

    Where only "completion" is asked, logits of other positions are never built, and windows without a supervised token
    never run. The model is put into eval mode meanwhile; nothing of it is changed.

    Args:
        scopes: of `evaluation.SCOPES`.
        window: longest context in tokens; 0, or more than the model takes: the model's limit.
        batch_tokens: at most this many tokens go through the model at once (one longer text goes alone), and half as
            many when memory runs out; changes memory, never what is summed.
        progress: called with tokens done and in total.

    Raises:
        WorkFailed: a sum is NaN or infinite (with the rows), or memory does not suffice.
    """
    if not examples:
        return {scope: [] for scope in scopes}
    ids = np.concatenate([e.ids for e in examples]).astype(np.int64)
    scored = {scope: np.concatenate([_scored(e, scope) for e in examples]) for scope in scopes}
    wanted = np.logical_or.reduce(list(scored.values()))
    nll = np.full(len(ids), np.nan)  # what no window scores stays NaN, and is found below
    pieces = [p for p in _pieces(examples, context_length(loaded, window)) if wanted[p.first : p.end].any()]
    runs = split_by_tokens([p.tokens for p in pieces], _at_once(loaded, batch_tokens))
    done, all_tokens = 0, sum(p.tokens for p in pieces)
    with _eval_mode(loaded.causal), torch.no_grad(), loaded.multiplying():
        while runs:
            run = runs.pop(0)
            batch, places = _batch([pieces[i] for i in run], ids, wanted)
            found = _token_nll(loaded, batch)
            if found is None:
                runs[:0] = _halves(run, batch)
                continue
            nll[places] = found
            done += len(batch.ids)
            if progress is not None:
                progress(done, all_tokens)
    return {scope: _row_scores(loaded.tokenizer, examples, nll, mask) for scope, mask in scored.items()}


def _at_once(loaded: Loaded, batch_tokens: int) -> int:
    if loaded.device.type != "cpu":
        return batch_tokens
    return min(batch_tokens, CPU_TOKENS_PER_THREAD * torch.get_num_threads())


def _halves(run: list[int], batch: Batch) -> list[list[int]]:
    """A run that did not fit into memory, as two.

    Raises:
        WorkFailed: it is one text.
    """
    if len(run) == 1:
        remedy = "lower eval.window, or use a smaller base"
        raise WorkFailed(f"a text of {len(batch.ids):,} tokens alone does not fit into memory", remedy=remedy)
    return [run[: len(run) // 2], run[len(run) // 2 :]]


def context_length(loaded: Loaded, window: int) -> int | None:
    """Longest context that is used: `window` (0: none given) bounded by what the model takes; None: no bound."""
    return min((n for n in (window, loaded.limit) if n), default=None)


def _scored(example: Example, scope: str) -> np.ndarray:
    """Which tokens of an example a scope asks for; never the first, which has nothing to be predicted from."""
    mask = np.ones(len(example), bool) if scope == ALL else example.weights > 0
    mask[:1] = False
    return mask


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window over the ids of all examples end to end: start .. end-1 go in, first .. end are scored."""

    start: int
    first: int
    end: int

    @property
    def tokens(self) -> int:
        return self.end - 1 - self.start


def _pieces(examples: Sequence[Example], context: int | None) -> Iterator[_Piece]:
    offset = 0
    for example in examples:
        for place in windows(len(example), context or max(1, len(example))):
            yield _Piece(*(offset + p for p in place))
        offset += len(example)


def _batch(pieces: Sequence[_Piece], ids: np.ndarray, wanted: np.ndarray) -> tuple[Batch, np.ndarray]:
    """Pieces end to end, and the places in `ids` of their scored tokens (the targets that have a weight)."""
    lengths = [p.tokens for p in pieces]
    inputs = np.concatenate([np.arange(p.start, p.end - 1) for p in pieces])
    scored = wanted[inputs + 1] & (inputs + 1 >= np.repeat([p.first for p in pieces], lengths))
    positions = inputs - np.repeat([p.start for p in pieces], lengths)
    batch = Batch(ids[inputs], ids[inputs + 1], positions, scored.astype(np.float32), tuple(lengths))
    return batch, inputs[scored] + 1


def _token_nll(loaded: Loaded, batch: Batch) -> np.ndarray | None:
    """-log p of the targets that have a weight, (supervised,) float32; None where memory does not suffice."""
    try:
        return loaded.nll(batch).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not memory.is_out_of_memory(error):
            raise
    memory.release(loaded.device)  # out of the handler, whose traceback holds the tensors that are to be freed
    return None


def _row_scores(tokenizer: Any, examples: Sequence[Example], nll: np.ndarray, mask: np.ndarray) -> list[RowScore]:
    """Sums of `nll` where `mask`, by example; both run over the ids of all examples end to end.

    Raises:
        WorkFailed: a sum is not finite.
    """
    lengths = [len(e) for e in examples]
    owner = np.repeat(np.arange(len(examples)), lengths)[mask]
    sums = np.bincount(owner, nll[mask], minlength=len(examples))
    counts = np.bincount(owner, minlength=len(examples))
    if bad := [e.where for e, x in zip(examples, sums, strict=True) if not math.isfinite(x)]:
        shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
        remedy = 'try model.dtype = "float32"; an adapter whose training diverged holds such numbers too'
        raise WorkFailed("the model's predictions are NaN or infinite", where=shown, remedy=remedy)
    sizes = _text_bytes(tokenizer, examples, np.split(mask, np.cumsum(lengths)[:-1]))
    rows = zip(examples, sums.tolist(), counts.tolist(), sizes, strict=True)
    return [RowScore(e.where, x, tokens, nbytes) for e, x, tokens, nbytes in rows]


def _text_bytes(tokenizer: Any, examples: Sequence[Example], masks: Sequence[np.ndarray]) -> list[int]:
    """UTF-8 bytes of each example's masked tokens, special tokens left out.

    A stretch of tokens is as long as the text up to its end less the text up to its start: decoders treat the beginning
    of a text in their own ways. A character whose bytes two stretches share belongs to the one that completes it.
    """
    beginnings: list[list[int]] = []
    owners: list[tuple[int, int, bool]] = []
    for row, (example, mask) in enumerate(zip(examples, masks, strict=True)):
        edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
        for index, edge in enumerate(edges.tolist()):
            beginnings.append(example.ids[:edge].tolist())
            owners.append((row, 1 if index % 2 else -1, edge < len(example)))
    sizes = [0] * len(examples)
    texts = tokenizer.backend_tokenizer.decode_batch(beginnings, skip_special_tokens=True)
    for (row, sign, inner), text in zip(owners, texts, strict=True):
        sizes[row] += sign * len((text.rstrip("\N{REPLACEMENT CHARACTER}") if inner else text).encode())
    return sizes


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off inside the block; every module as it was after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
