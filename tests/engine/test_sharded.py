"""The base's layers divided over the ranks: the bits of as many ranks that hold the whole base, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.models import loading
from engine.training import sharding
from engine.training.ranks import ALONE
from tests.engine.ranking import scenarios
from tests.engine.tiny import tiny_model

ROUNDING = 1e-6
"""Of losses and measurements. AdamW's first steps turn the last bits of tiny gradients into whole steps of weights."""


@pytest.fixture
def find(base_of: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    def found(name: str, family: str = "llama", **overrides: Any) -> Any:
        return scenarios("training_sharded", base_of(family, **overrides), tmp_path, name)[name]

    return found


def check_equal(found: dict[str, Any], rounding: float = ROUNDING, weights: float = 2e-5) -> None:
    """To the last bit what data parallel training gives; within rounding what one process gives."""
    assert found["as_data_parallel"] and found["same_on_all"]
    assert found["loss"] < rounding and found["measured"] < rounding and found["weights"] < weights
    assert found["norm"] < 5 * rounding
    assert sorted(row for rows in found["rows"] for row in rows) == found["rows_alone"]
    assert found["measurements"] == 3 and found["answered"] == 4
    assert found["saved"][0] == [10] and not any(found["saved"][1:])  # rank 0 alone writes


def test_two_processes_with_half_of_each_layer_train_measure_and_answer_as_one(find: Callable[..., Any]) -> None:
    two = find("two")
    check_equal(two)
    assert all(two["answers"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["nf4", "fp4", "small micro-batches", "fewer rows than ranks", "activation checkpointing", "padded", "some layers"],
)
def test_so_they_do_whatever_the_base_and_however_the_step_is_split(find: Callable[..., Any], name: str) -> None:
    found = find(name)
    check_equal(found)
    assert all(found["answers"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dora", "pissa", "loftq", "head alone"])
def test_so_they_do_with_other_adapters(find: Callable[..., Any], name: str) -> None:
    check_equal(find(name))


@pytest.mark.slow
def test_so_they_do_with_modules_that_are_trained_whole(find: Callable[..., Any]) -> None:
    check_equal(find("modules to save"), weights=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bfloat16", "nf4 in bfloat16"])
def test_in_16_bits_rounding_is_coarser(find: Callable[..., Any], name: str) -> None:
    check_equal(find(name), rounding=4e-3, weights=4e-2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "phi3", "gpt_neox"])
def test_other_architectures_divide_too(find: Callable[..., Any], family: str) -> None:
    check_equal(find("nf4", family))


@pytest.mark.slow
def test_with_dropout_the_bits_are_those_of_data_parallel(find: Callable[..., Any]) -> None:
    found = find("two", "gpt2")  # which has dropout in its layers
    assert found["as_data_parallel"] and found["same_on_all"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two, then one", "one, then three"])
def test_a_run_goes_on_with_another_number_of_processes(find: Callable[..., Any], name: str) -> None:
    found = find(name)
    assert found["loss"] < ROUNDING and found["weights"] < 5e-6 and found["same_on_all"]
    assert found["all_rows"] == found["rows_alone"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["held", "held in nf4"])
def test_each_process_holds_half_of_the_layers(find: Callable[..., Any], name: str) -> None:
    """Counted are all tensors that are alive after a training pass and a measurement."""
    found = find(name, num_hidden_layers=6)
    alone = found["alone"]
    for rank in found["ranks"]:
        half = alone["alive"] - rank["alive"]
        assert half == pytest.approx(rank["layers"] / 2, rel=0.01)
        assert rank["whole"] - rank["here"] == pytest.approx(rank["layers"] / 2, rel=0.01)
        assert (rank["here"], rank["whole"]) == (found["ranks"][0]["here"], alone["whole"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory while training", "memory while measuring"])
def test_memory_that_runs_out_on_one_rank_ends_the_run_with_what_to_do(find: Callable[..., Any], name: str) -> None:
    first, second = (rank["problem"] for rank in find(name)["ranks"])
    assert first == f"rank 1: {second}"
    assert "not enough memory for a micro-batch" in second or "because memory ran out" in second


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_names_its_row(find: Callable[..., Any]) -> None:
    found = find("nan")
    assert found["checkpoints"] == ["step-000003"]
    assert len({rank["where"] for rank in found["ranks"]}) == 1
    for rank in found["ranks"]:
        assert "NaN or infinite in step 4" in rank["problem"] and rank["where"].startswith("rows.jsonl:")


def test_one_process_divides_nothing() -> None:
    assert not sharding.divides("fsdp", ALONE)


def test_what_has_no_layers_to_divide_is_refused(base_of: Callable[..., Path]) -> None:
    causal = tiny_model("llama")
    loaded = loading.Loaded(causal, None, "here", loading.torch.device("cpu"), loading.torch.float32, "none")
    assert len(sharding._layers(loaded)) == 2
    causal.model.layers[1].mlp = causal.model.layers[0].mlp
    with pytest.raises(InputError, match="its layers share weights"):
        sharding._layers(loaded)
    causal._no_split_modules = None
    with pytest.raises(InputError, match=r"transformers does not say .* are"):
        sharding._layers(loaded)
