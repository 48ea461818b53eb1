"""What is wrong is said with a place, and what is right beside it is read all the same."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows import reader
from engine.rows.formats import excerpt
from engine.rows.reader import Refusal, Row, Source


def read_all(root: Path, name: str) -> tuple[list[Row], list[Refusal]]:
    found = list(reader.read(Source(name), root))
    return [r for r in found if isinstance(r, Row)], [r for r in found if isinstance(r, Refusal)]


def written(root: Path, name: str, data: str | bytes) -> str:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


# --- single faults


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1, "a": 2}', "duplicate key: 'a'"),
        (b'{"o": {"b": 1, "b": 1}}', "duplicate key: 'b'"),
        (b'{"a": "x\xc3"}', "not valid UTF-8: byte 0xc3 at offset 8 of the line"),
        (b'{"a": "x\0"}', "NUL byte: at offset 8 of the line"),
        (b'{"a": "\\ud800 x"}', "lone surrogate: \\ud800 is half a character"),
        (b'{"\\udfff": 1}', "lone surrogate: \\udfff is half a character"),
        (b'{"a": 007}', "not valid JSON: Expecting ',' delimiter at column 8"),
        (b'{"a": "b\tc"}', "not valid JSON: Invalid control character at column 9"),
        (b'{"a": 1} {"a": 2}', "not valid JSON: Extra data at column 10"),
        (b'{"a": 1, "b": ', "not valid JSON: Expecting value at column 15"),
        (b"[1]", "not an object: this is a list"),
        (b'"a"', "not an object: this is text"),
        (b"1e3", "not an object: this is a number"),
        (b"true", "not an object: this is a boolean"),
        (b"null", "not an object: this is null"),
        (b'{"a": ' * 100_000, "not valid JSON: nested too deeply"),
    ],
)
def test_a_refused_line_says_what_is_wrong(tmp_path: Path, line: bytes, reason: str) -> None:
    good, refused = read_all(
        tmp_path, written(tmp_path, "a.jsonl", b'{"a": "\\ud83d\\ude00"}\n' + line + b'\n{"a": "b"}')
    )
    assert [r.fields for r in good] == [{"a": "😀"}, {"a": "b"}]
    (refusal,) = refused
    assert (refusal.where, refusal.reason) == ("a.jsonl:2", reason)
    assert refusal.excerpt


def test_an_unclosed_quote_costs_one_record(tmp_path: Path) -> None:
    body = 'a,b\n1,x\n2,"open\n3,y\n4,z\n'
    good, refused = read_all(tmp_path, written(tmp_path, "a.csv", body))
    assert [r.fields["a"] for r in good] == ["1", "3", "4"]
    assert refused == [
        Refusal(
            "a.csv:3",
            "unclosed quote: a quoted field runs to the end of the file, swallowing 2 lines, which were read again",
            '2,"open',
        )
    ]


def test_ragged_records_are_counted_out(tmp_path: Path) -> None:
    _, refused = read_all(tmp_path, written(tmp_path, "a.csv", 'a,b,c,d\n1,2,3,4,5\n1\n"x\ny",2\n1,2,3,4\n'))
    assert [(r.where, r.reason) for r in refused] == [
        ("a.csv:2", "ragged record: 5 fields, header has 4"),
        ("a.csv:3", "ragged record: 1 field, header has 4"),
        ("a.csv:4", "ragged record: 2 fields, header has 4 (the record runs over 2 lines)"),
    ]


def test_a_fault_in_a_later_line_of_a_record_names_that_line(tmp_path: Path) -> None:
    _, refused = read_all(tmp_path, written(tmp_path, "a.csv", b'a,b\n1,"x\nyy\xff"\n1,2\n'))
    assert [(r.where, r.reason) for r in refused] == [("a.csv:2", "not valid UTF-8: byte 0xff at offset 2 of line 3")]
    _, refused = read_all(tmp_path, written(tmp_path, "a.txt", b"one\n\ntwo\nth\0ree\n\nfour"))
    assert [(r.where, r.reason) for r in refused] == [("a.txt:3", "NUL byte: at offset 2 of line 4")]


@pytest.mark.parametrize(
    ("header", "said"),
    [("a,b,a", "the column 'a' stands twice"), ('a,"b', "unclosed quote"), ("a,b\0", "NUL byte")],
)
def test_a_header_that_cannot_be_used(tmp_path: Path, header: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_all(tmp_path, written(tmp_path, "a.csv", f"{header}\n1,2,3\n"))
    assert caught.value.where == "a.csv:1"


@pytest.mark.parametrize(
    ("body", "kept", "places"),
    [
        ('[{"t": "a"}, , {"t": "b"},]', "ab", ["a.json:1:14", "a.json:1:27"]),
        ('[{"t": "a"}, {"t": "b"}', "ab", ["a.json:1:24"]),
        ('[{"t": "a"},\n{"t": "b"},\n{"t": "c', "ab", ["a.json:3"]),
        ('[{"t": "a"}]\n[{"t": "b"}]', "a", ["a.json:1:12", "a.json:2"]),
        ('[{"t": "a"}] trailing', "a", ["a.json:1:12", "a.json:1:14"]),
        ('[{"t": "a"}, {"t": "b}, {"t": "c"}, {"t": "d}, {"t": "e"}]', "ace", ["a.json:1:14", "a.json:1:37"]),
        ('[{"t": [{"u": 007}, {"u": 1}]}, {"t": "b"}]', "b", ["a.json:1"]),
        ('[{"t": [{"u": bare}, {"u": 1}]}, {"t": "b"}]', "b", ["a.json:1"]),
        ("[\n{\n}}\n,{\n}]", "", ["a.json:2"]),
        ('[\n  {"u": "x},\n  {"t": "a", "v": [\n    {"u": 1}]},\n  {"t": "b"}\n]', "ab", ["a.json:2"]),
    ],
)
def test_a_broken_array_is_read_around_its_faults(tmp_path: Path, body: str, kept: str, places: list[str]) -> None:
    good, refused = read_all(tmp_path, written(tmp_path, "a.json", body))
    assert "".join(r.fields.get("t", "") for r in good) == kept
    assert [r.where for r in refused] == places


def test_elements_longer_than_a_piece_are_decoded_whole(tmp_path: Path) -> None:
    """Wherever the first piece of 16,384 characters ends: in a word, a number, an escape, between two tokens."""
    for length in (*range(16_300, 16_390), 200_000):
        row = {"t": "x" * length + "\n\u0001", "m": [True, None, -12.5, {"k": "v"}], "e": {}}
        good, refused = read_all(tmp_path, written(tmp_path, "a.json", json.dumps([row, row, {"t": "end"}])))
        assert [r.fields for r in good] == [row | {"m": [True, None, "-12.5", {"k": "v"}]}] * 2 + [{"t": "end"}]
        assert not refused


def test_what_a_broken_array_hides_is_counted(tmp_path: Path) -> None:
    body = '[\n{"t": "a"},\n{"t": "b},\n"c", "d"\n]'
    _, refused = read_all(tmp_path, written(tmp_path, "a.json", body))
    assert refused[0].where == "a.json:3"
    assert refused[0].reason.endswith("the 2 lines after it, to the end of the file, cannot be told from it")


# --- whole files


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n\xef"[:3]),
        ("a.jsonl", b"\xef\xbb\xbf"),
        ("a.json", b""),
        ("a.json", b" [ ]\n"),
        ("a.csv", b""),
        ("a.csv", b"a,b\r\n\r\n"),
        ("a.txt", b"\n\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_a_source_without_rows_is_an_input_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match="no rows") as caught:
        reader.load(Source(written(tmp_path, name, data)), tmp_path)
    assert caught.value.where == name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_utf16_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    body = {"a.json": '[{"text": "one"}]'}.get(name, '{"text": "one"}\n{"text": "two"}\n')
    if (name, encoding) == ("a.json", "utf-32"):
        body = "\n" + body
    with pytest.raises(InputError, match="UTF-16") as caught:
        read_all(tmp_path, written(tmp_path, name, body.encode(encoding)))
    assert caught.value.where == name and "iconv" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"a,b\r1,2\r", "bare carriage returns"),
        ("a.json", b'{\n  "data": [\n    {"text": "a"}\n  ]\n}', "neither a JSON array"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999, mtime=0)[:-20], "damaged or cut off"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "damaged or cut off"),
        ("a.parquet", b'{"text": "a"}\n', "cannot be read as Parquet"),
    ],
)
def test_files_that_are_wrong_as_a_whole(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_all(tmp_path, written(tmp_path, name, data))
    assert caught.value.where == name


def test_a_file_of_nothing_but_faults_still_has_a_ledger(tmp_path: Path) -> None:
    loaded = reader.load(Source(written(tmp_path, "a.jsonl", "x\n" * 2000)), tmp_path)
    assert (loaded.shape.name, loaded.items) == ("none", [])
    assert (loaded.ledger.read, loaded.ledger.refused, len(loaded.ledger.refusals)) == (2000, 2000, 1000)


# --- size


@pytest.mark.parametrize(
    ("name", "broken"),
    [("a.jsonl", False), ("a.json", False), ("a.csv", False), ("a.txt", False), ("a.jsonl", True), ("a.csv", True)],
)
def test_a_line_of_fifty_megabytes(tmp_path: Path, name: str, broken: bool) -> None:
    long = "x" * 50_000_000
    end = "" if broken or name == "a.txt" else '"'
    body = {
        "a.jsonl": f'{{"text": "{long}{end}}}\n{{"text": "b"}}\n',
        "a.json": f'[{{"text": "{long}{end}}},\n{{"text": "b"}}]\n',
        "a.csv": f'text,n\n"{long}{end},1\nb,2\n',
        "a.txt": f"{long}{end}\nb\n",
    }[name]
    started = time.process_time()
    good, refused = read_all(tmp_path, written(tmp_path, name, body))
    assert time.process_time() - started < 10, "reading one long line must take linear time"
    (tmp_path / name).unlink()  # pytest would keep it for three runs
    assert len(good[0].fields["text"]) == (1 if broken else 50_000_000)
    assert (len(good), len(refused)) == ((1, 1) if broken else (2, 0))
    assert all(len(r.excerpt) <= 80 for r in refused)


@pytest.mark.parametrize(
    "fault", ['{"id": 1, "t": "open}', '{"id": 1, "t": "x"', "{'id': 1}", '{"id": 01, "t": [[["x"]]]}']
)
@pytest.mark.parametrize("between", [",", ",\n"])
def test_an_array_of_broken_elements_takes_linear_time(tmp_path: Path, fault: str, between: str) -> None:
    many = 20_000
    body = '[{"id": 1}' + between + between.join([fault, '{"id": 2}'] * many) + "]"
    started = time.process_time()
    good, refused = read_all(tmp_path, written(tmp_path, "a.json", body))
    assert time.process_time() - started < 10
    assert (len(good), len(refused)) == (many + 1, many)


def test_quotes_without_end_take_linear_time(tmp_path: Path) -> None:
    body = "a,b\n" + '1,"open\n' * 20_000 + "2,3\n" * 50_000
    started = time.process_time()
    good, refused = read_all(tmp_path, written(tmp_path, "a.csv", body))
    assert time.process_time() - started < 10
    assert (len(good), len(refused)) == (50_000, 20_000)


# --- excerpts


@given(st.text() | st.binary(), st.integers(2, 100))
def test_an_excerpt_is_short_and_safe_to_print(source: str | bytes, limit: int) -> None:
    shown = excerpt(source, limit)
    assert len(shown) <= limit and shown.isprintable()
    shown.encode()


def test_excerpts_escape_and_cut() -> None:
    assert excerpt(b'{"a": "\x1b[31m\xff\xc3\xa9"}\r\n') == '{"a": "\\x1b[31m\\xffé"}'
    assert excerpt("a" * 80) == "a" * 80
    assert excerpt("a" * 81) == "a" * 79 + "…"
