"""Choices, columns, what is asked of whom with which history; and the texts of the columns: wrapped, safe, compared."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol import Answered, Loaded
from engine.text import cells
from workbench.models import compare_text as shown
from workbench.models.compare import BASE_CHOICE, Answer, Choice, Comparison, Sampling, Turn, digits, everything
from workbench.models.workspace import ProjectInfo, RunInfo, Snapshot

A = Choice("demo-0001", "demo/0001", Path("/a"))
B = Choice("demo-0002", "demo/0002", Path("/b"))


def snapshot() -> Snapshot:
    def run(label: str, state: str = "done", adapter: bool = True, checkpoints: tuple[int, ...] = ()) -> RunInfo:
        return RunInfo(label, Path("/w") / label, state, adapter=adapter, checkpoints=checkpoints)

    mine = (run("demo/0001", checkpoints=(20, 40)), run("demo/0002"), run("demo/0003", "running", False, (10,)))
    other = (run("other/0001"),)
    return Snapshot(
        Path("/w"),
        {"demo": ProjectInfo("demo", Path("/d"), mine), "other": ProjectInfo("other", Path("/o"), other)},
    )


def said(model: str | None, **more) -> Answered:
    values = {
        "largest_logit_difference": 1.5,
        "kl": 0.25,
        "changed": model is not None,
        "stopped": True,
        "seconds": 1.0,
    }
    return Answered(1, 0, model, "x", 3, "abcdef0123" if model else "", **{**values, **more})


def test_digits_are_base_what_trains_then_the_newest_adapters() -> None:
    assert [c.name for c in digits(snapshot(), "demo", None)] == ["base", "demo-0002", "demo-0001"]
    training = digits(snapshot(), "demo", "demo/0003")
    assert [c.name for c in training] == ["base", "demo-0003", "demo-0002", "demo-0001"]
    assert training[1].training and training[1].path is None and digits(snapshot(), "none", None) == [BASE_CHOICE]


def test_everything_has_the_checkpoints_and_the_other_projects_too() -> None:
    names = [c.name for c in everything(snapshot(), "demo", None)]
    assert names == ["base", "demo-0002", "demo-0001", "demo-0003-step-10", "demo-0001-step-40", "demo-0001-step-20",
                     "other-0001"]  # fmt: skip
    checkpoint = next(c for c in everything(snapshot(), "demo", None) if c.name == "demo-0001-step-20")
    assert str(checkpoint.path) == "/w/demo/0001/checkpoints/step-000020"


def test_columns_are_stepped_swapped_added_and_removed() -> None:
    it, among = Comparison(), [BASE_CHOICE, A, B]
    it.focused = 1
    it.step(among, 1)
    assert it.columns == [BASE_CHOICE, A]
    it.step(among, -2)
    assert it.columns == [BASE_CHOICE, B]
    it.swap()
    assert it.columns == [B, BASE_CHOICE]
    assert it.add(among) and it.columns[2] == A and it.focused == 2
    assert it.add(among) and not it.add(among) and len(it.columns) == 4
    assert it.shown == [B, BASE_CHOICE, A]
    for left in (3, 2, 1):
        assert it.remove() and len(it.columns) == left
    assert not it.remove() and it.focused == 0


def test_a_training_that_ended_becomes_the_stored_adapter_of_its_name() -> None:
    it = Comparison(columns=[BASE_CHOICE, Choice("demo-0002", "demo/0002", training=True)])
    it.renew([BASE_CHOICE, A, B])
    assert it.columns == [BASE_CHOICE, B]


def asked_of(it: Comparison, choice: Choice) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in it.asked(choice, it.turns[-1]).messages]


@pytest.mark.parametrize(
    ("history", "base", "adapter"),
    [("own", "from base", "from a"), ("shared", "from a", "from a"), ("none", "", "")],
)
def test_history_is_each_ones_own_shared_or_none(history: str, base: str, adapter: str) -> None:
    before = Turn("first", lead=A.name)
    before.answers = {c.name: Answer(c, "done", f"from {'a' if c is A else c.name}") for c in (BASE_CHOICE, A)}
    it = Comparison(turns=[before, Turn("second")], sampling=Sampling(history=history, system="be kind"))
    for choice, answer in ((BASE_CHOICE, base), (A, adapter), (B, "from a" if history != "none" else "")):
        turns = [("user", "first"), ("assistant", answer)] if answer else []
        assert asked_of(it, choice) == [("system", "be kind"), *turns, ("user", "second")], choice


def test_raw_text_is_asked_as_it_is_and_an_answer_goes_on_from_what_it_has() -> None:
    turn = Turn("The train", raw=True)
    turn.answers[A.name] = Answer(A, so_far=" to")
    asked = Comparison(turns=[turn]).asked(A, turn)
    assert (asked.model, asked.text, asked.messages, asked.so_far) == ("demo-0001", "The train", [], " to")
    assert Comparison(turns=[turn]).asked(BASE_CHOICE, turn).model is None


# --- texts

HOSTILE = "[red]x[/] \x1b[31mred\x07 \u202egnirts \U0001f600 a\tb\r\n" + "y" * 300


@given(st.text(max_size=300), st.integers(2, 60))
def test_wrapped_lines_fit_and_lose_nothing_but_spaces_at_breaks(text: str, width: int) -> None:
    lines = shown.wrapped([(text[:100], "a"), (text[100:], "b")], width).lines
    flat = ["".join(part for part, _ in line) for line in lines]
    assert all(cells(line) <= max(2, width) for line in flat)
    assert "".join(flat).replace(" ", "") == shown.safe(text).replace("\n", "").replace(" ", "")


@given(st.text("ab \n\t日\x1b", max_size=200), st.data(), st.integers(2, 20))
def test_text_that_goes_on_is_wrapped_as_if_it_had_come_at_once(text: str, data: st.DataObject, width: int) -> None:
    before = None
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    for cut in [*cuts, len(text)]:
        runs = [(text[: min(cut, 50)], "a"), (text[50:cut], "b"), ("|", "note")]
        before = shown.wrapped(runs, width, before)
        assert before == shown.wrapped(runs, width)
    other = [(text[:7] + "x" + text[8:], "a")]
    assert shown.wrapped(other, width, before) == shown.wrapped(other, width)


def test_looks_stay_with_their_text_when_it_is_wrapped() -> None:
    lines = shown.wrapped([("one two ", ""), ("three", "differs"), (" four", "")], 9).lines
    assert lines == [[("one two", "")], [("three", "differs")], [("four", "")]]


def test_a_megabyte_without_a_space_is_wrapped_at_once() -> None:
    import time

    begun = time.monotonic()
    lines = shown.wrapped(shown.answer_runs(Answer(A, "done", "x" * 10**6), "text", None, "base", False), 40).lines
    assert time.monotonic() - begun < 5 and "more characters" in str(lines[-1])


@pytest.mark.parametrize("mode", list(shown.MODES))
def test_hostile_text_is_only_text(mode: str) -> None:
    answer = Answer(A, "done", HOSTILE, [(HOSTILE, -0.5), ("\x1b", -0.1)], said=said("\x1b[1m"))
    turn = Turn(HOSTILE, where="\x1b", reference=HOSTILE)
    turn.reference_tokens, turn.reference_scores = [HOSTILE], {"base": [-1.0], A.name: [-0.1]}
    runs = shown.answer_runs(answer, mode, Answer(B, "done", HOSTILE + "!"), "\x1bbase", False)
    runs += shown.prompt_runs(turn, False) + shown.proof(answer, False)
    runs += shown.reference_runs(turn, A.name, False, numbers=mode == "numbers")
    for line in shown.wrapped(runs, 40).lines:
        text = "".join(part for part, _ in line)
        assert cells(text) <= 40
        assert not any(c in text for c in "\x1b\x07\u202e\r\t"), repr(text)


def test_words_that_the_other_has_not_are_marked() -> None:
    runs = shown.differing("Anna has 7 apples.", "Anna had 7 red apples.")
    assert [text.strip() for text, look in runs if look == "differs"] == ["has"]
    assert "".join(text for text, _ in runs) == "Anna has 7 apples."


@pytest.mark.parametrize("words", [["a"], ["a", "b"], [f"w{i}" for i in range(37)], [f"w{i}" for i in range(999)]])
def test_comparing_words_is_quick_however_they_repeat(words: list[str]) -> None:
    import time

    one = " ".join(words[i % len(words)] for i in range(990))
    other = " ".join(words[(i * i + 1) % len(words)] for i in range(990))
    begun = time.process_time()
    runs = shown.differing(one, other)
    assert time.process_time() - begun < 2 and "".join(t for t, _ in runs) == one
    assert "compared" in str(shown.differing(one * 3, other))


def test_tokens_are_coloured_by_their_ratio_and_numbered() -> None:
    answer = Answer(A, "done", "ab", [("a", -0.01), ("b", -0.02)])
    assert shown.token_runs(answer, "base", numbers=False, ascii=False) == [("a", ""), ("b", "")]
    answer.scored, answer.scores = (
        ["a", "b"],
        {A.name: [math.log(0.9), math.log(0.5)], "base": [math.log(0.01), math.log(0.6)]},
    )
    assert shown.token_runs(answer, "base", numbers=False, ascii=False) == [("a", "more3"), ("b", "")]
    text = "".join(t for t, _ in shown.token_runs(answer, "base", numbers=True, ascii=False))
    assert "90.0%" in text and "1.0%" in text and "+4.50" in text
    assert shown.look_of(-5.0, -0.1) == "less3" and shown.look_of(-5.0, math.nan) == "less2"


def test_a_proof_names_the_weights_and_says_in_words_that_nothing_changed() -> None:
    def words(answer: Answer) -> str:
        return "".join(text for text, _ in shown.proof(answer, True))

    assert words(Answer(BASE_CHOICE, "done", "x", said=said(None))).startswith("base - 3 tokens")
    proof = words(Answer(A, "done", "x", said=said(A.name)))
    assert "demo-0001 abcdef01, from base: logits up to 1.5, KL 0.25 nats" in proof
    assert "this adapter changed nothing" in words(Answer(A, "done", "x", said=said(A.name, changed=False, kl=0.0)))
    assert "at step 41" in words(Answer(A, "done", "x", said=said(A.name, step=41)))
    assert "cut off" in words(Answer(A, "done", "x", said=said(A.name, stopped=False)))
    assert "should not be" in words(Answer(BASE_CHOICE, "done", "x", said=said(None, changed=True)))
    assert shown.proof(None, True) == shown.proof(Answer(A), True) == []


def test_a_title_keeps_hash_and_words_where_it_is_narrow() -> None:
    held = Loaded(A.name, "abcdef0123")
    assert shown.title("1", A, held, None, "", 40) == "1 demo/0001 abcdef01"
    assert cells(shown.title("1", A, held, None, "loading", 24)) <= 24
    assert "loading" in shown.title("1", A, None, None, "loading", 24)


def test_names_of_adapters_are_shortened_for_heads_of_columns() -> None:
    names = ["starter-0002", "starter-0002-step-40", "base", "w-2-0003"]
    assert [shown.short_name(n) for n in names] == ["0002", "0002@40", "base", "0003"]
