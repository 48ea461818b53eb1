"""Rows by number are the rows that `reader.read` gives, whatever is in the file, at every moment of the counting."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows import index
from engine.rows.formats import Refusal
from engine.rows.index import ChangedError, Table
from engine.rows.reader import Source, read

LINE = st.sampled_from(
    [
        b'{"prompt": "a", "completion": "b"}', b'{"prompt": "\xc3\xa9", "n": 007}', b'{"a": 1, "a": 2}', b"", b"  ", b"\r",
        b"\xff\xfe!", b"[1, 2]", b"not json", b'{"a": "x\\ny"}', b'a,"b', b'c"', b'1,"two\r\nlines",3', b"x,y,z", b"a\0b",
        b"x,y", b'"', b"\x0c", b"\xef\xbb\xbf{}",
    ]
)  # fmt: skip
ENDING = st.sampled_from([b"\n", b"\r\n"])


def naive(path: Path) -> list[tuple] | str:
    """All rows as `reader.read` gives them, or its error."""
    try:
        return [told(r) for r in read(Source(path.name), path.parent)]
    except InputError as error:
        return error.problem


def told(row) -> tuple:
    return (row.where, row.reason, row.excerpt) if isinstance(row, Refusal) else (row.where, row.fields, row.index)


def by_number(path: Path, page: int) -> list[tuple] | str:
    """All rows by a table, page by page."""
    try:
        table = Table(Source(path.name), path.parent)
        while table.work():
            pass
        rows = [told(r) for start in range(1, table.known + 2, page) for r in table.rows(start, page) or ()]
        assert len(rows) == table.known
        return rows or "this has no rows"
    except InputError as error:
        return error.problem


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.tsv", "rows.txt", "rows.json"])
@given(
    lines=st.lists(st.tuples(LINE, ENDING), max_size=30),
    mark=st.booleans(),
    last=st.booleans(),
    every=st.sampled_from([1, 2, 3, 64]),
    page=st.integers(1, 7),
)
@settings(max_examples=150)
def test_rows_by_number_are_the_rows_of_the_reader(tmp_path_factory, name, lines, mark, last, every, page) -> None:
    path = tmp_path_factory.mktemp("index") / name
    data = b"".join(line + end for line, end in lines)
    if name.endswith(("csv", "tsv")):
        data = b"h1,h2,h3\n" + data
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + (data if last else data.rstrip(b"\r\n")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "EVERY", every)
        assert by_number(path, page) == naive(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt", "rows.json", "rows.jsonl.gz", "rows.parquet"])
def test_any_row_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, rows := [{"text": f"text {i}, “{i}”", "n": str(i)} for i in range(1000)])
    table = Table(Source(name), tmp_path)
    while table.work():
        pass
    assert (table.known, table.complete) == (1000, True)
    for number in (1, 64, 65, 500, 1000):
        row = table.row(number)
        assert row is not None and told(row) == naive(tmp_path / name)[number - 1]
        assert rows[number - 1]["text"] in str(row.fields)
    assert table.row(1001) is None
    assert len(table.rows(990, 50) or ()) == 11


def write(path: Path, rows: list[dict[str, str]]) -> None:
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".csv":
        path.write_text("text,n\n" + "".join(f'"{r["text"]}",{r["n"]}\n' for r in rows))
    else:
        path.write_text("".join(r["text"] + "\n" for r in rows) if path.suffix == ".txt" else lines)


def test_the_first_rows_need_no_counting_and_far_ones_wait_for_it(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"text": f"text {i}"} for i in range(5000)])
    table = Table(Source("rows.jsonl"), tmp_path)
    assert [r.where for r in table.rows(1, 3) or ()] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3"]
    assert table.rows(4000, 3) is None
    while table.work():
        pass
    assert [r.where for r in table.rows(4000, 2) or ()] == ["rows.jsonl:4000", "rows.jsonl:4001"]
    assert table.progress == ((tmp_path / "rows.jsonl").stat().st_size,) * 2


def test_threads_may_share_a_table(tmp_path: Path) -> None:
    write(tmp_path / "rows.json", [{"text": f"text {i}"} for i in range(3000)])
    write(tmp_path / "rows.csv", [{"text": f"text {i}", "n": "1"} for i in range(30_000)])
    for name, count in (("rows.json", 3000), ("rows.csv", 30_000)):
        table, wrong = Table(Source(name), tmp_path), []

        def work(table: Table = table, wrong: list[Exception] = wrong) -> None:
            try:
                while table.work():
                    table.rows(1, 20)
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and table.known == count and len(table.rows(count - 1, 5) or ()) == 2


def test_a_folder_is_its_files_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    write(folder / "a.jsonl", [{"text": f"a{i}"} for i in range(100)])
    write(folder / "b.json", [{"text": f"b{i}"} for i in range(3)])
    write(folder / "c.csv", [{"text": f"c{i}", "n": "1"} for i in range(100)])
    table = Table(Source("several"), tmp_path)
    while table.work():
        pass
    expected = [told(r) for r in read(Source("several"), tmp_path)]
    assert [told(r) for r in table.rows(1, 1000) or ()] == expected
    assert [told(r) for r in table.rows(99, 8) or ()] == expected[98:106]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"text": "x"}] * 5)
    table = Table(Source("rows.jsonl"), tmp_path)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(ChangedError, match="changed on disk"):
        table.rows(1, 1)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        table.rows(1, 1)


def test_quotes_that_are_never_closed_do_not_lose_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "a,b\n" + "".join(f'{i},"x\n' if i % 50 == 0 else f"{i},x\n" for i in range(400))
    )
    table = Table(Source("rows.csv"), tmp_path)
    while table.work():
        pass
    assert [told(r) for r in table.rows(1, 1000) or ()] == naive(tmp_path / "rows.csv")
    assert [told(r) for r in table.rows(333, 5) or ()] == naive(tmp_path / "rows.csv")[332:337]
