"""Completion: what is offered where, and that no text and no cursor makes it raise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tables import TABLES
from workbench.jobs.check_text import check_text
from workbench.models.completion import Completion, Known, complete
from workbench.models.schema import schema
from workbench.models.toml_place import place_at

KNOWN = Known(("data/rows.jsonl", "data/other/train.csv", "hub:openai/gsm8k"), ("starter", "Qwen/Qwen3-0.6B"))


def at_bar(text: str, *, asked: bool = True) -> tuple[Completion, list[str]]:
    """The completion at the "|" of a text, and the text as it is after each candidate."""
    before, after = text.split("|")
    lines = (before + after).split("\n")
    row, column = before.count("\n"), len(before) - before.rfind("\n") - 1
    found = complete(lines, row, column, schema(), KNOWN, asked=asked)
    line = lines[found.row]
    results = []
    for c in found.candidates:
        new = [*lines[: found.row], line[: found.start] + c.insert + line[found.end :], *lines[found.row + 1 :]]
        results.append("\n".join(new))
    return found, results


def labels(text: str, *, asked: bool = True) -> list[str]:
    return [c.label for c in at_bar(text, asked=asked)[0].candidates]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[lora]\ndro|", ["dropout"]),
        ("[lo|", ["lora"]),
        ("[lo|]", ["lora"]),
        ('[model]\nquantization = "n|', ["none", "nf4", "int8"]),
        ("[model]\nquantization = fp|", ["fp4"]),
        ("[train]\npacking = t|", ["true"]),
        ('[data]\ntrain = "data/r|"', ["data/rows.jsonl"]),
        ('[data]\ntest = "hub|', ["hub:openai/gsm8k"]),
        ('[model]\nbase = "Q|"', ["Qwen/Qwen3-0.6B"]),
        ('[lora]\ntarget_modules = ["q_proj", "k|"]', ["k_proj"]),
        ('[lora]\ntarget_modules = [\n  "q_proj",  # the "queries\n  "v|"', ["v_proj"]),
        ("[lora]\nalpha = |", ["32.0"]),
        ("lora.drop|", ["dropout"]),
        ('x = """\n[train]\n"""\n[lora]\ndro|', ["dropout"]),
    ],
)  # fmt: skip
def test_offers_what_fits(text: str, wanted: list[str]) -> None:
    assert labels(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "# dro|", "[lora]\nr = 8 # dro|", 'x = """\n[lora]\ndro|', "[nothing]\ndro|", "[lora.rank_pattern]\nq|",
        '[project]\ndescription = "dro|"', "[lora]\nr = q|",
    ],
)  # fmt: skip
def test_offers_nothing_where_nothing_fits(text: str) -> None:
    assert labels(text) == []


@pytest.mark.parametrize("text", ["[lora]\n|", "[train]\nepochs = 3|", "[train]\nepochs = |", "[lora]\ndropout|", "|"])
def test_does_not_come_unasked_where_it_would_be_in_the_way(text: str) -> None:
    assert labels(text, asked=False) == []


def test_comes_unasked_inside_empty_quotation_marks_of_a_choice() -> None:
    assert labels('[model]\nquantization = "|"', asked=False) == ["none", "int8", "nf4", "fp4"]


def test_keys_that_are_there_come_last_and_say_so() -> None:
    found, _ = at_bar("[lora]\nr = 8\n|\n")
    keys = [c for c in found.candidates if not c.label.startswith("[")]
    assert keys[-1].label == "r" and keys[-1].detail == "is set"
    assert {k.label for k in keys} == set(TABLES["lora"].model_fields)


def test_every_value_that_is_offered_is_valid() -> None:
    tried = 0
    for table in schema().values():
        for key in table.keys.values():
            if not key.closed and key.label not in ("data.train", "data.test", "model.base", "launch.device"):
                continue
            for typed in ("|", '"|', '"|"'):
                for text in at_bar(f"[{table.name}]\n{key.name} = {typed}\n")[1]:
                    tried += 1
                    said = "".join(w.text for w in check_text(text))  # alone it may contradict another key's default
                    assert "not one of" not in said and "TOML" not in said, (text, said)
    assert tried > 60


def test_documentation_comes_from_the_engine() -> None:
    (c,) = at_bar("[lora]\nalph|")[0].candidates[:1]
    assert "multiplied by alpha / r" in c.about and "default 32.0" in c.about and "greater than 0" in c.about


PIECES = st.sampled_from(
    ["[lora]", "[", "]", "r", " = ", '"', "'", '"""', "'''", "\\", "#", "\n", "{", "}", ",", ".", "quantization", "nf",
     "data", "8", " ", "\t", "é", "\u202e", "\x1b", "🙂", "[[", "train", "]]", "=", "a.b"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=25).map("".join), st.integers(-2, 40), st.integers(-2, 90), st.booleans())
def test_never_raises_and_stays_on_the_line(text: str, row: int, column: int, asked: bool) -> None:
    lines = text.split("\n")
    place = place_at(lines, row, column)
    found = complete(lines, row, column, schema(), KNOWN, asked=asked)
    if 0 <= row < len(lines):
        assert 0 <= place.start <= place.end <= max(len(lines[row]), column)
        if found.candidates:
            assert 0 <= found.start <= min(column, len(lines[row])) and found.end <= len(lines[row])


@settings(max_examples=100)
@given(st.sampled_from([(t, k) for t, m in TABLES.items() for k in m.model_fields]), st.integers(0, 3))
def test_a_typed_key_is_found_in_its_table(key: tuple[str, str], shorter: int) -> None:
    table, name = key
    assert name in labels(f"[{table}]\n{name[: max(1, len(name) - shorter)]}|")
