"""The keys and values of rows that enter, grow and leave, against lists that are made anew each time."""

import random

import pytest
import torch

from engine.generation.answering import _places_kept
from engine.generation.decoding import Columns


class Naive:
    """Each row as the columns it was given; its first may be empty ones."""

    def __init__(self, keys: torch.Tensor) -> None:
        self.rows = [list(row.unbind(1)) for row in keys]

    def update(self, new: torch.Tensor) -> None:
        for row, columns in zip(self.rows, new, strict=True):
            row.extend(columns.unbind(1))

    def keep(self, rows: list[int], skip: int) -> None:
        self.rows = [list(self.rows[r][skip:]) for r in rows]

    def join(self, keys: torch.Tensor) -> None:
        entering = [list(row.unbind(1)) for row in keys]
        width = max(len(self.rows[0]), len(entering[0]))
        empty = torch.zeros_like(entering[0][0])
        self.rows = [[empty] * (width - len(row)) + row for row in self.rows + entering]

    @property
    def keys(self) -> torch.Tensor:
        return torch.stack([torch.stack(row, dim=1) for row in self.rows])


def drawn(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, 2, width, 3)


def columns(keys: torch.Tensor) -> Columns:
    made = Columns()
    made.update(keys, -keys)
    return made


@pytest.mark.parametrize("seed", range(20))
def test_rows_enter_grow_and_leave(seed: int) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    first = drawn(chance.randint(1, 5), chance.randint(1, 9))
    ours, naive = columns(first), Naive(first)
    for _ in range(60):
        count, width = len(naive.rows), len(naive.rows[0])
        match chance.randrange(5):
            case 0:
                rows = [chance.randrange(count) for _ in range(chance.randint(1, count + 1))]
                skip = chance.randint(0, width - 1)
                ours.keep(rows, skip)
                naive.keep(rows, skip)
            case 1:
                entering = drawn(chance.randint(1, 4), chance.randint(1, 30))
                ours.join(columns(entering))
                naive.join(entering)
            case _:
                new = drawn(count, chance.choice([1, 1, 1, 70]))
                ours.update(new, -new)
                naive.update(new)
        assert torch.equal(ours.keys, naive.keys)
        assert torch.equal(ours.values, -naive.keys)
        if len(naive.rows) > 12:
            naive.keep([0], 0)
            ours.keep([0], 0)


def test_places_without_rows_are_never_seen() -> None:
    """Memory that nothing was written to may hold NaN, which a mask does not take away."""
    ours = columns(drawn(2, 4))
    ours.update(drawn(2, 1), drawn(2, 1))
    for store in ours._stores:
        store[:, :, ours._last :] = torch.nan
        store[len(ours.keys) :] = torch.nan
    ours.join(columns(drawn(1, 3)))
    ours.join(columns(drawn(2, 9)))
    ours.update(drawn(5, 1), drawn(5, 1))
    assert bool(torch.isfinite(ours.keys).all()) and bool(torch.isfinite(ours.values).all())


def test_a_row_that_leaves_moves_only_those_behind_the_rest() -> None:
    ours = columns(drawn(6, 4))
    ours.update(drawn(6, 1), drawn(6, 1))
    store = ours._stores[0]
    ours.keep(_places_kept([False, True, False, False, False, False]), 0)
    assert ours.keys.data_ptr() == store.data_ptr()


@pytest.mark.parametrize(
    ("done", "kept"),
    [("", []), ("00", [0, 1]), ("11", []), ("10", [1]), ("0100", [0, 3, 2]), ("10101", [3, 1]), ("1110001", [5, 4, 3])],
)
def test_rows_at_the_end_fill_the_gaps(done: str, kept: list[int]) -> None:
    assert _places_kept([c == "1" for c in done]) == kept
