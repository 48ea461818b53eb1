"""Parquet and the Hub: values come typed, text stays as it is, and what fails is said in words."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.rows import reader
from engine.rows.jsonrows import Literal
from engine.rows.reader import Refusal, Row, Source
from engine.rows.shapes import Pair


def read_all(root: Path, name: str, **source: Any) -> list[Row | Refusal]:
    return list(reader.read(Source(name, **source), root))


# --- Parquet


def test_parquet_values_become_text_only_where_they_are_numbers(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "n": [7, None],
            "x": [0.1, 2.0],
            "d": [decimal.Decimal("7.50"), None],
            "t": [datetime.date(2026, 11, 24), None],
            "b": [True, False],
            "m": [[{"role": "user", "weight": 0.5}], []],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = (row.fields for row in read_all(tmp_path, "a.parquet") if isinstance(row, Row))
    assert first == {
        "n": "7",
        "x": "0.1",
        "d": "7.50",
        "t": "2026-11-24",
        "b": True,
        "m": [{"role": "user", "weight": "0.5"}],
    }
    assert isinstance(first["n"], Literal) and isinstance(first["m"][0]["weight"], Literal)
    assert (second["n"], second["b"], second["m"]) == (None, False, [])
    assert [r.where for r in read_all(tmp_path, "a.parquet")] == ["a.parquet:row 1", "a.parquet:row 2"]


def test_text_that_is_not_utf8_in_parquet_costs_its_row(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    raw = pa.array([b"good", b"b\xffd", b"fine"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    assert read_all(tmp_path, "a.parquet") == [
        Row({"text": "good"}, "a.parquet:row 1", 0),
        Refusal("a.parquet:row 2", "not valid UTF-8: at offset 1 of a text", "b\\xffd"),
        Row({"text": "fine"}, "a.parquet:row 3", 2),
    ]


# --- the Hub


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_stream_is_asked_for_no_more_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    made = 0

    def generate() -> Any:
        nonlocal made
        for number in range(10_000):
            made += 1
            yield {"question": f"q{number}", "answer": number}

    asked: list[Any] = []
    stream = datasets.IterableDataset.from_generator(generate)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or stream)
    source = Source("hub:openai/gsm8k", subset="main", split="train", revision="abc", streaming=True)
    loaded = reader.load(source, tmp_path, limit=5)
    assert asked == [(("openai/gsm8k", "main"), {"split": "train", "revision": "abc", "streaming": True})]
    assert loaded.ledger.read == loaded.ledger.kept == 5
    assert made <= 6
    row, item = loaded.items[4]
    assert row.where == "hub:openai/gsm8k/main/train:row 5"
    assert isinstance(item, Pair) and (item.prompt, item.completion) == ("q4", "4")


def test_a_hub_dataset_without_a_split_must_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list([{"text": "a"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict({"train": one, "test": one}))
    with pytest.raises(InputError, match="2 splits: train, test"):
        read_all(tmp_path, "hub:x/y")
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict({"all": one}))
    assert [r.where for r in read_all(tmp_path, "hub:x/y")] == ["hub:x/y/all:row 1"]


def test_an_unreachable_hub_is_said_in_words(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InputError, match="not in the Hub's cache here") as caught:
        read_all(tmp_path, "hub:no-such/data-set", split="train")
    assert caught.value.where == "hub:no-such/data-set" and caught.value.remedy


def test_without_a_network_a_folder_still_says_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub:` takes a folder laid out as on the Hub; a wrong subset or split in it is not the network's fault."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "hub" / "words"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    files = "  data_files:\n  - split: only\n    path: rows.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: one\n{files}- config_name: two\n{files}---\n")
    found = read_all(tmp_path, "hub:hub/words", subset="two", split="only")
    assert [row.where for row in found] == ["hub:hub/words/two/only:row 1"]
    for wrong, named in (
        ({"subset": "nope", "split": "only"}, "'one', 'two'"),
        ({"subset": "two", "split": "x"}, "only"),
    ):
        with pytest.raises(InputError, match=named) as caught:
            read_all(tmp_path, "hub:hub/words", **wrong)
        assert "data.subset" in (caught.value.remedy or "")
