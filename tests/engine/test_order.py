"""Which examples make which step, and at what learning rate: functions of (seed, step)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tables import TrainTable
from engine.training.order import Order, learning_rate, random_seed

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=40)
TABLES = st.builds(
    TrainTable,
    epochs=st.floats(0.1, 4.0),
    examples_per_step=st.integers(1, 9),
    tokens_per_step=st.sampled_from([0, 0, 1, 30, 100]),
    packing=st.booleans(),
    max_length=st.sampled_from([8, 40, 64]),
    seed=st.integers(0, 2**63 - 1),
)


def train(**values: Any) -> TrainTable:
    return TrainTable(**values)


def epoch_of(order: Order, epoch: int) -> list[list[int]]:
    """The steps of one epoch, found by asking for steps."""
    found, step = [], 0
    while (at := order.at(step)).epoch <= epoch + 1:
        if at.epoch > epoch:
            found.append(at.examples)
        step += 1
    return found


@settings(max_examples=60)
@given(LENGTHS, TABLES)
def test_every_epoch_is_a_permutation_and_its_steps_keep_their_size(lengths: list[int], table: TrainTable) -> None:
    order = Order(lengths, table)
    for epoch in range(2):
        steps = epoch_of(order, epoch)
        assert sorted(i for step in steps for i in step) == list(range(len(lengths)))
        assert all(steps)
        for step in steps:
            tokens = sum(lengths[i] for i in step)
            if table.tokens_per_step:
                largest = max(table.max_length, 40) if table.packing else tokens * (len(step) == 1)
                assert tokens <= max(table.tokens_per_step, largest)
            elif not table.packing:
                assert len(step) <= table.examples_per_step
        if not table.packing and not table.tokens_per_step:
            assert all(len(step) == table.examples_per_step for step in steps[:-1])


@settings(max_examples=40)
@given(LENGTHS, TABLES, st.permutations(range(12)))
def test_a_step_does_not_depend_on_what_was_asked_before(
    lengths: list[int], table: TrainTable, asked: list[int]
) -> None:
    """So that a resumed run sees what it would have seen."""
    one, other = Order(lengths, table), Order(lengths, table)
    seen = {step: one.at(step) for step in asked}
    for step in range(12):
        assert other.at(step) == seen[step] == Order(lengths, table).at(step)


def test_what_a_caller_does_with_its_examples_stays_with_it() -> None:
    order = Order([5] * 6, train(examples_per_step=3))
    order.at(0).examples.sort()
    assert order.at(0) == Order([5] * 6, train(examples_per_step=3)).at(0)


def test_seeds_and_epochs_shuffle_differently() -> None:
    made = [epoch_of(Order([3] * 30, train(seed=seed)), epoch) for seed in (0, 1, 2**62) for epoch in (0, 1)]
    assert len({str(steps) for steps in made}) == len(made)


@pytest.mark.parametrize(
    ("count", "table", "steps"),
    [
        (10, {"epochs": 1.0, "examples_per_step": 4}, 3),  # 4 + 4 + 2: the rest is a step of its own
        (10, {"epochs": 3.0, "examples_per_step": 4}, 9),
        (12, {"epochs": 2.0, "examples_per_step": 4}, 6),
        (10, {"epochs": 0.5, "examples_per_step": 4}, 2),
        (10, {"epochs": 1.5, "examples_per_step": 4}, 5),
        (10, {"epochs": 2.1, "examples_per_step": 1}, 21),  # 2.1 - 2 is a little more than 0.1
        (10, {"epochs": 1e-9, "examples_per_step": 4}, 1),
        (10, {"epochs": 3.0, "steps": 7, "examples_per_step": 4}, 7),
        (1, {"epochs": 1.0, "examples_per_step": 16}, 1),
        (10, {"epochs": 1.0, "tokens_per_step": 20}, 5),  # examples of 10 tokens
        (10, {"epochs": 1.0, "tokens_per_step": 19}, 10),
        (10, {"epochs": 1.0, "tokens_per_step": 1}, 10),
        (10, {"epochs": 1.0, "examples_per_step": 1, "packing": True, "max_length": 32}, 4),  # packs of 3
    ],
)
def test_how_many_steps(count: int, table: dict[str, Any], steps: int) -> None:
    assert Order([10] * count, train(**table)).steps == steps


def test_epochs_are_counted_in_steps_done() -> None:
    order = Order([10] * 10, train(examples_per_step=4))
    assert [order.at(step).epoch for step in range(6)] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])


def test_a_step_far_away_is_found_at_once() -> None:
    """Many epochs of few rows: asking for each step in turn is not quadratic."""
    order = Order([10] * 4, train(steps=20_000))
    assert order.at(19_999).epoch == 20_000
    assert sum(len(order.at(step).examples) for step in range(20_000)) == 80_000


def test_packs_stay_together() -> None:
    lengths = [30, 30, 20, 12, 12, 8]
    order = Order(lengths, train(packing=True, max_length=32, examples_per_step=1))
    assert sorted(sorted(unit) for unit in order.units) == [[0], [1], [2, 3], [4, 5]]
    assert sorted(sorted(step) for step in epoch_of(order, 0)) == [[0], [1], [2, 3], [4, 5]]


def test_nothing_cannot_be_ordered() -> None:
    with pytest.raises(ValueError, match="no examples"):
        Order([], train())


# --- learning rates


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(
    ("steps", "warmup", "warm"), [(100, 0.0, 0), (100, 0.07, 7), (37, 0.3, 12), (10, 1.0, 10), (1, 0.0, 0), (1, 0.5, 1)]
)
def test_rates_are_those_of_transformers(schedule: str, steps: int, warmup: float, warm: int) -> None:
    """After the warm-up, exactly. In it transformers is one step behind: it begins at zero, which moves nothing."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    table = train(learning_rate=3e-4, schedule=schedule, warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-4)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = transformers.get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=steps)
    theirs = []
    for _ in range(steps):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate(table, step, steps) for step in range(steps)]
    assert ours[warm:] == pytest.approx(theirs[warm:], rel=1e-12, abs=1e-18)
    assert ours[: max(0, warm - 1)] == pytest.approx(theirs[1:warm], rel=1e-12)
    assert not warm or ours[warm - 1] == pytest.approx(3e-4)


@settings(max_examples=60)
@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1))
def test_a_rate_is_never_zero_before_the_end_nor_over_its_top(
    schedule: str, steps: int, warmup: float, minimum: float
) -> None:
    table = train(learning_rate=2e-3, schedule=schedule, warmup=warmup, minimum_learning_rate=minimum)
    rates = [learning_rate(table, step, steps) for step in range(steps)]
    warm = next((i for i, rate in enumerate(rates) if rate >= 2e-3 * (1 - 1e-9)), len(rates))
    assert all(0 < rate <= 2e-3 * (1 + 1e-12) for rate in rates)
    assert rates[: warm + 1] == sorted(rates[: warm + 1])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert all(rate >= 2e-3 * minimum * (1 - 1e-9) for rate in rates[warm:])


def test_warm_up_has_no_step_too_many() -> None:
    """0.07 * 100 is 7.000000000000001 to a computer."""
    table = train(learning_rate=1.0, warmup=0.07, schedule="linear")
    assert [learning_rate(table, step, 100) for step in (0, 6, 7, 8)] == pytest.approx([1 / 7, 1, 1, 1 - 1 / 93])


def test_seeds_are_functions_of_their_numbers() -> None:
    assert random_seed(0, 1) == random_seed(0, 1) == 2918264622725855778
    assert len({random_seed(seed, step, micro) for seed in range(3) for step in range(40) for micro in range(3)}) == 360
    assert all(0 <= random_seed(2**63 - 1, n) < 2**63 for n in range(100))
