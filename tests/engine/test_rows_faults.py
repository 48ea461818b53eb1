"""What is wrong is said with a place, and what is right beside it is read all the same."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import rows
from engine.errors import InputError
from engine.formats import excerpt
from engine.rows import Refusal, Row, Source

fresh_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def read_all(root: Path, name: str) -> tuple[list[Row], list[Refusal]]:
    found = list(rows.read(Source(name), root))
    return [r for r in found if isinstance(r, Row)], [r for r in found if isinstance(r, Refusal)]


def written(root: Path, name: str, data: str | bytes) -> str:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


# --- ten thousand malformed rows

WORDS = ["apples", 'say "so"', "a, b; c", "line\nend", "{brace}", "[list]", "é", "x\\y", ": colon", "12", "true"]


def good_fields(rng: random.Random, number: int) -> dict[str, str]:
    return {
        "id": f"row {number}",
        "prompt": " ".join(rng.choices(WORDS, k=3)),
        "completion": "because " + rng.choice(WORDS),
    }


def cut(rng: random.Random, source: bytes) -> bytes:
    return source[: rng.randrange(1, len(source) - 1)]


JSON_FAULTS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "no closing brace": lambda rng, source: source[:-1].rstrip(),
    "closing brace twice": lambda rng, source: source + b"}",
    "unclosed quote": lambda rng, source: source.replace(b"because", b'because" so', 1),
    "quote missing at the end": lambda rng, source: source.rstrip(b"} \n")[:-1] + b"}",
    "comma missing": lambda rng, source: source.replace(b'",', b'"', 1),
    "comma too many": lambda rng, source: source[:-1].rstrip() + b",}",
    "colon missing": lambda rng, source: source.replace(b'":', b'"', 1),
    "bare word": lambda rng, source: source.replace(b'"because', b"because", 1),
    "leading zeros": lambda rng, source: source[:-1].rstrip() + b', "n": 007}',
    "single quotes": lambda rng, source: b"{'id': 'x', 'prompt': 'y', 'completion': 'z'}",
    "half a surrogate pair": lambda rng, source: source.replace(b"because", b"\\ud83d", 1),
    "bad escape": lambda rng, source: source.replace(b"because", b"\\q", 1),
    "not UTF-8": lambda rng, source: source.replace(b"because", b"beca\xffuse", 1),
    "cut-off UTF-8": lambda rng, source: source.replace(b"because", b"\xe2\x82", 1),
    "control character": lambda rng, source: source.replace(b"because", b"be\x01cause", 1),
    "key twice": lambda rng, source: source[:-1].rstrip() + b', "id": "again"}',
    "a list": lambda rng, source: b'["id", {"id": "x"}]',
    "a string": lambda rng, source: b'"row"',
    "a number": lambda rng, source: b"17",
    "null": lambda rng, source: b"null",
    "bracket for brace": lambda rng, source: source[:-1] + b"]",
    "NUL": lambda rng, source: source.replace(b"because", b"be\0cause", 1),
}
LINE_FAULTS = JSON_FAULTS | {
    "cut off": cut,
    "two objects": lambda rng, source: source + b" " + source,
    "words": lambda rng, source: b"# a comment",
    "nested without end": lambda rng, source: b"[" * 5000,
}
CSV_FAULTS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "one field": lambda rng, source: b"alone",
    "two fields": lambda rng, source: b"a,b",
    "four fields": lambda rng, source: b"a,b,c,d",
    "unclosed quote": lambda rng, source: b'a,b,"so it goes',
    "unclosed quote at first": lambda rng, source: b'"a,b,c',
    "text after a quote": lambda rng, source: b'a,"b"c,d',
    "NUL": lambda rng, source: b"a,b\0,c",
    "not UTF-8": lambda rng, source: b"a,b\xff,c",
    "carriage return": lambda rng, source: b"a,b\rb,c",
}


def mixture(rng: random.Random, how_many: int, faults: dict[str, Any]) -> list[tuple[dict[str, str], str | None]]:
    """Rows, `how_many` of them to be broken in the way named, never the first, with good ones between."""
    out: list[tuple[dict[str, str], str | None]] = [(good_fields(rng, 0), None)]
    kinds = list(faults)
    while how_many:
        number = len(out)
        broken = rng.random() < 0.7
        how_many -= broken
        out.append((good_fields(rng, number), kinds[number % len(kinds)] if broken else None))
    return [*out, (good_fields(rng, len(out)), None)]


def check(root: Path, name: str, table: list[tuple[dict[str, str], str | None]], places: list[str]) -> int:
    """Good rows are all there, in order, whole and in their place; each broken one is refused in its place."""
    good, refused = read_all(root, name)
    wheres = {r.where for r in refused}
    for (_, fault), place in zip(table, places, strict=True):
        assert fault is None or f"{name}:{place}" in wheres, (fault, place)
    assert [r.fields for r in good] == [fields for fields, fault in table if fault is None]
    assert [r.where for r in good] == [f"{name}:{p}" for (_, f), p in zip(table, places, strict=True) if f is None]
    assert len(refused) == sum(fault is not None for _, fault in table)
    assert all(r.reason and len(r.excerpt) <= 80 and r.excerpt.isprintable() for r in refused)
    loaded = rows.load(Source(name), root)
    assert (loaded.ledger.read, loaded.ledger.kept, loaded.ledger.refused) == (len(table), len(good), len(refused))
    return len(refused)


def json_lines(root: Path, rng: random.Random, how_many: int) -> int:
    table = mixture(rng, how_many, LINE_FAULTS)
    lines, places = [], []
    for fields, fault in table:
        lines += [b""] * (rng.random() < 0.1)
        source = json.dumps(fields, ensure_ascii=rng.random() < 0.5).encode()
        lines.append(LINE_FAULTS[fault](rng, source) if fault else source)
        places.append(str(len(lines)))
    return check(root, written(root, "a.jsonl", b"\n".join(lines)), table, places)


def json_array(root: Path, rng: random.Random, how_many: int, indent: int | None, newline: bool = True) -> int:
    table = mixture(rng, how_many, JSON_FAULTS)
    body, places = b"[", []
    for number, (fields, fault) in enumerate(table):
        source = json.dumps(fields, indent=indent).encode()
        source = JSON_FAULTS[fault](rng, source) if fault else source
        body += (b"," if number else b"") + b"\n" * newline + b" " * (indent or 0)
        line = body.decode("utf-8", "surrogateescape").rpartition("\n")[2]
        places.append(str(body.count(b"\n") + 1) if newline or not number else f"1:{len(line) + 1}")
        body += source.replace(b"\n", b"\n" + b" " * (indent or 0))
    return check(root, written(root, "a.json", body + b"\n]\n"), table, places)


def comma_separated(root: Path, rng: random.Random, how_many: int) -> int:
    table = mixture(rng, how_many, CSV_FAULTS)
    body, places = b"id,prompt,completion\n", []
    for fields, fault in table:
        places.append(str(body.count(b"\n") + 1))
        out = io.StringIO()
        quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        csv.writer(out, quoting=quoting, lineterminator="\n").writerow(fields.values())
        body += CSV_FAULTS[fault](rng, b"") + b"\n" if fault else out.getvalue().encode()
    return check(root, written(root, "a.csv", body), table, places)


def test_ten_thousand_malformed_rows(tmp_path: Path) -> None:
    rng = random.Random(20261124)
    refused = json_lines(tmp_path, rng, 4000) + comma_separated(tmp_path, rng, 3000)
    refused += json_array(tmp_path, rng, 1000, None) + json_array(tmp_path, rng, 1000, 2)
    refused += json_array(tmp_path, rng, 1000, None, newline=False)
    assert refused == 10_000


@fresh_folder
@given(
    st.randoms(use_true_random=False),
    st.integers(0, 12),
    st.sampled_from(["jsonl", "csv", "lines", "indented", "one line"]),
)
def test_any_mixture_of_good_and_malformed(tmp_path: Path, rng: random.Random, how_many: int, form: str) -> None:
    {
        "jsonl": lambda: json_lines(tmp_path, rng, how_many),
        "csv": lambda: comma_separated(tmp_path, rng, how_many),
        "lines": lambda: json_array(tmp_path, rng, how_many, None),
        "indented": lambda: json_array(tmp_path, rng, how_many, 4),
        "one line": lambda: json_array(tmp_path, rng, how_many, None, newline=False),
    }[form]()


def is_row(line: bytes) -> bool:
    """Python's own decoder as the judge, where it is as strict as the reader."""
    try:
        value = json.loads(line.decode("utf-8"))
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


noise = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"") or b"?") | st.text(
    st.sampled_from('{}[]":,0123 \\ué\ud83dtrufalsn'), max_size=20
).map(lambda t: t.encode("utf-8", "replace") or b"?")


@fresh_folder
@given(st.lists(noise, min_size=1, max_size=15))
def test_noise_between_good_rows_is_refused_line_by_line(tmp_path: Path, junk: list[bytes]) -> None:
    lines = [b'{"text": "first"}']
    for piece in junk:
        lines += [piece, b'{"text": "next"}']
    good, refused = read_all(tmp_path, written(tmp_path, "a.jsonl", b"\n".join(lines)))
    blank = [n for n, line in enumerate(lines, 1) if not line.strip(b" \t\r\n")]
    right = [n for n, line in enumerate(lines, 1) if n not in blank and is_row(line)]
    assert [r.where for r in good] == [f"a.jsonl:{n}" for n in right]
    assert [r.where for r in refused] == [f"a.jsonl:{n}" for n in range(1, len(lines) + 1) if n not in {*right, *blank}]


@fresh_folder
@given(
    st.binary(max_size=200), st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.csv.gz"])
)
def test_any_bytes_at_all_give_rows_refusals_or_an_input_error(tmp_path: Path, data: bytes, name: str) -> None:
    written(tmp_path, name, data)
    try:
        good, refused = read_all(tmp_path, name)
    except InputError as error:
        place = error.where or ""
    else:
        assert good or refused
        place = (*good, *refused)[-1].where
    assert place.startswith(name)


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
    ],
)
def test_a_broken_array_is_read_around_its_faults(tmp_path: Path, body: str, kept: str, places: list[str]) -> None:
    good, refused = read_all(tmp_path, written(tmp_path, "a.json", body))
    assert "".join(r.fields.get("t", "") for r in good) == kept
    assert [r.where for r in refused] == places


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
        ("a.jsonl.gz", gzip.compress(b"")),
    ],
)
def test_a_source_without_rows_is_an_input_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match="no rows") as caught:
        rows.load(Source(written(tmp_path, name, data)), tmp_path)
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
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 999)[:-20], "damaged or cut off"),
        ("a.jsonl.gz", b'{"text": "a"}\n', "damaged or cut off"),
        ("a.parquet", b'{"text": "a"}\n', "cannot be read as Parquet"),
    ],
)
def test_files_that_are_wrong_as_a_whole(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_all(tmp_path, written(tmp_path, name, data))
    assert caught.value.where == name


def test_text_that_is_not_utf8_in_parquet_costs_its_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    raw = pa.array([b"good", b"b\xffd", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    good, refused = read_all(tmp_path, "a.parquet")
    assert [(r.where, r.fields["text"]) for r in good] == [("a.parquet:row 1", "good"), ("a.parquet:row 3", "fine")]
    assert [(r.where, r.reason) for r in refused] == [("a.parquet:row 2", "not valid UTF-8: at offset 1 of a text")]


def test_a_file_of_nothing_but_faults_still_has_a_ledger(tmp_path: Path) -> None:
    loaded = rows.load(Source(written(tmp_path, "a.jsonl", "x\n" * 2000)), tmp_path)
    assert (loaded.shape.name, loaded.items) == ("none", [])
    assert (loaded.ledger.read, loaded.ledger.refused, len(loaded.ledger.refusals)) == (2000, 2000, 1000)


# --- size


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_line_of_fifty_megabytes(tmp_path: Path, name: str, broken: bool) -> None:
    long = "x" * 50_000_000
    end = {"a.csv": "" if broken else '"', "a.txt": "\0" if broken else ""}.get(name, "" if broken else '"')
    body = {
        "a.jsonl": f'{{"text": "{long}{end}}}\n{{"text": "b"}}\n',
        "a.json": f'[{{"text": "{long}{end}}},\n{{"text": "b"}}]\n',
        "a.csv": f'text,n\n"{long}{end},1\nb,2\n',
        "a.txt": f"{long}{end}\nb\n",
    }[name]
    started = time.monotonic()
    good, refused = read_all(tmp_path, written(tmp_path, name, body))
    assert time.monotonic() - started < 20, "reading one long line must take linear time"
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
    started = time.monotonic()
    good, refused = read_all(tmp_path, written(tmp_path, "a.json", body))
    assert time.monotonic() - started < 20
    assert (len(good), len(refused)) == (many + 1, many)


def test_quotes_without_end_take_linear_time(tmp_path: Path) -> None:
    body = "a,b\n" + '1,"open\n' * 20_000 + "2,3\n" * 50_000
    started = time.monotonic()
    good, refused = read_all(tmp_path, written(tmp_path, "a.csv", body))
    assert time.monotonic() - started < 20
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
