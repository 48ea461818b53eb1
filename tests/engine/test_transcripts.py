"""Comparisons are kept whole, found again, written out exactly, and their answers become rows of the dataset's shape."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import transcripts
from engine.errors import InputError
from engine.protocol import Message
from engine.transcripts import Answer, Entry, add_to_dataset

texts = st.text(max_size=12) | st.sampled_from(["```", "a\n````b", "\x1b[2J", "# head", "o\u0302", "e\u0301", "\u2028"])
messages = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts), max_size=2)
answers = st.builds(
    Answer, st.sampled_from(["base", "starter-0003"]), texts, history=st.none() | messages,
    changed=st.none() | st.booleans(), kl=st.none() | st.floats(0, 10), step=st.none() | st.integers(0, 9),
)  # fmt: skip
entries = st.builds(Entry, texts, st.lists(answers, max_size=3), messages, st.booleans(), t=st.floats(1.0, 2e9))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(entries, max_size=5))
def test_what_is_kept_is_read_back_newest_first(tmp_path_factory: pytest.TempPathFactory, kept: list[Entry]) -> None:
    path = transcripts.path_of(tmp_path_factory.mktemp("project"))
    for entry in kept:
        transcripts.append(path, entry)
    assert list(transcripts.entries(path)) == kept[::-1]


def test_damage_costs_one_entry_and_time_is_set(tmp_path: Path) -> None:
    path = transcripts.path_of(tmp_path)
    transcripts.append(path, Entry("one", [Answer("base", "1")]))
    with path.open("ab") as file:
        file.write(b'{"prompt": "killed while wri')
    transcripts.append(path, Entry("two \udc80", [Answer("base", "2")]))
    with path.open("ab") as file:
        file.write(b'{"prompt": 3}\n\xff\xfe\n\n{"later": "version"}\n')
    found = list(transcripts.entries(path))
    assert [e.prompt for e in found] == ["two ?", "one"] and all(e.t > 1e9 for e in found)


def test_search_wants_every_word_wherever_it_is(tmp_path: Path) -> None:
    path = transcripts.path_of(tmp_path)
    transcripts.append(path, Entry("Where is ANNA?", [Answer("base", "gone"), Answer("starter-0003", "At home.")]))
    transcripts.append(path, Entry("2 + 3", [Answer("base", "5", history=[Message("user", "Straße")])]))
    find = lambda words: [e.prompt for e in transcripts.search(path, words)]  # noqa: E731
    assert find("anna home") == ["Where is ANNA?"] and find("STRASSE") == ["2 + 3"]
    assert find("starter-0003") == ["Where is ANNA?"] and find("anna 5") == [] and len(find("")) == 2


@given(entries)
def test_markdown_holds_every_text_as_it_was(entry: Entry) -> None:
    made = transcripts.as_markdown([entry])
    for said in (entry.prompt, *(a.text for a in entry.answers), *(m.content for m in entry.history)):
        fence = next(f for f in ("`" * n for n in range(3, 20)) if f not in said)
        assert f"{fence}text\n{said}\n{fence}" in made


def test_markdown_says_whose_an_answer_is_and_that_an_adapter_did_nothing() -> None:
    changed = Answer("demo-1", "x", "ab" * 32, changed=True, largest_logit_difference=2.5, kl=0.25, ended="cut")
    entry = Entry("p", [Answer("base", "y"), changed, Answer("demo-2", "y", changed=False)], base="tiny", t=1e9)
    made = transcripts.as_markdown([entry])
    assert "### demo-1 (abababab)" in made and "largest logit difference 2.5, KL 0.25 nats" in made
    assert made.count("this adapter changed nothing") == 1 and "cut off at the limit of tokens" in made


# --- rows

SHAPES: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"question": "q", "answer": "a"}], {"question": "P", "answer": "A"}),
    ([{"reply": "a", "message": "q", "Prompt": "x"}], {"reply": "A", "Prompt": "P"}),
    ([{"messages": [{"role": "user", "content": "q"}]}],
     {"messages": [{"role": "user", "content": "P"}, {"role": "assistant", "content": "A"}]}),
    ([], {"prompt": "P", "completion": "A"}),
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], end: str = "\n") -> Path:
    path.write_text("\n".join(json.dumps(r) for r in rows) + (end if rows else ""))
    return path


@pytest.mark.parametrize("end", ["\n", "", "\n\n"])
@pytest.mark.parametrize(("rows", "wanted"), [SHAPES[0], *SHAPES[2:]])
def test_an_answer_becomes_a_row_of_the_shape_there_is(
    tmp_path: Path, rows: list[dict[str, Any]], wanted: dict[str, Any], end: str
) -> None:
    path = write(tmp_path / "d.jsonl", rows, end)
    before = path.read_bytes()
    assert add_to_dataset(path, "P", "A") == wanted
    assert path.read_bytes().startswith(before)
    assert [json.loads(line) for line in path.read_text().splitlines() if line] == [*rows, wanted]


def test_a_system_prompt_goes_where_the_rows_have_it(tmp_path: Path) -> None:
    turns = [Message("system", "Be brief."), Message("user", "q"), Message("assistant", "a")]
    chat = write(tmp_path / "chat.jsonl", SHAPES[2][0])
    assert [m["role"] for m in add_to_dataset(chat, "P", "A", turns)["messages"]] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    system = write(tmp_path / "s.jsonl", [{"system": "x", "prompt": "q", "completion": "a"}])
    assert add_to_dataset(system, "P", "A", turns[:1]) == {"system": "Be brief.", "prompt": "P", "completion": "A"}
    assert add_to_dataset(system, "P", "A") == {"prompt": "P", "completion": "A"}
    named = {"prompt_column": "message", "completion_column": "reply"}
    mail = write(tmp_path / "m.jsonl", [{"message": "q", "reply": "a"}])
    assert add_to_dataset(mail, "P", "A", columns=named) == {"message": "P", "reply": "A"}


@pytest.mark.parametrize(
    ("rows", "turns", "words"),
    [
        ([{"text": "all of it"}], [], "not clear which column"),
        ([{"instruction": "i", "input": "x", "output": "o"}], [], "not clear which column"),
        ([{"question": "q", "answer": 7}], [], "does not hold text"),
        ([{"question": "q", "answer": "a", "id": "007"}], [], "does not fill: 'id'"),
        ([{"conversations": [{"from": "human", "value": "q"}]}], [], "not made of role and content"),
        ([{"question": "q", "answer": "a"}], [Message("user", "before")], "no turns before the prompt"),
        ([{"question": "q", "answer": "a"}], [Message("system", "s")], "no turns before the prompt"),
    ],
)
def test_other_shapes_are_refused_in_words_and_left_alone(
    tmp_path: Path, rows: list[dict[str, Any]], turns: list[Message], words: str
) -> None:
    path = write(tmp_path / "d.jsonl", rows)
    before = path.read_bytes()
    with pytest.raises(InputError) as refused:
        add_to_dataset(path, "P", "A", turns)
    assert words in refused.value.problem and refused.value.where == str(path) and path.read_bytes() == before


def test_broken_files_other_formats_and_empty_texts_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"question": "q", "answer": "a"}\n{"question": \n')
    with pytest.raises(InputError, match="row 2 is no JSON"):
        add_to_dataset(broken, "P", "A")
    for path, prompt, words in ((tmp_path / "x.csv", "P", "JSONL"), (tmp_path / "x.jsonl", " ", "needs a prompt")):
        with pytest.raises(InputError, match=words):
            add_to_dataset(path, prompt, "A")
    with pytest.raises(InputError, match="half a character"):
        add_to_dataset(tmp_path / "x.jsonl", "\ud800", "A")
    assert not (tmp_path / "x.jsonl").exists() and not (tmp_path / "x.csv").exists()


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_a_row_that_was_added_is_read_by_the_reader_of_datasets(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, answer: str
) -> None:
    """The text comes back to the last character, "007" and line separators included."""
    from engine.rows.detect import detect
    from engine.rows.formats import Row
    from engine.rows.jsonrows import read_lines
    from engine.rows.shapes import convert

    path = write(tmp_path_factory.mktemp("data") / "d.jsonl", [{"question": "1", "answer": "007"}])
    add_to_dataset(path, prompt, answer)
    records = [r for r in read_lines(path, path.name) if isinstance(r, tuple)]
    rows = [Row(fields, where, n) for n, (where, fields) in enumerate(records)]
    pair: Any = convert(rows[-1], detect(rows))
    assert (pair.prompt, pair.completion) == (prompt, answer) and len(rows) == 2


def test_a_history_is_read_no_further_than_wanted(tmp_path: Path) -> None:
    path = transcripts.path_of(tmp_path)
    for n in range(30):
        transcripts.append(path, Entry(f"p{n}", [], t=1.0))
    assert [e.prompt for e in islice(transcripts.entries(path), 2)] == ["p29", "p28"]
