"""Rows of different lengths through a model one token at a time, with the keys and values of what was seen kept.

Used by `answering`, which decides what the tokens are; here is only the arithmetic. Rows enter together, padded at the
right, where causal attention never looks, and without a mask. Then each is moved to the right edge, so that every row
gets its next token in the same column and a sliding window is the same columns for all of them:

    entering     Q u e s t . . .        then     . . . Q u e s t | A n s
                 Q u e s t i o n                 Q u e s t i o n | A n s

Finished rows leave and others enter at any step; columns that nobody uses any more are dropped. That a model is
continued correctly this way is not believed but tried, once per model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from engine.errors import InputError
from engine.models import ending, memory
from engine.models.loaded import Loaded


class Columns(DynamicLayer):
    """Keys and values of one attention layer, (rows, heads, columns, head width), kept in stores with room to grow.

    transformers' own layer copies everything at every token. This one writes a column; rows that leave are overwritten
    by those behind them, rows that enter get a place below, and all is copied once in `ROOM` columns.
    """

    ROOM = 64
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._stores: tuple[torch.Tensor, ...] = ()
        self._first = self._last = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add columns; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._set(key_states, value_states)
            return key_states, value_states
        rows, count = len(self.keys), key_states.shape[-2]
        self._make_room(right=count)
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[:rows, :, self._last : self._last + count] = new
        self._last += count
        self._show(rows)
        return self.keys, self.values

    def keep(self, rows: list[int], skip: int) -> None:
        """Only these rows, without the first `skip` columns."""
        device = self.keys.device
        if not self._stores or len(rows) > len(self._stores[0]):
            index = torch.tensor(rows, device=device)
            self._set(*(x[..., skip:, :].index_select(0, index) for x in (self.keys, self.values)))
            return
        moved = [place for place, row in enumerate(rows) if place != row]
        self._first += skip
        if moved:
            places = torch.tensor(moved, device=device)
            sources = torch.tensor([rows[place] for place in moved], device=device)
            for store in self._stores:
                window = store[:, :, self._first : self._last]
                window.index_copy_(0, places, window.index_select(0, sources))
        self._show(len(rows))

    def align(self, source: torch.Tensor) -> None:
        """Column `source[row, c]` of each row becomes its column c."""
        index = source[:, None, :, None]
        self._set(*(x.gather(2, index.expand(-1, x.shape[1], -1, x.shape[3])) for x in (self.keys, self.values)))

    def join(self, other: Columns) -> None:
        """The rows of `other` below these; the narrower of the two gets empty columns at its left."""
        rows, entering = len(self.keys), len(other.keys)
        left = max(0, other.keys.shape[-2] - self.keys.shape[-2])
        self._make_room(rows=entering, left=left)
        begin = self._last - other.keys.shape[-2]
        for store, new in zip(self._stores, (other.keys, other.values), strict=True):
            store[:rows, :, self._first - left : self._first] = 0.0  # masked, but 0 x NaN is NaN
            store[rows : rows + entering, :, self._first : begin] = 0.0
            store[rows : rows + entering, :, begin : self._last] = new
        self._first -= left
        self._show(rows + entering)

    def _make_room(self, rows: int = 0, left: int = 0, right: int = 0) -> None:
        """Stores that take so many rows and columns more: those that are there, or larger copies."""
        count, _, width, _ = self.keys.shape
        if self._stores and self._first >= left:
            places, columns = self._stores[0].shape[0], self._stores[0].shape[2]
            if count + rows <= places and self._last + right <= columns:
                return
        places = count + rows + (count + rows) // 8 if rows else count
        made = []
        for x in (self.keys, self.values):
            store = x.new_empty(places, x.shape[1], left + width + right + self.ROOM, x.shape[3])
            store[:count, :, left : left + width] = x
            made.append(store)
        self._stores, self._first, self._last = tuple(made), left, left + width
        self._show(count)

    def _show(self, rows: int) -> None:
        self.keys, self.values = (store[:rows, :, self._first : self._last] for store in self._stores)

    def _set(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values, self._stores = keys, values, ()


class Rows:
    """The rows that are being continued, and what the model remembers of each.

    Args:
        alone: there is never more than one row, whose past is kept the way the architecture asks for (see `rows_for`).

    Attributes:
        lengths: tokens seen of each row.
    """

    def __init__(self, loaded: Loaded, alone: bool = False) -> None:
        self.loaded, self.alone = loaded, alone
        self.lengths: list[int] = []
        self._cache: Any = None

    def __len__(self) -> int:
        return len(self.lengths)

    def enter(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """New rows below those that are there.

        Returns:
            Hidden states of the prompts' last tokens, (prompts, width).
        """
        device, lengths = self.loaded.device, [len(p) for p in prompts]
        longest = max(lengths)
        if device.type == "cpu":  # rows that left have freed blocks, none as large as those that come
            memory.trim()
        ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts], device=device)
        cache: Any = self._new_cache()
        ends = torch.tensor(lengths, device=device)
        last = torch.arange(len(ends), device=device) * longest + ends - 1
        with ending.only(self.loaded.last_mlp, last[:, None], ids.numel()):
            hidden = self._forward(ids, torch.arange(longest, device=device).expand(ids.shape), None, cache)
        if min(lengths) < longest:
            places = torch.arange(longest, device=device)
            source = (places[None] - (longest - ends)[:, None]) % longest
            for layer in cache.layers:
                layer.align(source)
        if self.lengths:
            for mine, new in zip(self._cache.layers, cache.layers, strict=True):
                mine.join(new)
        else:
            self._cache = cache
        self.lengths += lengths
        return hidden.flatten(0, 1)[last]

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """One more token for every row: their hidden states, (rows, width)."""
        device, width = self.loaded.device, max(self.lengths) + 1
        seen = torch.tensor(self.lengths, device=device)[:, None]
        mask = None
        if min(self.lengths) + 1 < width:
            mask = torch.arange(width - 1, -1, -1, device=device)[None] <= seen
        hidden = self._forward(torch.tensor(tokens, device=device)[:, None], seen, mask, self._cache)
        self.lengths = [n + 1 for n in self.lengths]
        return hidden[:, 0]

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on, in this order; one that is named twice goes on twice."""
        if list(rows) == list(range(len(self.lengths))):
            return
        width = max(self.lengths)
        self.lengths = [self.lengths[r] for r in rows]
        if not rows:
            self._cache = None
            return
        for layer in self._cache.layers:
            layer.keep(list(rows), width - max(self.lengths))

    def _new_cache(self) -> Cache:
        if self.alone:
            return DynamicCache(config=self.loaded.causal.config.get_text_config())
        return Cache(layer_class_to_replicate=Columns)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: Cache
    ) -> torch.Tensor:
        out = self.loaded.decoder(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True
        )
        return out.last_hidden_state


_alone: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def rows_for(loaded: Loaded) -> Rows:
    """No rows yet: together in one batch where that gives what the model says of each alone, else one at a time.

    An architecture with recurrent layers, for one, keeps more than keys and values. Tried once per model, in a forward
    pass of a few random tokens; to be called inside `inference`.

    Raises:
        InputError: even a single row is not continued correctly.
    """
    if loaded.causal not in _alone:
        config = loaded.causal.config.get_text_config()
        unusual = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
        _alone[loaded.causal] = bool(unusual) or loaded.causal._is_stateful or not _continues(loaded, (9, 4))
        if _alone[loaded.causal] and not _continues(loaded, (6,)):
            del _alone[loaded.causal]
            raise InputError(
                f"{type(loaded.causal).__name__} keeps its past in a way that is not known here: it cannot write texts",
                where=loaded.location,
            )
    return Rows(loaded, _alone[loaded.causal])


def _continues(loaded: Loaded, lengths: tuple[int, ...]) -> bool:
    """Whether rows of these lengths, continued together by two tokens, give the hidden states of the whole texts."""
    rows, generator = Rows(loaded, alone=len(lengths) == 1), torch.Generator().manual_seed(0)
    size = min(loaded.causal.get_input_embeddings().weight.shape[0], 1000)
    texts = [torch.randint(size, (n + 2,), generator=generator).tolist() for n in lengths]
    rows.enter([text[:-2] for text in texts])
    rows.step([text[-2] for text in texts])
    continued = rows.step([text[-1] for text in texts])
    for text, hidden in zip(texts, continued, strict=True):
        whole, beside = (_last_hidden(loaded, [text] * copies) for copies in (1, 3))
        # Right answers lie apart by rounding, in 16 bits and many layers deep by much: as other batches of the text do.
        limit = max(0.1, min(2.0 * _apart(beside, whole), 0.3))
        if not _apart(hidden, whole) <= limit:  # a NaN is not close
            return False
    return True


def _last_hidden(loaded: Loaded, texts: list[list[int]]) -> torch.Tensor:
    """The hidden states of the first text's last token, (width,)."""
    return loaded.decoder(input_ids=torch.tensor(texts, device=loaded.device), use_cache=False).last_hidden_state[0, -1]


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@contextlib.contextmanager
def inference(loaded: Loaded) -> Iterator[None]:
    """While in the block: eval mode, no gradients, quick products on a CPU (`Blocked`).

    Afterwards every module is in the mode it was in. Not `torch.inference_mode`: tensors that a model keeps (rotary
    tables, biases that bitsandbytes casts in place) would be inference tensors, which training cannot use.
    """
    training = [module for module in loaded.causal.modules() if module.training]
    if training:
        loaded.causal.eval()
    try:
        with torch.no_grad(), loaded.multiplying():
            yield
    finally:
        for module in training:
            module.training = True
