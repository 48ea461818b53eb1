"""Rows come out as they went in: every format, exact text, true places."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows import reader
from engine.rows.jsonrows import Literal, to_json
from engine.rows.reader import Refusal, Row, Source
from engine.rows.shapes import Conversation, Document, Message, Pair

SHARED = Path(__file__).parents[3] / "shared"
fresh_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
TRICKY = [
    "007",
    "1e3",
    "NA",
    "null",
    "  two spaces before",
    "tab\tin",
    "line\nline\r\nline",
    'say "hi", he said',
    "é\u2028\u0085",
    "true",
    "",
]


def read_all(root: Path, name: str, **source: Any) -> list[Row | Refusal]:
    return list(reader.read(Source(name, **source), root))


def fields(root: Path, name: str, **source: Any) -> list[dict[str, Any]]:
    found = read_all(root, name, **source)
    assert all(isinstance(row, Row) for row in found), [r for r in found if isinstance(r, Refusal)]
    return [row.fields for row in found if isinstance(row, Row)]


def write_parquet(path: Path, table: dict[str, Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(table), path)


# --- real files


@pytest.mark.skipif(not (SHARED / "formats").is_dir(), reason="the shared data is not beside the checkout")
@pytest.mark.parametrize(
    ("name", "described", "count"),
    [
        ("formats/alpaca_en_demo.json", "alpaca: instruction + input -> output", 999),
        ("formats/identity.json", "alpaca: instruction + input -> output", 91),
        ("formats/glaive_toolcall_en_demo.json", "sharegpt: conversations (tools: tools)", 300),
        ("formats/v1_sft_demo.jsonl", "messages: messages", 500),
        ("formats/c4_demo.jsonl", "text: text", 300),
        ("formats/wiki_demo.txt", "text: text", 30),
        ("gsm8k/test.jsonl", "prompt_completion: question -> answer", 1319),
    ],
)
def test_shared_files_load_whole(name: str, described: str, count: int) -> None:
    loaded = reader.load(Source(name), SHARED)
    assert loaded.shape.describe() == described
    assert (loaded.ledger.read, loaded.ledger.kept, loaded.ledger.refused) == (count, count, 0)
    loaded.ledger.check()
    lines = (SHARED / name).read_text(encoding="utf-8").split("\n")
    for row, _ in loaded.items:
        line = lines[int(row.where.rsplit(":", 1)[1]) - 1].strip()
        assert line.startswith("{") or row.fields == {"text": line}


@pytest.mark.skipif(not (SHARED / "formats").is_dir(), reason="the shared data is not beside the checkout")
def test_json_array_and_python_agree_on_every_row() -> None:
    name = "formats/glaive_toolcall_en_demo.json"
    assert fields(SHARED, name) == json.loads((SHARED / name).read_text(encoding="utf-8"))


@pytest.mark.skipif(not (SHARED / "formats").is_dir(), reason="the shared data is not beside the checkout")
def test_function_calls_and_observations_become_turns() -> None:
    loaded = reader.load(Source("formats/glaive_toolcall_en_demo.json"), SHARED)
    item = loaded.items[0][1]
    assert isinstance(item, Conversation)
    assert item.tools == loaded.items[0][0].fields["tools"]
    call, answer = item.messages[3:5]
    assert (call.role, call.weight, answer.role, answer.weight) == ("assistant", 1.0, "tool", 0.0)
    assert json.loads(call.text)["name"] == "search_recipes"


# --- text is never retyped


@fresh_folder
@given(
    st.lists(st.tuples(text | st.sampled_from(TRICKY), text | st.sampled_from(TRICKY)), min_size=1, max_size=8),
    st.booleans(),
)
def test_text_survives_every_format(tmp_path: Path, pairs: list[tuple[str, str]], ascii_only: bool) -> None:
    table = [{"prompt": p, "completion": c} for p, c in pairs]
    spelled = [json.dumps(row, ensure_ascii=ascii_only) for row in table]
    (tmp_path / "a.jsonl").write_bytes("\n".join(spelled).encode())
    (tmp_path / "a.json").write_bytes(json.dumps(table, ensure_ascii=ascii_only, indent=2).encode())
    (tmp_path / "b.json").write_bytes(f"[{','.join(spelled)}]".encode())
    write_parquet(tmp_path / "a.parquet", {"prompt": [p for p, _ in pairs], "completion": [c for _, c in pairs]})
    for name in ("a.jsonl", "a.json", "b.json", "a.parquet"):
        assert fields(tmp_path, name) == table, name


@fresh_folder
@given(
    st.lists(st.tuples(text | st.sampled_from(TRICKY), text | st.sampled_from(TRICKY)), min_size=1, max_size=8),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_text_survives_csv(tmp_path: Path, pairs: list[tuple[str, str]], delimiter: str, quoting: Any) -> None:
    pairs = [(p.replace("\0", ""), c.replace("\0", "")) for p, c in pairs]
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)
    writer.writerow(["prompt", "completion"])
    places = []
    for pair in pairs:
        places.append(f"a.csv:{out.getvalue().count(chr(10)) + 1}")
        writer.writerow(pair)
    (tmp_path / "a.csv").write_bytes(out.getvalue().encode())
    found = read_all(tmp_path, "a.csv")
    assert [(r.where, *r.fields.values()) for r in found if isinstance(r, Row)] == [
        (where, *pair) for where, pair in zip(places, pairs, strict=True)
    ]
    assert len(found) == len(pairs)


def test_numbers_keep_their_spelling(tmp_path: Path) -> None:
    spelled = ["7.50", "1e3", "-0", "1E400", "123456789012345678901234567890", "0.1000", "NaN"]
    (tmp_path / "n.jsonl").write_text('{"prompt": "p", "completion": %s}\n' * len(spelled) % tuple(spelled))
    loaded = reader.load(Source("n.jsonl"), tmp_path)
    assert [item.completion for _, item in loaded.items if isinstance(item, Pair)] == spelled
    assert all(type(item.completion) is str for _, item in loaded.items if isinstance(item, Pair))


def test_json_is_given_back_as_it_was_spelled() -> None:
    value = {"name": "f", "arguments": {"x": Literal("7.50"), "y": [True, None, "ü", Literal("1e3")]}}
    assert to_json(value) == '{"name": "f", "arguments": {"x": 7.50, "y": [true, null, "ü", 1e3]}}'


# --- places


@fresh_folder
@given(
    st.lists(st.sampled_from(['{"text": "a"}', "", "  ", "\t", '{"text": "b"}\r']), min_size=1, max_size=30),
    st.booleans(),
)
def test_jsonl_places_are_the_real_lines(tmp_path: Path, lines: list[str], newline_at_end: bool) -> None:
    whole = "\n".join(lines) + "\n" * newline_at_end
    (tmp_path / "a.jsonl").write_text(whole, newline="")
    expected = [f"a.jsonl:{n}" for n, line in enumerate(whole.split("\n"), 1) if line.strip()]
    if not expected:
        with pytest.raises(InputError, match="no rows"):
            read_all(tmp_path, "a.jsonl")
        return
    found = read_all(tmp_path, "a.jsonl")
    assert [row.where for row in found] == expected
    assert [row.index for row in found if isinstance(row, Row)] == list(range(len(expected)))


@fresh_folder
@given(
    st.lists(
        st.dictionaries(text, text | st.integers() | st.none() | st.lists(text, max_size=2), max_size=3),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([None, 0, 1, 4]),
    st.booleans(),
)
def test_json_array_places_are_the_real_places(
    tmp_path: Path, table: list[dict[str, Any]], indent: int | None, crlf: bool
) -> None:
    whole = json.dumps(table, indent=indent)
    (tmp_path / "a.json").write_bytes((whole.replace("\n", "\r\n") if crlf else whole).encode())
    found = read_all(tmp_path, "a.json")
    assert len(found) == len(table)
    assert len({row.where for row in found}) == len(table)
    for row, given_fields in zip(found, table, strict=True):
        assert isinstance(row, Row)
        _, line, *column = row.where.split(":")
        rest = "\n".join(whole.split("\n")[int(line) - 1 :])
        start = int(column[0]) - 1 if column else rest.index("{")
        assert json.JSONDecoder().raw_decode(rest[start:])[0] == given_fields


def test_a_text_file_is_split_at_blank_lines_or_else_at_lines(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_bytes(b"\n\nOne\r\n  two \r\n \t\r\n\r\nthree\n\n")
    (tmp_path / "lines.md").write_bytes(b"\n\none \n two\nthree")
    prose = read_all(tmp_path, "prose.txt")
    assert prose == [Row({"text": "One\r\n  two "}, "prose.txt:3", 0), Row({"text": "three"}, "prose.txt:7", 1)]
    assert read_all(tmp_path, "lines.md") == [
        Row({"text": "one "}, "lines.md:3", 0),
        Row({"text": " two"}, "lines.md:4", 1),
        Row({"text": "three"}, "lines.md:5", 2),
    ]


# --- files and folders


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("zipped", [False, True])
def test_byte_order_mark_crlf_and_gzip(tmp_path: Path, name: str, zipped: bool) -> None:
    body = {
        "a.jsonl": '{"text":"ä"}\r\n',
        "a.json": '\r\n[\r\n{"text":"ä"}]\r\n',
        "a.csv": "text\r\nä\r\n",
        "a.txt": "ä\r\n",
    }[name]
    data = b"\xef\xbb\xbf" + body.encode()
    name += ".gz" * zipped
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    assert fields(tmp_path, name) == [{"text": "ä"}]


def test_json_lines_named_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\n{"text": "a"}\nbroken\n{"text": "b"}')
    assert [r.where for r in read_all(tmp_path, "a.json")] == ["a.json:2", "a.json:3", "a.json:4"]


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "b.jsonl").write_text('{"text": "2"}\n{"text": "3"}\n')
    (folder / "a.csv").write_text("text\n1\n")
    for passed_over in (".hidden.jsonl", "README.md", "notes.doc", "below/c.jsonl"):
        (folder / passed_over).write_text("x")
    found = read_all(tmp_path, "data/")
    assert [(r.where, r.index, r.fields["text"]) for r in found if isinstance(r, Row)] == [
        ("data/a.csv:2", 0, "1"),
        ("data/b.jsonl:1", 1, "2"),
        ("data/b.jsonl:2", 2, "3"),
    ]
    assert len(read_all(tmp_path, "data", format="csv")) == 1


def test_the_format_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "rows.data").write_text("a\tb\n1\t2\n")
    assert fields(tmp_path, "rows.data", format="tsv") == [{"a": "1", "b": "2"}]
    with pytest.raises(InputError, match="ending does not say"):
        read_all(tmp_path, "rows.data")


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("a,b;c,d", ["a", "b;c", "d"]),
        ("a;b,c;d", ["a", "b,c", "d"]),
        ("a\tb,c\td", ["a", "b,c", "d"]),
        ("a;b,c", ["a;b", "c"]),
        ('"a;b;c",d', ["a;b;c", "d"]),
        ("only", ["only"]),
    ],
)
def test_the_delimiter_is_what_splits_the_header_most(tmp_path: Path, header: str, columns: list[str]) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n{header}\n")
    assert fields(tmp_path, "a.csv") == [dict(zip(columns, columns, strict=True))]


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("data/train.jsnl", "did you mean data/train.jsonl?"),
        ("dat/train.jsonl", "did you mean data?"),
        ("openai/gsm8k", "write hub:openai/gsm8k"),
        ("zzz", "has no zzz"),
    ],
)
def test_a_missing_file_names_the_nearest(tmp_path: Path, asked: str, remedy: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}")
    with pytest.raises(InputError, match="no such file") as caught:
        reader.read(Source(asked), tmp_path)  # at once, not when the first row is asked for
    assert remedy in (caught.value.remedy or "") and caught.value.where == asked


def test_limit_reads_no_further(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\nbroken\n{"text": "b"}\n')
    loaded = reader.load(Source("a.jsonl"), tmp_path, limit=2)
    assert (loaded.ledger.read, loaded.ledger.kept, loaded.ledger.refused) == (2, 1, 1)


# --- the same row twice


def test_duplicates_are_kept_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"id": 1, "question": "q", "answer": "a"}\n'
        '{"id": 2, "answer": "a", "question": "q"}\n'
        '{"id": 3, "question": "q", "answer": "b"}\n'
    )
    loaded = reader.load(Source("a.jsonl"), tmp_path)
    assert (loaded.ledger.kept, loaded.ledger.duplicates) == (3, 1)
    loaded.ledger.drop("a.jsonl:2", "too long")
    loaded.ledger.check()
    assert (loaded.ledger.kept, loaded.ledger.refused, loaded.ledger.duplicates) == (2, 1, 0)
    assert loaded.ledger.summary() == "3 rows read: 2 kept, 0 cut, 1 refused"


def test_overlap_looks_past_case_spacing_and_composition() -> None:
    def row(where: str) -> Row:
        return Row({}, where, 0)

    talk = Conversation(
        (Message("system", "s", 0.0), Message("user", "Hello  THERE", 0.0), Message("assistant", "x", 1.0)), None
    )
    train = [
        (row("a:1"), Pair("Caf\u00e9\tau lait?", "x", {})),
        (row("a:2"), talk),
        (row("a:3"), Document("some text")),
    ]
    test = [
        (row("b:1"), Pair("cafe\u0301 AU  lait? ", "y", {})),
        (row("b:2"), Pair("hello there", "y", {})),
        (row("b:3"), Document("Some\ntext")),
        (row("b:4"), Pair("something else", "x", {})),
    ]
    assert reader.overlap(train, test) == [("a:1", "b:1"), ("a:2", "b:2"), ("a:3", "b:3")]
    assert reader.overlap(train, []) == []


def test_unseen_rows_are_read_in_the_shape_of_the_training_rows(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"instruction": "i", "input": "x", "output": "o", "system": "s"}\n')
    (tmp_path / "test.jsonl").write_text('{"instruction": "i", "output": "o"}\n')
    shape = reader.load(Source("train.jsonl"), tmp_path).shape
    test = reader.load(Source("test.jsonl"), tmp_path, shape=shape)
    assert test.shape == shape
    assert [m.role for m in test.items[0][1].messages] == ["user", "assistant"]  # type: ignore[union-attr]
    again = reader.load(Source("train.jsonl"), tmp_path, shape=shape.name, columns=shape.columns)
    assert again.shape == shape
