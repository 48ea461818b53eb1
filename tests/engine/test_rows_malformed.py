"""Ten thousand malformed rows: each is refused in its place, and every good row beside them is read whole."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows import reader
from engine.rows.reader import Refusal, Row, Source

fresh_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


def read_all(root: Path, name: str) -> tuple[list[Row], list[Refusal]]:
    found = list(reader.read(Source(name), root))
    return [r for r in found if isinstance(r, Row)], [r for r in found if isinstance(r, Refusal)]


def written(root: Path, name: str, data: str | bytes) -> str:
    (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return name


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
    loaded = reader.load(Source(name), root)
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
