"""A file's text goes into the editor and back without losing a character; what is shown acts on no terminal."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from textual.document._document import Document

from workbench.models.text_buffer import Buffer, showable

TEXTS = st.text(st.sampled_from("ab\n\r\t\x0b\x0c\x1c\x85\u2028\u2029\x1b\u202eé🙂\U000f000b")) | st.text()


@given(TEXTS)
def test_there_and_back(text: str) -> None:
    buffer = Buffer.of(text)
    if "\U000f000b" not in text:
        assert buffer.file_text(Document(buffer.text).text) == text
    assert len(Document(buffer.text).lines) == buffer.text.count("\n") + 1


def test_pairs_of_windows_are_kept_and_mixed_ones_too() -> None:
    assert Buffer.of("a\r\nb\r\n") == Buffer("a\nb\n", "\r\n")
    assert Buffer.of("a\r\nb\n").file_text(Buffer.of("a\r\nb\n").text) == "a\r\nb\n"


@given(TEXTS.filter(lambda t: "\n" not in t))
def test_nothing_shown_acts(line: str) -> None:
    for ascii in (False, True):
        shown = showable(Buffer.of(line).text, ascii=ascii)
        assert len(shown) == len(line)
        assert not any(unicodedata.category(c) == "Cc" and c != "\t" for c in shown)
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
