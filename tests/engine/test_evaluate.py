"""The matrix of models and splits: what is compared with what, exact match, what is left out, what stays untouched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
import torch

from engine import events, spec
from engine.errors import InputError, WorkFailed
from engine.evaluation import matrix, metrics
from engine.evaluation.results import Evaluation
from engine.models.loaded import Loaded
from engine.models.loss import Head
from engine.tables import Project
from engine.tokens.examples import Encoder, Example, Segment, collate
from engine.training import lora
from tests.engine import tiny


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    stopped: bool = True


def fake_asker(answers: Callable[[list[int]], str]) -> Any:
    """Stands for generation: a text for each prompt."""

    def ask(prompts: Sequence[list[int]], progress: Any) -> list[FakeAnswer]:
        progress(len(prompts), len(prompts))
        return [FakeAnswer(answers(prompt)) for prompt in prompts]

    return ask


def project_of(**values: Any) -> Project:
    """A project with [eval] values."""
    return spec.parse(tomlkit.dumps({"eval": {"bootstrap": 100, **values}}))


def examples_of(tokenizer: Any, answers: Sequence[str], name: str = "rows.jsonl") -> list[Example]:
    encoder, made = Encoder(tokenizer), []
    for line, answer in enumerate(answers, 1):
        ask = Segment(f"Question: {line} apples?\nAnswer:", 0.0, True)
        ids, weights = encoder.encode([ask, Segment(" " + answer, 1.0, True), Segment(tiny.EOS, 1.0)])
        made.append(Example(np.array(ids, np.int32), np.array(weights, np.float32), f"{name}:{line}", answer))
    return made


def save_adapter(folder: Path, seed: int) -> Path:
    """An adapter of random values in PEFT's layout."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(tiny.tiny_model("llama"), config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def loaded(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The base with two adapters."""
    made = tiny.tiny_loaded(base_folder)
    for seed, name in enumerate(("starter/0001", "b")):
        made.load_adapter(name, save_adapter(tmp_path_factory.mktemp("adapter"), seed))
    return made


def run(
    loaded: Loaded, splits: dict[str, list[Example]], models: Sequence[str | None] = (None,), **how: Any
) -> tuple[Evaluation, list[events.Event]]:
    told: list[events.Event] = []
    project = how.pop("project", None) or project_of(exact_match="none")
    return matrix.evaluate(loaded, splits, models, project, emit=told.append, **how), told


SPLITS = {
    "train": ["so 4\n#### 4", "so 5\n#### 5", "so 6\n#### 6"],
    "test": ["so 7\n#### 7", "so 1,000\n#### 1,000"],
}


@pytest.fixture
def splits(loaded: Loaded) -> dict[str, list[Example]]:
    return {name: examples_of(loaded.tokenizer, answers, f"{name}.jsonl") for name, answers in SPLITS.items()}


# --- the matrix


def test_every_model_is_measured_on_every_split_in_both_scopes(loaded, splits):
    found, _ = run(loaded, splits, [None, "starter/0001", "b"])
    assert [(r.model, r.split, r.scope) for r in found.rows] == [
        (model, split, scope)
        for model in ("base", "starter/0001", "b")
        for split in ("train", "test")
        for scope in ("completion", "all")
    ]
    assert len({r.nll for r in found.rows}) == len(found.rows)
    for split in splits:
        for scope in ("completion", "all"):
            assert len({r.tokens for r in found.rows if (r.split, r.scope) == (split, scope)}) == 1


def test_rows_are_sums_of_items_and_of_the_scores_of_each_model(loaded, splits):
    found, _ = run(loaded, splits, [None, "b"])
    for row in found.rows:
        mine = [i for i in found.items if (i.model, i.split) == (row.model, row.split)]
        assert row.nll == pytest.approx(sum(i.nll[row.scope] for i in mine), rel=1e-12)
        assert row.tokens == sum(i.tokens[row.scope] for i in mine)
        assert row.perplexity == pytest.approx(math.exp(row.nll / row.tokens))
        assert row.interval is not None and row.perplexity is not None
        assert row.interval[0] <= row.perplexity <= row.interval[1]
    with loaded.using("b"):
        alone = matrix.score(loaded, splits["test"], scope="all", window=0, batch_tokens=8192)
    assert metrics.total(alone).nll == next(
        r.nll for r in found.rows if (r.model, r.split, r.scope) == ("b", "test", "all")
    )


def test_base_gives_the_same_bits_with_and_without_adapters_attached(loaded, splits, base_folder):
    plain = tiny.tiny_loaded(base_folder)
    alone, _ = run(plain, splits)
    among, _ = run(loaded, splits, ["b", None, "starter/0001"])
    assert [r for r in among.rows if r.model == "base"] == alone.rows


def test_adapters_are_tested_against_base_wherever_it_stands_in_the_order(loaded, splits):
    first, _ = run(loaded, splits, [None, "b"])
    last, _ = run(loaded, splits, ["b", None])
    without, _ = run(loaded, splits, ["b"])
    assert [r for r in first.rows if r.model == "b"] == [r for r in last.rows if r.model == "b"]
    for row in first.rows:
        assert (row.paired is None) is (row.model == "base")
    row = next(r for r in first.rows if r.model == "b")
    base = next(r for r in first.rows if r.model == "base")
    assert row.paired is not None
    assert row.paired.difference == pytest.approx((row.nll - base.nll) / row.tokens)
    assert all(r.paired is None for r in without.rows)


def test_what_is_known_is_not_measured_again(loaded, splits):
    """The same figures without a stage for base; measured again where rows or settings are others."""

    def of_base(told: list[events.Event]) -> bool:
        return any(isinstance(e, events.Stage) and "of base" in e.name for e in told)

    whole, _ = run(loaded, splits, [None, "b"])
    before, told = run(loaded, splits)
    assert of_base(told)
    again, told = run(loaded, splits, [None, "b"], known=before)
    assert again.to_json() == whole.to_json() and not of_base(told)
    assert of_base(run(loaded, {"test": splits["test"][1:]}, known=before)[1])
    assert of_base(run(loaded, splits, known=before, project=project_of(exact_match="none", seed=5))[1])


def test_the_rows_measured_are_a_seeded_sample(loaded):
    many = examples_of(loaded.tokenizer, [f"so {n}" for n in range(12)])
    splits = {"train": many, "test": many, "held out": many}
    found, _ = run(loaded, splits, project=project_of(exact_match="none", train_rows=4, test_rows=5, seed=3))
    again, _ = run(loaded, splits, project=project_of(exact_match="none", train_rows=4, test_rows=5, seed=3))
    other, _ = run(loaded, splits, project=project_of(exact_match="none", train_rows=4, test_rows=5, seed=4))
    assert {s: c.measured for s, c in found.counts.items()} == {"train": 4, "test": 5, "held out": 5}
    assert all(c.given == 12 for c in found.counts.values())
    assert found.items == again.items != other.items
    none, _ = run(loaded, splits, project=project_of(exact_match="none", train_rows=0))
    assert list(none.counts) == ["test", "held out"] and none.counts["test"].measured == 12


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("limit", [0, 1, 3, 7, 100])
def test_a_sample_is_in_order_without_repeats(rows, limit):
    chosen = matrix.sample(rows, limit, seed=5)
    assert chosen == sorted(set(chosen)) and all(0 <= i < rows for i in chosen)
    assert len(chosen) == (rows if limit == 0 else min(rows, limit))


def test_what_is_told_names_the_stage_and_the_sums(loaded, splits):
    found, told = run(
        loaded, splits, [None, "b"], project=project_of(exact_match="gsm8k"), ask=fake_asker(lambda _: "#### 7")
    )
    stages = {e.name: e for e in told if isinstance(e, events.Stage)}
    assert "perplexity of base on unseen rows" in stages and "answers of b on training rows" in stages
    assert all(e.done == e.total for e in stages.values())
    scored = [e for e in told if isinstance(e, events.Scored)]
    assert [(e.model, e.split, e.scope, e.nll, e.tokens, e.perplexity, e.exact_match) for e in scored] == [
        (r.model, r.split, r.scope, r.nll, r.tokens, r.perplexity, r.exact_match) for r in found.rows
    ]


# --- exact match


def test_answers_are_read_compared_and_kept_item_by_item(loaded, splits):
    written = iter(["so\n#### 8\n#### 7", "so\n#### $1,000.00.\nQuestion: 3 apples?\n#### 0"])
    found, _ = run(loaded, {"test": splits["test"]}, project=project_of(), ask=fake_asker(lambda _: next(written)))
    assert found.settings["exact_match"] == "gsm8k"
    completion, everything = found.rows
    assert completion.exact_match == 0.5
    assert completion.exact_match_interval == metrics.wilson_interval(1, 2)
    assert everything.exact_match is None and everything.exact_match_interval is None
    wrong, right = found.items
    assert (wrong.expected, wrong.extracted, wrong.correct) == ("7", "8", False)
    assert (right.where, right.expected, right.extracted, right.correct) == ("test.jsonl:2", "1000", "1000.00", True)
    assert right.reference == "so 1,000\n#### 1,000" and right.stopped is True
    assert right.prompt == tiny.BOS + "Question: 2 apples?\nAnswer:"
    assert right.answer == "so\n#### $1,000.00.\nQuestion: 3 apples?\n#### 0"


def test_mcnemar_counts_the_answers_gained_and_lost_against_base(loaded, splits):
    turn = iter(["#### 4", "#### 5", "#### 0", "#### 0", "#### 5", "#### 6"])
    found, _ = run(
        loaded,
        {"train": splits["train"]},
        [None, "b"],
        project=project_of(exact_match="gsm8k"),
        ask=fake_asker(lambda _: next(turn)),
    )
    by_model = {r.model: r for r in found.rows if r.scope == "completion"}
    assert by_model["base"].exact_match == by_model["b"].exact_match == 2 / 3
    assert by_model["base"].mcnemar is None
    assert by_model["b"].mcnemar == metrics.McNemar(1, 1, 1.0)


def test_only_match_rows_are_asked_the_same_for_every_model(loaded):
    rows = examples_of(loaded.tokenizer, [f"#### {n}" for n in range(9)])
    asked: list[list[list[int]]] = []

    def ask(prompts: list[list[int]], progress: Any) -> list[FakeAnswer]:
        asked.append(prompts)
        return [FakeAnswer("#### 0") for _ in prompts]

    found, _ = run(loaded, {"test": rows}, [None, "b"], project=project_of(match_rows=4), ask=ask)
    assert len(asked) == 2 and asked[0] == asked[1] and len(asked[0]) == 4
    assert found.counts["test"].asked == 4 and found.counts["test"].measured == 9
    assert sum(i.correct is not None for i in found.items) == 8
    assert "answer" not in found.to_json()["items"][[i.correct for i in found.items].index(None)]


def test_rows_that_cannot_be_asked_are_named_not_counted_as_wrong(loaded):
    good, unreadable, cut, bare, long = examples_of(loaded.tokenizer, ["#### 1", "one", "#### 3", "#### 4", "#### 5"])
    cut = Example(cut.ids, cut.weights, cut.where, cut.reference, cut=True)
    bare = Example(bare.ids, np.ones_like(bare.weights), bare.where, bare.reference)
    filler = np.full(300, 10, np.int32)
    long = Example(
        np.concatenate([filler, long.ids]), np.concatenate([filler * 0.0, long.weights]), long.where, long.reference
    )
    found, _ = run(
        loaded,
        {"test": [good, unreadable, cut, bare, long]},
        project=project_of(exact_match="gsm8k"),
        ask=fake_asker(lambda _: "#### 1"),
    )
    assert found.counts["test"].asked == 1 and found.rows[0].exact_match == 1.0
    places = {place for places in found.counts["test"].not_askable.values() for place in places}
    assert places == {f"rows.jsonl:{n}" for n in (2, 3, 4, 5)} and len(found.counts["test"].not_askable) == 4
    assert found.rows[0].tokens == sum(e.supervised for e in (good, unreadable, cut, bare, long))


def test_text_is_compared_as_text_and_numbers_as_numbers(loaded):
    rows = examples_of(loaded.tokenizer, ["007"])
    for kind, pattern, right in (("text", "", 0.0), ("last_number", "", 1.0), ("regex", r"(\S+)", 1.0)):
        project = project_of(exact_match=kind, answer_pattern=pattern)
        found, _ = run(loaded, {"test": rows}, project=project, ask=fake_asker(lambda _: " 7\n"))
        assert found.rows[0].exact_match == right


def test_without_references_nothing_is_generated(loaded, splits):
    def ask(prompts: Any, progress: Any) -> Any:
        raise AssertionError("asked")

    for project in (project_of(exact_match="none"), project_of(exact_match="gsm8k")):
        rows = [Example(e.ids, e.weights, e.where) for e in splits["test"]]
        found, _ = run(loaded, {"test": rows}, project=project, ask=ask)
        assert found.rows[0].exact_match is None and found.counts["test"].asked == 0


def test_answers_come_from_the_projects_own_generation(loaded, splits):
    project = spec.parse("[eval]\nbootstrap = 100\n[generate]\nmax_new_tokens = 3\n")
    found, _ = run(loaded, {"test": splits["test"]}, [None, "b"], project=project, stop=tiny.EOS)
    answers = {m: [i.answer for i in found.items if i.model == m] for m in ("base", "b")}
    assert answers["base"] != answers["b"] and all(a is not None for a in answers["base"] + answers["b"])
    assert found.settings["generate"]["max_new_tokens"] == 3


# --- refusals and odd numbers


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ([None, None], "'base' is to be measured twice"),
        (["b", "b"], "'b' is to be measured twice"),
        (["c"], "no adapter 'c'"),
    ],
)
def test_models_that_cannot_be_told_apart_or_are_not_there(loaded, splits, models, problem):
    with pytest.raises(InputError, match=problem):
        run(loaded, splits, models)


def test_an_adapter_called_base_is_refused(base_folder, splits, tmp_path):
    loaded = tiny.tiny_loaded(base_folder)
    loaded.load_adapter("base", save_adapter(tmp_path, 0))
    with pytest.raises(InputError, match="'base'"):
        run(loaded, splits, ["base"])


def test_nothing_to_measure_is_an_error(loaded, splits):
    for given in ({}, {"test": []}):
        with pytest.raises(InputError, match="no row"):
            run(loaded, given)
    with pytest.raises(InputError, match="no row"):
        run(loaded, {"train": splits["train"]}, project=project_of(train_rows=0))


def test_a_split_without_a_supervised_token_has_nulls_and_is_said(loaded, splits):
    rows = [Example(e.ids, np.zeros_like(e.weights), e.where) for e in splits["test"]]
    found, told = run(loaded, {"test": rows}, [None, "b"])
    completion, everything = found.rows[2:]
    assert completion.perplexity is completion.interval is completion.bits_per_byte is completion.paired is None
    assert completion.tokens == 0 and everything.perplexity is not None
    assert sum(isinstance(e, events.Note) and e.level == "warning" for e in told) == 2
    assert "-" in matrix.table(found)


def test_nan_is_an_error_with_the_rows(loaded, splits, monkeypatch):
    head = loaded.head
    monkeypatch.setattr(loaded, "head", Head(lambda h: head(h) * float("nan"), head.vocabulary))
    with pytest.raises(WorkFailed, match="NaN") as caught:
        run(loaded, splits)
    assert "train.jsonl:1" in str(caught.value.where)


def test_a_perplexity_beyond_a_float_is_null_and_its_nll_is_there(loaded, splits, monkeypatch):
    head = loaded.head
    monkeypatch.setattr(loaded, "head", Head(lambda h: head(h) * 1e4, head.vocabulary))
    found, _ = run(loaded, splits, [None, "b"])
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    for row in document["rows"]:
        assert row["perplexity"] is None and row["nll"] > 0 and row["tokens"] > 0
    assert "inf" in matrix.table(found)


# --- what is written and shown


def test_the_document_is_plain_json_and_explains_itself(loaded, splits):
    found, _ = run(loaded, splits, [None, "b"], project=project_of(), ask=fake_asker(lambda _: "#### 7"))
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(document) == {"rows", "items", "settings", "counts", "definitions"}
    assert set(document["rows"][0]) == {
        *("model", "split", "scope", "perplexity", "nll", "tokens", "bits_per_byte", "interval"),
        *("exact_match", "exact_match_interval", "paired", "mcnemar"),
    }
    assert set(document["rows"][-1]["paired"]) == {"difference", "interval", "p"}
    assert len(document["items"]) == 2 * sum(map(len, splits.values()))
    assert document["settings"]["context"] == loaded.limit
    for word in ("nll", "scope", "perplexity", "bits_per_byte", "paired", "mcnemar"):
        assert document["definitions"][word]


def test_the_table_fits_a_terminal_and_cannot_act_on_it(base_folder, tmp_path, splits):
    loaded = tiny.tiny_loaded(base_folder)
    name = "a/very\x1b[31m long name of an adapter, with 漢字 in it"
    loaded.load_adapter(name, save_adapter(tmp_path, 0))
    found, _ = run(loaded, splits, [None, name], project=project_of(), ask=fake_asker(lambda _: "#### 7"))
    shown = matrix.table(found)
    assert "\x1b" not in shown
    assert all(len(line) <= 80 for line in shown.split("\n"))
    assert "unseen rows: 2; " in shown and "against base: " in shown and "50.0%" in shown


# --- nothing is disturbed


def gradient(loaded: Loaded, examples: list[Example]) -> dict[str, torch.Tensor]:
    batch = collate(examples)
    loaded.causal.train()
    loaded.summed(batch).backward()
    found = {}
    for name, parameter in loaded.parameters():
        assert parameter.grad is not None
        found[name], parameter.grad = parameter.grad, None
    return found


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_gradient_after_an_evaluation_is_bit_equal_to_one_before(base_folder, splits, tmp_path, quantization):
    loaded = tiny.tiny_loaded(
        base_folder, quantization=quantization, dtype="bfloat16" if quantization == "nf4" else "float32"
    )
    lora.attach(loaded, project_of().lora, str(base_folder), None, seed=0)
    for index, (_, parameter) in enumerate(loaded.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(index))
    loaded.load_adapter("stored", save_adapter(tmp_path, 0))
    before = gradient(loaded, splits["train"])
    run(loaded, splits, [None, "stored", *[n for n in loaded.adapters if n != "stored"]])
    after = gradient(loaded, splits["train"])
    assert before and before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(float(g.abs().max()) > 0 for g in before.values())
