"""Files that grow by lines: whole lines from either end for any content and block, and any number of writers."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import jsonl
from engine.errors import WorkFailed


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=9),
    st.binary(max_size=5),
    st.integers(1, 20),
)
def test_lines_are_the_same_from_both_ends(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[bytes], torn: bytes, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in wanted) + torn.replace(b"\n", b""))
    assert list(jsonl.lines(path)) == wanted
    assert list(jsonl.newest_lines(path, block)) == wanted[::-1]


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert [*jsonl.lines(tmp_path / "x"), *jsonl.newest_lines(tmp_path / "x")] == []


def test_the_end_of_a_large_file_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(b"".join(b"%06d\n" % i for i in range(200_000)))
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)  # the beginning is no text at all; nobody looks there
    assert list(islice(jsonl.newest_lines(path), 2)) == [b"199999", b"199998"]


def test_a_line_after_a_torn_one_stands_on_its_own(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.jsonl"
    jsonl.append(path, b"1\n")
    with path.open("ab") as file:
        file.write(b'{"torn')
    jsonl.append(path, b"2\n")
    assert list(jsonl.lines(path)) == [b"1", b'{"torn', b"2"]


WRITER = """
import sys
from pathlib import Path
from engine import jsonl
for i in range(40):
    jsonl.append(Path(sys.argv[1]), (sys.argv[2] * 9000 + str(i)).encode() + b"\\n")
"""


def test_lines_of_two_processes_are_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "ab"]
    assert [w.wait(60) for w in writers] == [0, 0]
    found = [line.decode() for line in jsonl.lines(path)]
    for letter in "ab":
        assert [x for x in found if x[0] == letter] == [letter * 9000 + str(i) for i in range(40)]
    assert len(found) == 80


def test_a_disk_that_takes_half_a_line_keeps_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    jsonl.append(path, b"whole\n")
    real = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 4:
            return real(fd, data[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WorkFailed, match="No space"):
        jsonl.append(path, b"another\n")
    assert path.read_bytes() == b"whole\n"
