"""Segments -> examples -> packs -> batches: what the model is fed, laid flat, with a weight for every token.

Comes from `prompts` (pieces of text, each supervised or not). Goes to `train` and `evaluate`. An example is

    ids      <bos> Q  u  e  s  t  .  A  n  s  <eos>
    weights    0   0  0  0  0  0  0  1  1  1    1        weight of each token as something to be predicted

and a batch is several examples end to end: `targets[t]` is the token after t, `weights[t]` that token's weight, zero
at the last token of each example, so that no example is asked for the first token of the next. No torch here.
"""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.files import write_atomic


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered row.

    Attributes:
        weight: 0 where nothing is learned from it, else how much a token of it counts.
        raw: text of the user's: a "<|im_end|>" in it is seven characters, not the special token.
    """

    text: str
    weight: float = 0.0
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One row, tokenised.

    Attributes:
        ids: (n,) int32. weights: (n,) float32, zero for what is not supervised.
        where: file:line of the row. reference: the completion's text, for exact match; "" where there is none.
        cut: its end was cut off to fit.
    """

    ids: np.ndarray
    weights: np.ndarray
    where: str = ""
    reference: str = ""
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """How many tokens are learned from (the first token of a text is never predicted)."""
        return int(np.count_nonzero(self.weights[1:]))

    @property
    def prompt_ids(self) -> list[int]:
        """What stands before the last supervised stretch: the prompt that its answer was given to."""
        supervised = self.weights > 0
        starts = np.flatnonzero(supervised[1:] & ~supervised[:-1]) + 1
        return self.ids[: starts[-1] if len(starts) else len(self.ids)].tolist()

    def digest(self) -> bytes:
        return hashlib.sha256(self.ids.tobytes() + self.weights.tobytes()).digest()


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples end to end.

    Attributes:
        ids, targets: (T,) int64; positions: (T,) int64, from 0 in each example.
        weights: (T,) float32: of `targets`. segments: lengths of the examples, sum T.
    """

    ids: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    segments: tuple[int, ...]

    @property
    def supervised(self) -> int:
        return int(np.count_nonzero(self.weights))


def collate(examples: Sequence[Example]) -> Batch:
    """Lay examples end to end, targets shifted once, here."""
    ids = np.concatenate([e.ids for e in examples]).astype(np.int64)
    targets, weights = np.zeros_like(ids), np.zeros(len(ids), np.float32)
    positions = np.concatenate([np.arange(len(e)) for e in examples])
    start = 0
    for e in examples:
        end = start + len(e)
        targets[start : end - 1] = ids[start + 1 : end]
        weights[start : end - 1] = e.weights[1:]
        start = end
    return Batch(ids, targets, positions, weights, tuple(len(e) for e in examples))


class Encoder:
    """Text to ids by a tokenizer's rules, the same for training, evaluation and chat.

    A row is tokenised as a whole. Where the tokenizer would join the end of a prompt with the beginning of its answer
    into one token, the row is cut there and the parts are tokenised apart, because generation will see the prompt
    alone. Exactly one BOS stands in front if the tokenizer is one that adds it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        plain = tokenizer("x", add_special_tokens=True).input_ids
        self.bos: int | None = tokenizer.bos_token_id if plain[:1] == [tokenizer.bos_token_id] else None
        self.special = sorted(set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab()), key=len, reverse=True)

    def encode(self, segments: Sequence[Segment]) -> tuple[list[int], list[float]]:
        """Token ids and the weight of each: that of the last segment the token reaches into."""
        pieces = self._pieces(segments)
        ids: list[int] = []
        weights: list[float] = []
        for text, raw, spans in pieces:
            encoded = self._tokenise(text, raw)
            ids += encoded.ids
            weights += [_weight(spans, span) for span in encoded.offsets]
        if self.bos is not None:
            while len(ids) > 1 and ids[:2] == [self.bos, self.bos]:
                ids, weights = ids[1:], weights[1:]
            if ids[:1] != [self.bos]:
                ids, weights = [self.bos, *ids], [0.0, *weights]
        return ids, weights

    def prompt(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of unsupervised segments that an answer is to follow."""
        return self.encode(segments)[0]

    def _tokenise(self, text: str, raw: bool) -> Any:
        backend = self.tokenizer.backend_tokenizer
        before = backend.encode_special_tokens
        backend.encode_special_tokens = raw
        try:
            return backend.encode(text, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before

    def _pieces(self, segments: Sequence[Segment]) -> list[tuple[str, bool, list[tuple[int, int, float]]]]:
        """Stretches to tokenise on their own: (text, raw, [(start, end, weight)])."""
        if any(s.raw and any(token in s.text for token in self.special) for s in segments):
            return [(s.text, s.raw, [(0, len(s.text), s.weight)]) for s in segments if s.text]
        text, spans, seams = "", [], []
        for s in segments:
            if s.weight > 0 and spans and spans[-1][2] == 0:
                seams.append(len(text))
            spans.append((len(text), len(text) + len(s.text), s.weight))
            text += s.text
        whole = self._tokenise(text, False)
        cuts = [seam for seam in seams if not self._clean(whole, text, seam)]
        if not cuts:
            return [(text, False, spans)]
        pieces = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            inside = [(max(a, start) - start, min(b, end) - start, w) for a, b, w in spans if a < end and b > start]
            pieces.append((text[start:end], False, inside))
        return pieces

    def _clean(self, whole: Any, text: str, seam: int) -> bool:
        """Whether the tokens before `seam` are those of the text before it, alone."""
        before = self._tokenise(text[:seam], False).ids
        return whole.ids[: len(before)] == before


def _weight(spans: list[tuple[int, int, float]], token: tuple[int, int]) -> float:
    """The weight of a token that covers characters `token`: that of the last span it reaches into."""
    at = bisect.bisect_left(spans, (max(token[1], token[0] + 1),)) - 1
    while at >= 0 and spans[at][0] == spans[at][1]:  # an empty span covers nothing
        at -= 1
    return spans[at][2] if at >= 0 else 0.0


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `capacity`, each put where it leaves the least room.

    A length over `capacity` gets a bin of its own. Best-fit decreasing uses at most 11/9 of the fewest possible bins
    (Johnson 1973); ties go to the lower index, so that the result is a function of the lengths.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, bin), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        at = bisect.bisect_left(room, (length, -1))
        if at == len(room):
            bins.append([index])
            bisect.insort(room, (max(0, capacity - length), len(bins) - 1))
        else:
            free, where = room.pop(at)
            bins[where].append(index)
            bisect.insort(room, (free - length, where))
    return bins


def split_by_tokens(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Indices, longest first, in runs of at most `limit` tokens (one longer example goes alone)."""
    runs: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not runs or total + lengths[index] > limit:
            runs.append([])
            total = 0
        runs[-1].append(index)
        total += lengths[index]
    return runs


def cache_key(parts: Iterable[str | bytes]) -> str:
    """A name for what is made from `parts`: their SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def save_examples(path: Path, examples: Sequence[Example], extra: dict[str, Any]) -> None:
    """Store examples in one file (numpy .npz without pickle) with a JSON of what else belongs to them."""
    import io

    meta = {"where": [e.where for e in examples], "reference": [e.reference for e in examples],
            "cut": [e.cut for e in examples], "extra": extra}  # fmt: skip
    buffer = io.BytesIO()
    np.savez(
        buffer,
        ids=np.concatenate([e.ids for e in examples]) if examples else np.zeros(0, np.int32),
        weights=np.concatenate([e.weights for e in examples]) if examples else np.zeros(0, np.float32),
        lengths=np.array([len(e) for e in examples], np.int64),
        meta=np.frombuffer(json.dumps(meta).encode("utf-8", "surrogatepass"), np.uint8),
    )
    write_atomic(path, buffer.getvalue())


def load_examples(path: Path) -> tuple[list[Example], dict[str, Any]] | None:
    """What `save_examples` stored, or None where there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            meta = json.loads(stored["meta"].tobytes())
            ends = np.cumsum(stored["lengths"])[:-1]
            ids, weights = np.split(stored["ids"], ends), np.split(stored["weights"], ends)
    except (OSError, ValueError, KeyError, EOFError):
        return None
    if not meta["where"]:
        return [], meta["extra"]
    made = zip(ids, weights, meta["where"], meta["reference"], meta["cut"], strict=True)
    return [Example(*fields) for fields in made], meta["extra"]
