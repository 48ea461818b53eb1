"""Logits -> the next token of each row, and tokens -> text as they come.

Used by `answering`. What a row gets is a function of its own logits, the seed and the row's number: which other rows
are in its batch, and on which device the random numbers would have been drawn, plays no part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from engine.errors import WorkFailed

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def draws(seed: int, row: int, count: int) -> np.ndarray:
    """The random numbers of a row, one a token: (count,) float64 in (0, 1].

    A longer count continues a shorter one, so the length of an answer does not change how it begins.
    """
    return 1.0 - np.random.default_rng((seed, row)).random(count)


def choose(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, uniforms: Sequence[float]) -> list[int]:
    """The next token of each row: the likeliest at temperature 0, else one drawn by inverting the distribution.

    The logits are divided by the temperature, then cut to the `top_k` likeliest (0: all), then to the smallest set with
    at least `top_p` of what is left (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751): the order of
    transformers' logits processors.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in (0, 1], see `draws`; not looked at when greedy.

    Raises:
        WorkFailed: a row's logits are not numbers.
    """
    logits = logits.float()
    best, likeliest = logits.max(dim=-1)
    if not bool(best.isfinite().all()):
        raise WorkFailed(
            "the model's next-token scores are not finite numbers",
            remedy="the adapter or the base is damaged, or dtype float16 overflows: try bfloat16 or float32",
        )
    if temperature == 0.0:
        return likeliest.tolist()
    scores, order = (logits - best[:, None]) / temperature, None
    if 0 < top_k < scores.shape[-1]:
        scores, order = scores.topk(top_k)
    elif top_p < 1.0:
        scores, order = scores.sort(descending=True, stable=True)
    probabilities = torch.softmax(scores, dim=-1)
    if top_p < 1.0:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    # The place of the first token at which the sum reaches the draw. A draw is never 0 and at most the whole sum, so
    # a token without probability is never that place.
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, drawn)
    return (place if order is None else order.gather(1, place))[:, 0].tolist()


class TextStream:
    """Tokens in, text out as soon as it is certain: no half characters, and nothing that may be part of a stop text.

    The pieces of `push` and `finish`, joined, are `decode` of all tokens, or what stands before the first stop text.

    Args:
        tokenizer: a fast tokenizer.
        stops: texts that end the stream.

    Attributes:
        stopped: a stop text was met; tokens after it are ignored.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self.tokenizer, self.stops, self.stopped = tokenizer, tuple(s for s in stops if s), False
        self._special = frozenset(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._begin = 0  # decoding starts here, a little before what is new, for joining rules to see the seam
        self._read = 0  # tokens before this have been turned into text
        self._held = ""  # text that may be the beginning of a stop text

    def push(self, token: int) -> str:
        """The text that this token makes certain, often ""."""
        if self.stopped:
            return ""
        self._ids.append(token)
        text = self._new(whole=False)
        return self._cut(text) if text else ""

    def finish(self) -> str:
        """The rest: there are no more tokens."""
        if self.stopped:
            return ""
        text = self._cut(self._new(whole=True))
        rest, self._held = "" if self.stopped else self._held, ""
        return text + rest

    def _new(self, whole: bool) -> str:
        """Text of the tokens that have not been read; "" while it ends inside a character and is not all there is."""
        before = decode(self.tokenizer, self._ids[self._begin : self._read])
        text = decode(self.tokenizer, self._ids[self._begin :])[len(before) :]
        if not whole and (not text or text.endswith("\ufffd") or self._in_bytes()):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return text

    def _in_bytes(self) -> bool:
        """Whether the last token of the text is a single byte ("<0xE2>"): a run of those is decoded as a whole."""
        for token in reversed(self._ids):
            piece = None if token in self._special else self.tokenizer.convert_ids_to_tokens(token)
            if piece is not None:  # a token without text does not end a run
                return bool(_BYTE_TOKEN.fullmatch(piece))
        return False

    def _cut(self, text: str) -> str:
        """Release what cannot be part of a stop text; at a stop text, what stands before it."""
        text = self._held + text
        met = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        if met:  # the one that is complete first, however the text was cut into tokens
            self.stopped, self._held = True, ""
            return text[: min(met)[1]]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Ids as text, special tokens left out, nothing tidied."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
