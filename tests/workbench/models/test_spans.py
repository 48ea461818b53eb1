"""Marks: what a mistake is about, always inside the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import spec
from workbench.jobs.check_text import check_text
from workbench.models.spans import mark


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ('[lora]\nr = "8"  # small', 'r = "8"'),
        ("[lora]\ndropoutt = 0.1", "dropoutt"),
        ("[lorb]", "lorb"),
        ("[lora]\nalpha = -1.0", "alpha = -1.0"),
        ('x = "abc', '"abc'),
        ("r = 1 2", "2"),
        ("r =", "="),
    ],
)
def test_marks_what_it_is_about(text: str, marked: str) -> None:
    (wrong,) = check_text(text)
    m = wrong.mark
    assert text.split("\n")[m.row][m.start : m.end] == marked


def test_every_mistake_of_the_engine_has_its_mark() -> None:
    text = "[lora]\nr = 0\nfoo = 1\n[train]\nepochs = 'x'\nearly_stopping = 3\n"
    with pytest.raises(spec.SpecError) as caught:
        spec.parse(text)
    assert [w.text for w in check_text(text)] == [m.problem for m in caught.value.mistakes]


@settings(max_examples=400)
@given(st.text(max_size=60), st.integers(-3, 20), st.integers(-3, 90), st.text(max_size=10))
def test_is_never_empty_nor_outside(text: str, line: int, column: int, words: str) -> None:
    lines = text.split("\n")
    m = mark(lines, line, column, words)
    assert 0 <= m.row < len(lines)
    assert 0 <= m.start < m.end <= max(len(lines[m.row]), m.start + 1)
    assert m.start <= len(lines[m.row])


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(["[lora]\n", "r = 8\n", "[", '"', "'''", "=", "#", "\n", "x", "\x1b", "é", "1"]), max_size=20
    )
)
def test_checking_never_raises(pieces: list[str]) -> None:
    text = "".join(pieces)
    for wrong in check_text(text):
        assert wrong.mark.row < len(text.split("\n"))
