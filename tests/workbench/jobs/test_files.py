"""Saving, watching, and keeping unsaved text."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.errors import WorkFailed
from workbench.jobs import files
from workbench.jobs.files import ChangedOnDiskError, FileWatch, OnDisk, Swap, known_bases, known_sources, read, save


def test_saves_only_over_what_it_knows(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    first = save(path, "one", "")
    assert read(path) == OnDisk("one", first)
    path.write_text("theirs")
    with pytest.raises(ChangedOnDiskError) as caught:
        save(path, "two", first)
    assert caught.value.now.text == "theirs" and path.read_text() == "theirs"
    assert read(path).sha == save(path, "theirs", first)  # the same text is no conflict
    save(path, "two", None)
    assert path.read_text() == "two"
    with pytest.raises(WorkFailed, match="folder is gone"):
        save(tmp_path / "gone" / "a.toml", "x", "")


def test_reads_what_is_no_text_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab\xff")
    assert read(tmp_path / "a").lossy == "not UTF-8 (byte 2)"
    assert read(tmp_path / "b") == OnDisk(None) == read(tmp_path / "a" / "c")


def test_the_watch_tells_changes_of_others_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files, "SECONDS", 0.02)
    path, told, news = tmp_path / "a", [], threading.Event()
    sha = save(path, "one", "")
    watch = FileWatch(path, sha, lambda now: (told.append(now.text), news.set()))
    watch.know(save(path, "ours", sha))  # before it looks: between the two, ours would be anybody's
    watch.start()
    path.write_text("theirs")
    assert news.wait(10)
    news.clear()
    path.unlink()
    assert news.wait(10)
    watch.stop()
    assert told == ["theirs", None]


def test_unsaved_text_of_the_newest_wins_and_goes(tmp_path: Path) -> None:
    swap = Swap(tmp_path, "project:demo")
    swap.write("two", "sha", 2)
    swap.write("one", "sha", 1)  # of a slower thread
    other = Swap(tmp_path, "project:other")
    assert other.others() == [] == swap.others()  # ours, and we live
    assert '"two"' in swap.path.read_text()
    swap.clear(1)
    assert swap.path.exists()
    swap.clear(3)
    assert not swap.path.exists()
    swap.close()
    swap.write("late", "sha", 9)
    assert not swap.path.exists()


def test_damaged_swap_files_are_passed_over(tmp_path: Path) -> None:
    swap = Swap(tmp_path, "project:demo")
    swap.folder.mkdir()
    for number, text in enumerate(["", "[]", "{}", '{"uri": 1}', "\x00"]):
        (swap.folder / f"{swap.stem}.{number}.json").write_text(text)
    assert swap.others() == []


def test_what_can_be_named(tmp_path: Path, monkeypatch) -> None:
    hub = tmp_path / "hub"
    (hub / "models--Qwen--Qwen3-0.6B").mkdir(parents=True)
    (hub / "datasets--openai--gsm8k").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    model = tmp_path / "ws" / "models" / "mine"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("")
    assert known_bases(tmp_path / "ws") == ("starter", "models/mine", "Qwen/Qwen3-0.6B")
    (tmp_path / "ws" / "data" / "x").mkdir(parents=True)
    for name in ("x/train.jsonl", "x/config.json", "rows.csv"):
        (tmp_path / "ws" / "data" / name).write_text("")
    assert known_sources(tmp_path / "ws") == ("data/rows.csv", "data/x/train.jsonl", "data/x", "hub:openai/gsm8k")
