"""`check` and `rows`: every mistake at once, the ledger, and a row as the model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine import tiny
from tests.engine.commandline import Call, document, pairs, write_project, write_rows

# --- check


def test_check_lists_every_mistake_at_once(call: Call) -> None:
    write_project("bad", '[train]\nlearnin_rate = 1e-4\nepochs = "3"\n[lora]\nr = 0\n')
    found = document(call("check", "bad", "--set", "eval.windw=3", "--json"), 2)
    assert not found["ok"] and len(found["problems"]) == 4
    (typo,) = [p for p in found["problems"] if p["where"].endswith("project.toml:2:1")]
    assert "did you mean `learning_rate`" in typo["problem"]
    code, out, _ = call("check", "bad")
    assert code == 2 and "3 problems:" in out


def test_check_reports_data_and_base_together(call: Call) -> None:
    write_project("bad", '[model]\nbase = "./nowhere"\n[data]\ntrain = "a.jsonl"\ntest = "b.jsonl"\n')
    found = document(call("check", "bad", "--json"), 2)
    assert [p["where"] for p in found["problems"]] == [str(Path.cwd() / "nowhere"), "a.jsonl", "b.jsonl"]


@pytest.mark.usefixtures("demo")
def test_check_without_the_model(call: Call) -> None:
    found = document(call("check", "demo", "--no-model", "--json"))
    assert found["ok"] and found["data"]["shape"] == "prompt_completion" and found["data"]["ledger"]["read"] == 20
    assert "lengths" not in found


@pytest.mark.usefixtures("demo")
def test_check_measures_rows_as_they_are_before_cutting(call: Call) -> None:
    whole = document(
        call("check", "demo", "--set", "train.examples_per_step=5", "--json"), 2
    )  # the base has no weights
    lengths = whole["lengths"]["train"]
    assert [p["problem"] for p in whole["problems"]] == ["no model.safetensors and no model.safetensors.index.json"]
    assert lengths["rows"] == 16 and lengths["cut"] == 0 and 0 < lengths["min"] <= lengths["median"] <= lengths["max"]
    assert whole["steps_per_epoch"] == 4 and whole["steps"] == 12
    assert 0 < lengths["supervised"] < lengths["tokens"]
    short = document(call("check", "demo", "--set", f"train.max_length={lengths['max'] - 1}", "--json"), 2)
    assert short["lengths"]["train"]["max"] == lengths["max"] and short["lengths"]["train"]["cut"] > 0
    assert short["lengths"]["train"]["tokens"] < lengths["tokens"]
    assert any("longest has" in warning for warning in short["warnings"])


def test_check_refuses_rows_that_the_base_cannot_take(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(10), {"question": "long " * 120, "answer": "yes"}])
    found = document(call("check", "demo", "--set", "data.test_fraction=0.0", "--json"), 2)
    assert any("this base takes 256" in p["problem"] and p["where"].endswith(":11") for p in found["problems"])


def test_check_says_that_too_many_rows_are_refused(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(5), "{broken\n", {"question": "no answer"}])
    for more in ([], ["--no-model"]):
        found = document(call("check", "demo", *more, "--set", "data.test_fraction=0.0", "--json"), 2)
        (problem,) = [p for p in found["problems"] if "refused" in p["problem"]]
        assert problem["where"] == "data/demo.jsonl:6" and "2 of 7 rows" in problem["problem"]
        assert any("no unseen rows" in warning for warning in found["warnings"])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "phi3"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj", "c_attn", "query_key_value", "qkv_proj"]])
def test_trainable_parameters_are_those_that_peft_makes(family: str, targets: Any) -> None:
    from peft import LoraConfig, get_peft_model

    from engine.tables import LoraTable
    from engine.verbs.check import trainable_parameters

    causal = tiny.tiny_model(family)
    shapes = {name: tuple(p.shape) for name, p in causal.state_dict().items()}
    lora = LoraTable(r=4, target_modules=targets, rank_pattern={"down_proj": 2})
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, rank_pattern=dict(lora.rank_pattern))
    made = get_peft_model(causal, config)
    assert trainable_parameters(shapes, lora) == sum(p.numel() for p in made.parameters() if p.requires_grad)


# --- rows


@pytest.mark.usefixtures("demo")
def test_rows_contract(call: Call) -> None:
    found = document(call("rows", "demo", "--json"))
    ledger = found["ledger"]
    assert set(ledger) >= {"read", "kept", "cut", "refused", "duplicates", "nothing_to_learn"}
    assert ledger["read"] == ledger["kept"] + ledger["cut"] + ledger["refused"] == 20
    assert found["shape"] == "prompt_completion" and "row" not in found


@pytest.mark.usefixtures("demo")
def test_a_row_as_the_model_sees_it(call: Call) -> None:
    whole = ["--set", "data.test_fraction=0.0"]
    found = document(call("rows", "demo", *whole, "--row", "3", "--limit", "2", "--json"))
    row = found["row"]
    assert row["where"] == "data/demo.jsonl:3" and [r["where"] for r in found["shown"]][1] == "data/demo.jsonl:4"
    learned = [s["text"] for s in row["segments"] if s["weight"]]
    assert learned == ["It is 4. #### 4<|im_end|>"] and not row["cut"]
    assert row["text"] == "".join(s["text"] for s in row["segments"]) == tiny.tiny_tokenizer().decode(row["ids"])
    assert row["supervised"] == sum(w > 0 for w in row["weights"][1:]) and row["tokens"] == len(row["ids"])
    code, out, _ = call("rows", "demo", *whole, "--where", "demo.jsonl:3", "--tokens")
    assert code == 0 and "⟦It is 4. #### 4<|im_end|>⟧" in out
    assert sum(line.split()[1] == "1" for line in out.split("token\n")[1].splitlines()) == row["supervised"]


def test_text_of_a_row_cannot_act_on_the_terminal(call: Call, demo: Path) -> None:
    write_rows(demo, [{"question": "a\x1b[2Jb", "answer": "c\x9bd"}])
    code, out, _ = call("rows", "demo", "--tokens", "--set", "data.test_fraction=0.0")
    assert code == 0 and "a\\x1b[2Jb" in out and not {"\x1b", "\x9b"} & set(out)


def test_refused_rows_are_listed_even_where_train_would_stop(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(5), *["{broken\n"] * 30])
    code, out, _ = call("rows", "demo")
    assert code == 0 and "`train` will stop" in out and out.count("data/demo.jsonl:") == 21
    assert "... and 10 more" in out
    assert call("rows", "demo", "--all")[1].count("data/demo.jsonl:") == 31
    found = document(call("rows", "demo", "--json"))
    assert len(found["ledger"]["refusals"]) == found["ledger"]["refused"] == 30


def test_tools_that_the_template_does_not_show_are_said(call: Call, demo: Path) -> None:
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
    write_rows(demo, [{"messages": chat, "tools": [{"name": "look_up"}]}, {"messages": chat}])
    said = "1 rows define tools, which this template does not show to the model"
    assert said in document(call("check", "demo", "--json", "--set", "data.test_fraction=0.0"), 2)["warnings"]
    assert f"warning: {said}" in call("rows", "demo", "--set", "data.test_fraction=0.0")[1]


def test_a_row_that_is_not_there_says_why(call: Call, demo: Path) -> None:
    write_rows(demo, [*pairs(3), {"question": "no answer"}, *pairs(2)])
    whole = ("--set", "data.test_fraction=0.0", "--json")
    by_number = document(call("rows", "demo", "--row", "4", *whole), 2)["error"]
    assert by_number == document(call("rows", "demo", "--where", "data/demo.jsonl:4", *whole), 2)["error"]
    assert by_number["problem"].startswith("this row was refused: missing column") and by_number["where"].endswith(":4")
    assert document(call("rows", "demo", "--row", "70", *whole), 2)["error"]["problem"] == "there is no row 70"
    assert "no such row" in document(call("rows", "demo", "--where", "x:1", *whole), 2)["error"]["problem"]
    assert "no unseen rows" in document(call("rows", "demo", "--split", "test", *whole), 2)["error"]["problem"]


@pytest.mark.usefixtures("demo")
def test_a_row_is_shown_whichever_side_a_parted_source_gave_it(call: Call) -> None:
    found = document(call("rows", "demo", "--row", "1", "--limit", "20", "--json"))["shown"]
    assert [row["where"] for row in found] == [f"data/demo.jsonl:{n}" for n in range(1, 21)]
    assert {row["split"] for row in found} == {"train", "test"}
    unseen = next(n for n, row in enumerate(found, 1) if row["split"] == "test")
    assert document(call("rows", "demo", "--row", str(unseen), "--split", "test", "--json"))["row"] == found[unseen - 1]
    other = document(call("rows", "demo", "--row", str(unseen), "--split", "train", "--json"), 2)["error"]
    assert other["problem"] == "this row is on the side of test" and other["remedy"] == "--split test"


@pytest.mark.usefixtures("demo")
def test_a_row_past_the_limit_is_there_but_not_used(call: Call) -> None:
    limited = ("--set", "data.train_limit=5", "--set", "data.test_fraction=0.0", "--json")
    assert document(call("rows", "demo", "--row", "9", *limited), 2)["error"]["problem"] == "this row is not used"


@pytest.mark.usefixtures("demo")
def test_the_ledger_needs_no_tokenizer(call: Call) -> None:
    code, out, _ = call("rows", "demo", "--set", "model.base=./nowhere")
    assert code == 0 and "not known: " in out and "nowhere" in out
    found = document(call("rows", "demo", "--set", "model.base=./nowhere", "--json"))
    assert found["ledger"]["read"] == 20 and "nowhere" in found["incomplete"]
    assert call("rows", "demo", "--set", "model.base=./nowhere", "--row", "1")[0] == 2
