"""The arithmetic of Learn against the libraries that really do it, and its pages at any width."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tables import TrainTable
from engine.text import cells
from workbench.models.theory import TOPICS, after
from workbench.models.theory.blocks import Formula, Heading, Note, Numbers, Sources, Text, lay
from workbench.models.theory.facts import Choice, Facts, gather, names_of
from workbench.models.theory.numbers import (
    NF4,
    double_quantized,
    dynamic_code,
    learning_rate,
    nearest,
    perplexities,
    quantize,
    relative_error,
    to_bf16,
)  # fmt: skip
from workbench.models.theory.quantization import quantile_code

ROOT = Path(__file__).parents[3]


# --- 4 bits


def test_nf4_is_made_of_quantiles_of_the_normal_distribution() -> None:
    assert quantile_code() == pytest.approx(NF4, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_nf4_codes_and_weights_are_those_of_bitsandbytes(seed: int) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(64 * 40, generator=torch.Generator().manual_seed(seed)) * 0.05
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
    blocks = quantize(weights.tolist())
    theirs = [c for byte in packed.flatten().tolist() for c in (byte >> 4, byte & 15)]
    assert [c for b in blocks for c in b.codes] == theirs
    assert [b.absmax for b in blocks] == pytest.approx(state.absmax.tolist(), rel=1e-6)
    back = [w for b in blocks for w in b.back()]
    assert back == pytest.approx(dequantize_4bit(packed, state).flatten().tolist(), rel=1e-5, abs=1e-7)


def test_double_quantization_is_that_of_bitsandbytes() -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = torch.randn(64 * 300, generator=torch.Generator().manual_seed(7)) * 0.05
    packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4", compress_statistics=True)
    blocks = quantize(weights.tolist())
    scales = double_quantized([b.absmax for b in blocks])
    back = [s * NF4[i] for b, s in zip(blocks, scales, strict=True) for i in b.codes]
    assert back == pytest.approx(dequantize_4bit(packed, state).flatten().tolist(), rel=1e-4, abs=1e-6)
    assert dynamic_code() == pytest.approx(sorted(state.state2.code.tolist()), abs=1e-6)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200))
@settings(max_examples=60)
def test_no_weight_is_further_off_than_half_the_widest_gap(weights: list[float]) -> None:
    widest = max(b - a for a, b in pairwise(NF4)) / 2
    for block in quantize(weights):
        for weight, back in zip(block.weights, block.back(), strict=True):
            assert abs(weight - back) <= block.absmax * (widest + 1e-9)
    assert nearest(NF4, 0.0) == 7


def test_errors_on_a_tensor_of_the_starter_are_in_the_order_that_theory_has(sample_facts: Facts) -> None:
    assert sample_facts.sample is not None
    errors = sample_facts.sample.errors
    assert errors["16 bits"] == 0.0
    assert errors["int8, a scale a row"] < errors["NF4"] < errors["4 bits, equal steps"] < 0.2
    assert errors["NF4, double quantization"] == pytest.approx(errors["NF4"], rel=0.01)


@pytest.fixture(scope="module")
def sample_facts() -> Facts:
    return gather(ROOT, "starter", ("sample",))


def test_rounding_to_bfloat16_is_torchs() -> None:
    import torch

    values = torch.randn(2000, generator=torch.Generator().manual_seed(1))
    assert [to_bf16(v) for v in values.tolist()] == values.bfloat16().float().tolist()


# --- the rest of the arithmetic


@given(st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1), st.floats(0, 1), st.integers(1, 300))
@settings(max_examples=80)
def test_the_schedule_is_the_engines(schedule: str, warmup: float, low: float, steps: int) -> None:
    from engine.training import order

    table = TrainTable(schedule=schedule, warmup=warmup, minimum_learning_rate=low, learning_rate=1e-3)  # type: ignore[arg-type]
    for step in {0, steps // 3, steps - 1}:
        assert learning_rate(table, step, steps) == order.learning_rate(table, step, steps)


@given(st.lists(st.tuples(st.floats(0.0, 500.0), st.integers(1, 60)), min_size=1, max_size=40))
@settings(max_examples=80)
def test_a_perplexity_is_of_all_tokens(rows: list[tuple[float, int]]) -> None:
    found = perplexities(rows)
    assert found.of_all == pytest.approx(math.exp(sum(n for n, _ in rows) / sum(t for _, t in rows)))
    assert found.mean_of_rows >= found.of_mean_rows * (1 - 1e-9)  # the exponential is convex


def test_rows_of_equal_length_and_loss_have_one_perplexity() -> None:
    found = perplexities([(20.0, 10)] * 3)
    assert (found.of_all, found.mean_of_rows, found.of_mean_rows) == pytest.approx((math.exp(2),) * 3)


def test_relative_error_of_nothing_is_nothing() -> None:
    assert relative_error([0.0], [0.0]) == 0.0


# --- facts and pages


def test_facts_of_a_project_are_its_bases_real_shapes() -> None:
    facts = gather(ROOT, "starter")
    assert facts.base is not None
    assert facts.base.parameters == 5_143_808
    assert names_of(facts.base, "attention") == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert names_of(facts.base, "q and v") == ["q_proj", "v_proj"]
    choice = Choice().other_rank(facts, 1).other_alpha(facts, -1)
    assert (choice.r, choice.alpha) == (32, 16.0)
    table = Choice(targets="MLP", rslora=True).lora(facts)
    assert (table.target_modules, table.rslora) == (["down_proj", "gate_proj", "up_proj"], True)


@pytest.mark.parametrize(
    ("project", "text", "words"),
    [("", None, "no project"), ("gone", None, "no project 'gone'"), ("bad", "[lora]\nr = 0\n", "mistakes"),
     ("hub", '[model]\nbase = "nobody/nothing"\n', "not on this machine")],
)  # fmt: skip
def test_what_cannot_be_read_is_said_on_every_page(tmp_path: Path, project: str, text: str | None, words: str) -> None:
    (tmp_path / "projects").mkdir()
    if text is not None:
        (tmp_path / "projects" / project).mkdir()
        (tmp_path / "projects" / project / "project.toml").write_text(text)
    for name, topic in TOPICS.items():
        facts = gather(tmp_path, project, topic.wants)
        assert words in facts.problem
        assert lay(topic.make(facts, Choice()), 60), name


def test_an_evaluation_gives_its_three_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "projects" / "p" / "runs" / "0001"
    folder.mkdir(parents=True)
    (folder.parents[1] / "project.toml").write_text("")
    items = [
        {"model": "base[red]", "split": "test", "nll": {"completion": n}, "tokens": {"completion": t}}
        for n, t in ((10.0, 10), (30.0, 10), (5.0, 50))
    ]
    (folder / "evaluation.json").write_text(json.dumps({"items": items}))
    facts = gather(tmp_path, "p", TOPICS["perplexity"].wants)
    text = "\n".join(t for t, _ in lay(TOPICS["perplexity"].make(facts, Choice()), 90))
    mean = (math.exp(1) + math.exp(3) + math.exp(0.1)) / 3
    assert f"{math.exp(45 / 70):.4g}" in text
    assert f"{mean:.4g}" in text
    assert "base[red]" in text
    for broken in ("{", '{"items": 3}', '{"items": [{"model": 1}]}', "[]"):
        (folder / "evaluation.json").write_text(broken)
        assert gather(tmp_path, "p", ("evaluation",)).measured == ()


@pytest.mark.parametrize("topic", list(TOPICS))
@pytest.mark.parametrize("width", [20, 54, 76, 150])
def test_pages_fit_and_have_sources(topic: str, width: int) -> None:
    facts = gather(ROOT, "starter", TOPICS[topic].wants)
    for choice in (Choice(), Choice(r=512, alpha=1.0, rslora=True, targets="q and v")):
        blocks = TOPICS[topic].make(facts, choice)
        assert any(isinstance(b, Sources) for b in blocks)
        assert max(cells(text) for text, _ in lay(blocks, width)) <= width


def test_topics_lead_to_each_other() -> None:
    names = list(TOPICS)
    assert [after(n, 1) for n in names] == [*names[1:], names[0]]
    assert all(link in TOPICS and link != name for name, topic in TOPICS.items() for link in topic.links)


HOSTILE = st.text(st.sampled_from("ab \x1b[]\u202e\U0001f600/一"), max_size=80)


@given(HOSTILE, st.integers(20, 120))
@settings(max_examples=80)
def test_hostile_text_is_shown_and_does_nothing(text: str, width: int) -> None:
    blocks = [
        Heading(text),
        Text(text),
        Formula((text,)),
        Numbers([text, "b"], [[text, text]]),
        Note(text),
        Sources((text,)),
    ]
    for line, _ in lay(blocks, width):
        assert "\x1b" not in line
        assert "\u202e" not in line
        assert cells(line) <= width
