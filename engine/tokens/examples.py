"""Segments -> examples -> packs -> batches: what the model is fed, laid flat, with a weight for every token.

Comes from `prompts` (pieces of text, each supervised or not). Goes to `training` and `evaluation`. An example is

    ids      <bos> Q  u  e  s  t  .  A  n  s  <eos>
    weights    0   0  0  0  0  0  0  1  1  1    1        weight of each token as something to be predicted

and a batch is several examples end to end: `targets[t]` is the token after t, `weights[t]` that token's weight, zero
at the last token of each example, so that no example is asked for the first token of the next. No torch here.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


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


@dataclass(frozen=True, slots=True)
class _Tokens:
    """What the tokenizer makes of a stretch of text: ids, and the characters of each."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Encoder:
    """Text to ids by a tokenizer's rules, the same for training, evaluation and chat.

    A row is tokenised as a whole, with three exceptions. Where the tokenizer would join the end of a prompt with the
    beginning of its answer, the row is cut between them, because generation will see the prompt alone: the ids of what
    stands before an answer are always the beginning of the ids of the whole. Where text of the user's spells a special
    token, it is tokenised on its own as the characters that it is. And exactly one BOS stands in front if the tokenizer
    is one that adds it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        plain = tokenizer("x", add_special_tokens=True).input_ids
        self.bos: int | None = tokenizer.bos_token_id if plain[:1] == [tokenizer.bos_token_id] else None
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self._special: dict[int, str] = {index: token.content for index, token in added.items() if token.special}
        alone, after = self._backend("x").ids, self._backend("\nx").ids
        self._prefixes = after[-len(alone) :] != alone  # it begins every text with a space, as SentencePiece does

    def encode(self, segments: Sequence[Segment]) -> tuple[list[int], list[float]]:
        """Token ids and the weight of each: that of the last segment the token reaches into."""
        ids: list[int] = []
        weights: list[float] = []
        run: list[Segment] = []  # what the next stretch is tokenised together with, and where its tokens begin
        start = 0
        for stretch in _stretches(segments):
            tokens = self._tokenise([*run, *stretch], first=start == 0)
            if tokens.ids[: len(ids) - start] != ids[start:]:
                run, start = [], len(ids)
                tokens = self._tokenise(stretch, first=not ids)
            if self._forgeries(tokens, [*run, *stretch]):
                for segment in stretch:
                    alone = self._alone(segment, first=not ids)
                    ids, weights = ids + alone, weights + [segment.weight] * len(alone)
                run, start = [], len(ids)
            else:
                run = [*run, *stretch]
                ids[start:], weights[start:] = tokens.ids, _weights(tokens.offsets, run)
        if self.bos is not None:
            while ids[:2] == [self.bos, self.bos]:
                ids, weights = ids[1:], weights[1:]
            if ids[:1] != [self.bos]:
                ids, weights = [self.bos, *ids], [0.0, *weights]
        return ids, weights

    def prompt(self, segments: Sequence[Segment]) -> list[int]:
        """The ids of unsupervised segments that an answer is to follow."""
        return self.encode(segments)[0]

    def _tokenise(self, segments: Sequence[Segment], first: bool, special: bool = True) -> _Tokens:
        """The segments as one text; without the space that some tokenizers begin with unless it is the `first`."""
        text = "".join(s.text for s in segments)
        encoded, lead = self._backend(text, special), 0
        for anchor in "\n.a" if self._prefixes and not first else "":
            anchored = self._backend(anchor + text, special)
            before = sum(begin < 1 for begin, _ in anchored.offsets)
            if all(end <= 1 for _, end in anchored.offsets[:before]):
                encoded, lead = anchored, before
                break
        if not lead:
            return _Tokens(encoded.ids, encoded.offsets)
        return _Tokens(encoded.ids[lead:], [(begin - 1, end - 1) for begin, end in encoded.offsets[lead:]])

    def _backend(self, text: str, special: bool = True) -> Any:
        backend = self.tokenizer.backend_tokenizer
        before = backend.encode_special_tokens
        backend.encode_special_tokens = not special
        try:
            return backend.encode(text, add_special_tokens=False)
        finally:
            backend.encode_special_tokens = before

    def _alone(self, segment: Segment, first: bool) -> list[int]:
        """The ids of one segment; the user's text as the characters that it is."""
        tokens = self._tokenise([segment], first, special=not segment.raw)
        forged = [begin + 1 for begin, end in self._forgeries(tokens, [segment]) if end - begin > 1]
        if not forged:
            return tokens.ids
        ids: list[int] = []  # a Unigram model itself knows the texts of special tokens: never show it a whole one
        for begin, end in itertools.pairwise([0, *forged, len(segment.text)]):
            ids += self._alone(replace(segment, text=segment.text[begin:end]), first and not begin)
        return ids

    def _forgeries(self, tokens: _Tokens, segments: Sequence[Segment]) -> list[tuple[int, int]]:
        """Where a special token was read out of text of the user's."""
        if self._special.keys().isdisjoint(tokens.ids):
            return []
        text = "".join(s.text for s in segments)
        found = [
            (begin, end)
            for index, (begin, end) in zip(tokens.ids, tokens.offsets, strict=True)
            if index in self._special
            and (index != self.tokenizer.unk_token_id or text[begin:end].strip() == self._special[index])
        ]
        raw = [(begin, end) for s, begin, end in _spans(segments) if s.raw]
        return [(a, b) for a, b in found if any(a < end and b > begin for begin, end in raw)]


def _stretches(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments in runs that each end where an answer begins."""
    stretches: list[list[Segment]] = []
    for s in segments:
        if not stretches or (s.weight > 0 and stretches[-1][-1].weight == 0):
            stretches.append([])
        stretches[-1].append(s)
    return stretches


def _spans(segments: Sequence[Segment]) -> list[tuple[Segment, int, int]]:
    """Each segment with the characters it has in the whole."""
    ends = list(itertools.accumulate(len(s.text) for s in segments))
    return [(s, end - len(s.text), end) for s, end in zip(segments, ends, strict=True)]


def _weights(tokens: Sequence[tuple[int, int]], segments: Sequence[Segment]) -> list[float]:
    """The weights of tokens that cover these characters: each that of the last segment it reaches into."""
    if len({s.weight for s in segments}) == 1:
        return [segments[0].weight] * len(tokens)
    spans = [(begin, s.weight) for s, begin, end in _spans(segments) if begin < end]
    starts, weights = zip((-2, 0.0), *spans, strict=True)  # a token of no characters may stand before all of them
    ends = [max(end, begin + 1) for begin, end in tokens]
    return np.array(weights)[np.searchsorted(starts, ends) - 1].tolist()


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices whose lengths sum to at most `capacity`, each put where it leaves the least room.

    A length over `capacity` gets a bin of its own. Best-fit decreasing uses at most 11/9 of the fewest possible bins,
    and 4 (Johnson et al. 1974); ties go to the lower index, so that the result is a function of the lengths.
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
