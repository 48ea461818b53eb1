"""The stored adapters of a session: put on the base by name, found again, taken off where room is needed.

Used by `owner`. Whatever is done here, the base stays the base, bit for bit; an adapter that would change it is refused.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from engine import adapters
from engine.errors import EngineError, InputError
from engine.generation.answering import next_logits
from engine.models import memory
from engine.models.loaded import Loaded

PROBE_TOKENS = 16
MOST = 16
"""Adapters that are kept: those of nine keys, and some that were looked at."""


@dataclass
class Stored:
    """A stored adapter of the session. `used`: when it was asked last, by the clock of `time.monotonic`."""

    path: Path
    sha256: str
    used: float = field(default_factory=time.monotonic)


class Shelf:
    """Stored adapters on a loaded base; `most` of them."""

    def __init__(self, loaded: Loaded, most: int = MOST) -> None:
        self.loaded, self.most = loaded, most
        self.stored: dict[str, Stored] = {}

    def load(self, name: str, path: Path) -> list[str]:
        """Attach a stored adapter; those not asked for longest make room where there are too many or memory is short.

        Returns:
            The names of those that were taken off.

        Raises:
            InputError: there is one of this name, it does not fit the base or the memory, or it changes the base.
        """
        if name in self.stored:
            raise InputError(f"an adapter called {name!r} is here already")
        info, dropped, before = adapters.inspect(path), [], self._before
        while memory.attempt(lambda: (self.loaded.load_adapter(name, path),)) is None:
            if not self.stored:
                raise InputError("this adapter does not fit into memory", where=str(path))
            dropped.append(self._drop_oldest())
        if before is not None and not torch.equal(before, self._base_logits()):  # type: ignore[arg-type]
            self.loaded.unload_adapter(name)
            raise InputError("with this adapter loaded the base is no longer the base, bit for bit", where=str(path))
        while len(self.stored) >= self.most:
            dropped.append(self._drop_oldest())
        self.stored[name] = Stored(path, info.sha256)
        return dropped

    def _drop_oldest(self) -> str:
        name = min(self.stored, key=lambda n: self.stored[n].used)
        self.unload(name)
        memory.release(self.loaded.device)
        return name

    def unload(self, name: str) -> None:
        """Take an adapter off.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self.stored:
            raise InputError(f"no stored adapter {name!r} in this session")
        self.loaded.unload_adapter(name)
        del self.stored[name]

    def use(self, name: str) -> None:
        """`name` is asked now."""
        self.stored[name].used = time.monotonic()

    def bare(self) -> None:
        """Take all adapters off the base, also one that was trained; `put_back` knows the stored ones."""
        for name in self.loaded.adapters:
            self.loaded.unload_adapter(name)

    def put_back(self) -> list[str]:
        """Attach the stored adapters again, after `bare`.

        Returns:
            The names of those that cannot be any more (their files are gone, or there is no memory).
        """
        lost = []
        for name, each in list(self.stored.items()):
            try:
                done = memory.attempt(lambda name=name, each=each: (self.loaded.load_adapter(name, each.path),))
            except EngineError:
                done = None
            if done is None:
                lost.append(name)
                del self.stored[name]
        return lost

    @cached_property
    def _before(self) -> torch.Tensor | None:
        """`_base_logits` before the first stored adapter."""
        return self._base_logits()

    def _base_logits(self) -> torch.Tensor | None:
        """What the base says after a few tokens; None where training's initialisation has changed it."""
        if self.loaded.base_changed:
            return None
        size = self.loaded.causal.get_input_embeddings().weight.shape[0]
        with self.loaded.using(None):
            return next_logits(self.loaded, [(7919 * i) % size for i in range(1, PROBE_TOKENS + 1)])
