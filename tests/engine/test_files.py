"""Writing: the old or the new, never a half, whatever stops it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import files
from engine.errors import InputError, WorkFailed

OLD, NEW = b"old" * 1000, b"new" * 2000


def failing(real: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """`real`, but the call number `at` (from 0) raises instead."""
    calls = -1

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return real(*args, **kwargs)

    return call


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill(folder: Path, data: bytes) -> None:
    """Two files and a folder in it."""
    (folder / "deep").mkdir()
    (folder / "a").write_bytes(data)
    (folder / "deep" / "b").write_bytes(data)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_whole(folder: Path, data: bytes) -> bool:
    return content(folder) == {"a": data, "deep/b": data}


# --- files


@given(st.binary() | st.text(st.characters(codec="utf-8")))
@settings(max_examples=30)
def test_what_is_written_is_there(tmp_path_factory: pytest.TempPathFactory, data: bytes | str) -> None:
    path = tmp_path_factory.getbasetemp() / "made" / "of [brackets]" / "file.json"
    files.write_atomic(path, data)
    assert path.read_bytes() == (data if isinstance(data, bytes) else data.encode())
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "error", [full_disk(), PermissionError(errno.EACCES, "no"), KeyboardInterrupt(), ValueError("bug")]
)
def test_a_failed_write_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int, error: BaseException
) -> None:
    """Whichever call fails; a failure after the rename (the folder's fsync) leaves the new one."""
    path = tmp_path / "file"
    path.write_bytes(OLD)
    monkeypatch.setattr(os, function, failing(getattr(os, function), at, error))
    if function == "replace" and at == 1:
        files.write_atomic(path, NEW)
    else:
        with pytest.raises(WorkFailed if isinstance(error, OSError) else type(error)):
            files.write_atomic(path, NEW)
    assert path.read_bytes() == (OLD if at == 0 else NEW)
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_said_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(os.fsync, 0, full_disk()))
    with pytest.raises(WorkFailed, match="No space left on device") as failed:
        files.write_atomic(tmp_path / "x", NEW)
    assert failed.value.where == str(tmp_path / "x")
    assert failed.value.remedy
    assert "free some space" in failed.value.remedy


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(WorkFailed, match=r"cannot write: (Not a directory|File exists)"):
        files.write_atomic(tmp_path / "file" / "x", NEW)


FILLS_A_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from engine import files
from engine.errors import WorkFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
folder = Path(sys.argv[1])
def write(): files.write_atomic(folder / "file", b"x" * 9000)
def save():
    with files.folder_atomic(folder / "model") as part: save_file({"w": np.zeros(9000)}, part / "model.safetensors")
for work in (write, save):
    try: work()
    except WorkFailed as failed: print(failed.problem, failed.where)
"""


def test_a_write_that_the_system_really_refuses(tmp_path: Path) -> None:
    """By a limit on the size of files; safetensors, written in Rust, does not raise OSError."""
    (tmp_path / "file").write_bytes(OLD)
    done = subprocess.run(
        [sys.executable, "-c", FILLS_A_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said = os.strerror(errno.EFBIG)
    assert done.stdout.splitlines() == [f"cannot write: {said} {tmp_path / n}" for n in ("file", "model")]
    assert content(tmp_path) == {"file": OLD}
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_of_ours_passes_through(tmp_path: Path) -> None:
    for error in (
        InputError("this is said already"),
        ValueError("a bug"),
        FileNotFoundError(2, "No such file", "base.bin"),
    ):
        with pytest.raises((InputError, ValueError, WorkFailed)) as caught, files.folder_atomic(tmp_path / "x"):
            raise error
        assert str(error) in str(caught.value) or "No such file or directory: base.bin" in str(caught.value)
        assert os.listdir(tmp_path) == []


def test_many_writers_of_one_file(tmp_path: Path) -> None:
    """A reader sees one of the texts as a whole at any time, and no part is left behind."""
    path = tmp_path / "cache.npz"
    texts = {bytes([65 + i]) * 40_000 for i in range(4)}
    path.write_bytes(min(texts))
    errors: list[BaseException] = []

    def write(text: bytes) -> None:
        try:
            for _ in range(15):
                files.write_atomic(path, text)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in texts
    assert not errors
    assert os.listdir(tmp_path) == ["cache.npz"]


def test_parts_of_killed_writers_are_cleared_away_in_time(tmp_path: Path) -> None:
    path, fresh, stale = tmp_path / "x", tmp_path / "x.1-1.part", tmp_path / "x.2-2.part"
    fresh.write_bytes(b"")
    stale.write_bytes(b"")
    os.utime(stale, (time.time() - 7200,) * 2)
    files.write_atomic(path, NEW)
    assert sorted(os.listdir(tmp_path)) == ["x", "x.1-1.part"]


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, "ä\n"]}, [], "half \udcff of a character"])
def test_json_comes_back(tmp_path: Path, value: Any) -> None:
    files.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == value


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


# --- folders


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_there_when_the_block_ends(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "adapter"
    if there:
        path.mkdir()
        fill(path, OLD)
    with files.folder_atomic(path) as part:
        fill(part, NEW)
        assert path.exists() == there
        assert not there or is_whole(path, OLD)
    assert is_whole(path, NEW)
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [full_disk(), KeyboardInterrupt(), ValueError("bug")])
@pytest.mark.parametrize(("function", "calls"), [("replace", 2), ("fsync", 5), ("open", 5)])
def test_a_failure_anywhere_leaves_the_old_folder_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, error: BaseException, function: str, calls: int
) -> None:
    for at in range(calls):
        path = tmp_path / str(at) / "adapter"
        path.parent.mkdir()
        if there:
            path.mkdir()
            fill(path, OLD)
        with monkeypatch.context() as broken:
            broken.setattr(os, function, failing(getattr(os, function), at, error))
            try:
                with files.folder_atomic(path) as part:
                    fill(part, NEW)
            except (WorkFailed, KeyboardInterrupt, ValueError):
                pass
        assert is_whole(path, NEW) or (is_whole(path, OLD) if there else not path.exists())
        files.recover_folder(path)
        assert os.listdir(path.parent) == (["adapter"] if path.exists() else [])


def test_a_failing_block_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    path.mkdir()
    fill(path, OLD)
    with pytest.raises(KeyError), files.folder_atomic(path) as part:
        fill(part, {"data": NEW}["date"])
    assert is_whole(path, OLD)
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("left", ["part", "old", "both", "old and part"])
def test_recovery(tmp_path: Path, left: str) -> None:
    """What a crash can leave: a half; the old stepped aside; old and new; the old aside, the new not yet in place."""
    path = tmp_path / "adapter"
    for suffix, data in {
        "part": {"": OLD, ".part": NEW},
        "old": {".old": OLD},
        "both": {"": NEW, ".old": OLD},
        "old and part": {".old": OLD, ".part": NEW},
    }[left].items():
        folder = path.with_name(path.name + suffix)
        folder.mkdir()
        fill(folder, data)
    files.recover_folder(path)
    assert is_whole(path, NEW if left == "both" else OLD)
    assert os.listdir(tmp_path) == ["adapter"]
    files.recover_folder(path)
    files.recover_folder(tmp_path / "nothing")


KILLED = """
import sys
from pathlib import Path
from engine import files
folder = Path(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    data = str(number % 10).encode() * 20000
    files.write_atomic(folder / "file", data)
    with files.folder_atomic(folder / "adapter") as part:
        for name in "abc":
            (part / name).write_bytes(data)
"""


def test_sigkill_at_any_moment_leaves_a_whole(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    for delay in (0.0, 0.002, 0.005, 0.013, 0.031):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        files.recover_folder(adapter)
        written = [tmp_path / "file"] if (tmp_path / "file").exists() else []
        written += [adapter / name for name in "abc"] if adapter.exists() else []
        for data in (path.read_bytes() for path in written):
            assert len(data) == 20_000
            assert len(set(data)) == 1
        assert not adapter.exists() or len({(adapter / name).read_bytes() for name in "abc"}) == 1


# --- space and sums


def test_sums_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "deep" / "b").write_bytes(b"x" * 10)
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (files.size_of(tmp_path), files.size_of(tmp_path / "a")) == (13, 3)


def test_space_is_asked_of_the_disk_that_will_be_written(tmp_path: Path) -> None:
    files.need_space(tmp_path / "not" / "yet" / "there", 1)
    files.need_space(Path("relative"), 0)
    with pytest.raises(WorkFailed, match=r"not enough disk space: 1000000000\.0 TB needed") as failed:
        files.need_space(tmp_path / "out", 10**21)
    assert failed.value.where == str(tmp_path / "out")
