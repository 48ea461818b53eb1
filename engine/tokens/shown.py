"""A row as a person looks at it: its text in stretches of one weight, and every token with its id, weight and text.

Comes from: an `Example` and the tokenizer that made it. Goes to: `loraworkbench rows`, and `browse` for the workbench.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from engine.tokens.examples import Example


def document(tokenizer: Any, split: str, example: Example) -> dict[str, Any]:
    """A row as a document: split, where, tokens, supervised, cut, text, segments, ids, weights."""
    segments = list(stretches(tokenizer, example))
    return {
        "split": split,
        "where": example.where,
        "tokens": len(example),
        "supervised": example.supervised,
        "cut": example.cut,
        "text": "".join(text for text, _ in segments),
        "segments": [{"text": text, "weight": weight} for text, weight in segments],
        "ids": example.ids.tolist(),
        "weights": example.weights.tolist(),
    }


def stretches(tokenizer: Any, example: Example) -> Iterator[tuple[str, float]]:
    """The text in stretches of one weight. The first token of a text is never predicted, whatever its weight."""
    weights = [0.0, *example.weights[1:].tolist()]
    start, before = 0, ""
    for weight, group in groupby(weights):
        end = start + sum(1 for _ in group)
        until = decode(tokenizer, example.ids[:end].tolist())
        # Decoding from the start keeps spaces that a decoder strips from the first token it is given.
        text = until[len(before) :] if until.startswith(before) else decode(tokenizer, example.ids[start:end].tolist())
        yield text, weight
        start, before = end, until


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; "" for one that only begins a character, which the last of its tokens has.

    Each is what decoding a few tokens with it and without it differ by: linear in the number of tokens.
    """
    found: list[str] = []
    start, read = 0, 0  # the window: ids[start:read] are told, ids[read:] not yet
    for end in range(1, len(ids) + 1):
        before = decode(tokenizer, list(ids[start:read]))
        text = decode(tokenizer, list(ids[start:end]))
        if text.endswith("\ufffd") and end < len(ids) and end - read < _LONGEST_CHARACTER:
            found.append("")
            continue
        found.append(text[len(before) :] if text.startswith(before) else decode(tokenizer, list(ids[read:end])))
        start, read = read, end
    return found


_LONGEST_CHARACTER = 4
"""Tokens of one byte each that a character may take."""


def decode(tokenizer: Any, ids: list[int]) -> str:
    """The text of ids, special tokens and all."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def token_name(tokenizer: Any, token: int) -> str:
    """A token's text in quotes, or, for part of a character, the tokenizer's own name for it."""
    text = decode(tokenizer, [token])
    return tokenizer.convert_ids_to_tokens(token) if "\ufffd" in text else json.dumps(text, ensure_ascii=False)
