"""The process that answers about a project's data: what it says is what training sees, and nothing breaks it."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.jobs import browsing
from engine.jobs.browsing import LANES, Browser, serve
from engine.rows import reader
from engine.rows.formats import Refusal
from engine.store import Workspace
from engine.tokens import dataset, shown, survey
from engine.tokens.survey import Survey
from tests.engine import tokenisers

ROOT = Path(__file__).parents[2]


def make(root: Path, data: str, rows: dict[str, str], train: str = "max_length = 48") -> Path:
    (root / "projects" / "demo").mkdir(parents=True)
    (root / "data").mkdir()
    for name, text in rows.items():
        (root / "data" / name).write_text(text)
    (root / "projects" / "demo" / "project.toml").write_text(f"[data]\n{data}\n[train]\n{train}\n")
    return root


def pairs(count: int, words: int = 9) -> str:
    rows = [{"prompt": f"What is {i % 40}?", "completion": "word " * (i % words) + "end"} for i in range(count)]
    return "".join(json.dumps(r) + "\n" for r in rows)


BROKEN = (
    '{"prompt": "a"}\n\nnot json\n{"prompt": "b", "completion": ""}\n[1]\n{"prompt": "c", "completion": "\\ud800"}\n'
)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """`demo`: train with broken and over-long rows, and a test file that shares prompts with it."""
    lines = {"train.jsonl": pairs(60, 30) + BROKEN, "test.jsonl": pairs(12) + '{"prompt": "new", "completion": "x"}\n'}
    return make(tmp_path, 'train = "data/train.jsonl"\ntest = "data/test.jsonl"\nmax_refused = 1.0', lines)


class Asking:
    """A browser in this process, and what it has said."""

    def __init__(self, root: Path, tokenizer: Any = None) -> None:
        self.said: list[dict[str, Any]] = []
        self.browser = Browser(root, "demo", self.said.append)
        if tokenizer is not None:
            self.browser.measuring._tokenizer = tokenizer

    def ask(self, do: str, **asked: Any) -> dict[str, Any]:
        """The whole answer: {"id": ..., "ok" or "error": ...}."""
        id = f"{do}-{len(self.said)}"
        self.browser.handle(json.dumps({"id": id, "do": do, **asked}).encode())
        self.browser.wait()
        return next(d for d in self.said if d.get("id") == id)

    def ok(self, do: str, **asked: Any) -> dict[str, Any]:
        answer = self.ask(do, **asked)
        assert "ok" in answer, answer
        return answer["ok"]


@pytest.fixture
def asking(workspace: Path) -> Asking:
    return Asking(workspace, tokenisers.make("byte-level"))


# --- rows as they are


def test_open_says_what_there_is(asking: Asking) -> None:
    found = asking.ok("open")
    train = found["splits"]["train"]
    assert (train["source"], train["columns"], train["files"][0]["format"]) == (
        "data/train.jsonl", ["prompt", "completion"], "jsonl",
    )  # fmt: skip
    assert found["shape"]["said"] == "prompt_completion: prompt -> completion"
    last = [d for d in asking.said if d.get("note") == "index" and d["split"] == "train"][-1]
    assert (last["known"], last["complete"], last["error"]) == (65, True, None)


def test_rows_are_those_of_the_reader(asking: Asking, workspace: Path) -> None:
    asking.ok("open")
    expected = list(reader.read(reader.Source("data/train.jsonl"), workspace))
    given_rows = asking.ok("rows", split="train", start=1, count=100)["rows"]
    assert [r["where"] for r in given_rows] == [r.where for r in expected]
    for given_row, row in zip(given_rows, expected, strict=True):
        if isinstance(row, Refusal):
            assert given_row["refused"] == row.reason
        else:
            assert given_row["cells"] == {k: str(v) for k, v in row.fields.items()}
    assert [r["number"] for r in asking.ok("rows", split="train", start=58, count=3)["rows"]] == [58, 59, 60]
    assert given_rows[60]["refused"] == "missing column: 'completion'"  # known before anything is surveyed


def test_cells_are_cut_and_half_characters_pass(tmp_path: Path) -> None:
    lines = json.dumps({"text": "x" * 100_000, "more": {"a": [1, 2]}}) + "\n"
    asking = Asking(make(tmp_path, 'train = "data/a.jsonl"', {"a.jsonl": lines}))
    cells = asking.ok("rows", split="train", width=50)["rows"][0]["cells"]
    assert cells == {"text": "x" * 50, "more": '{"a": [1, 2]}'}
    json.dumps(asking.said).encode("ascii")


def test_a_search_goes_around_the_end(asking: Asking) -> None:
    asking.ok("open")
    found = asking.ok("find", split="train", text="WHAT is 7?", **{"from": 20}, most=100)
    assert (found["numbers"], found["wrapped"], found["whole"]) == ([48, 8], True, True)
    assert asking.ok("find", split="train", text="WHAT is 7?", case=True)["numbers"] == []
    back = asking.ok("find", split="train", text="What is 7?", **{"from": 20}, direction="backward", most=100)
    assert back["numbers"] == [8, 48]
    assert asking.ok("find", split="train", text="not json")["numbers"] == [62]


def test_data_can_be_looked_at_while_another_table_is_wrong(tmp_path: Path) -> None:
    root = make(tmp_path, 'train = "data/a.jsonl"', {"a.jsonl": pairs(3)}, "max_length = -4")
    asking = Asking(root)
    assert len(asking.ok("rows", split="train")["rows"]) == 3
    assert "max_length" in asking.ask("row", split="train", number=1)["error"]["problem"]


@pytest.mark.parametrize("data", ['train = "data/none.jsonl"', "train = 3", "x = [", 'train = ""', "train.x = 1"])
def test_a_source_that_is_not_there_is_said(tmp_path: Path, data: str) -> None:
    asking = Asking(make(tmp_path, data, {}))
    for do in ("open", "rows"):
        assert asking.ask(do, split="train")["error"]["problem"]


# --- as training sees it


@pytest.mark.parametrize("overlong", ["cut", "refuse"])
@pytest.mark.parametrize("fraction", [None, 0.25])
def test_the_survey_is_what_dataset_load_finds(tmp_path: Path, overlong: str, fraction: float | None) -> None:
    test = f"test_fraction = {fraction}" if fraction else 'test = "data/test.jsonl"'
    lines = {"train.jsonl": pairs(60, 30) + BROKEN + pairs(7), "test.jsonl": pairs(12) + BROKEN}
    data = f'train = "data/train.jsonl"\n{test}\nmax_refused = 1.0'
    root = make(tmp_path, data, lines, f'max_length = 48\noverlong = "{overlong}"')
    workspace = Workspace(root)
    project, tokenizer = workspace.project("demo").load(), tokenisers.make("byte-level")
    expected = dataset.load(project, workspace, tokenizer, lambda event: None)
    look = Survey(project, workspace, tokenizer, threading.Lock())
    look.run()
    sides = {"train": expected.train, "test": expected.test}
    for name, side in sides.items():
        assert side is not None
        assert look.sides[name].ledger.to_json() == side.ledger.to_json()
        assert look.sides[name].tokens == sum(map(len, side.examples))
        assert look.sides[name].supervised == sum(e.supervised for e in side.examples)
    together = look.ledgers()["together"]
    assert together.refused and together.duplicates and (together.cut > 0) == (overlong == "cut")
    assert look.shared_count == len(expected.overlap) > 0
    table = Asking(root).browser.sources
    places = [(table.table("train").row(a).where, table.table("test").row(b).where) for a, b in look.shared]  # type: ignore[union-attr]
    assert places == expected.overlap
    fates = look.rows["train"].fates
    used = {e.where for e in expected.train.examples} | (
        {e.where for e in expected.test.examples} if fraction else set()
    )  # type: ignore[union-attr]
    rows = table.table("train").rows(1, 1000) or []
    assert {r.where for r, fate in zip(rows, fates, strict=True) if fate & 3} == used
    if fraction:
        assert list(look.unseen or ()) == [i + 1 for i, fate in enumerate(fates) if fate & survey.UNSEEN]


def test_a_row_is_the_example_that_is_trained_on(asking: Asking, workspace: Path) -> None:
    tokenizer, home = tokenisers.make("byte-level"), Workspace(workspace)
    data = dataset.load(home.project("demo").load(), home, tokenizer, lambda event: None)
    by_place = {e.where: e for e in data.train.examples}
    cut = 0
    for number in range(1, 61):
        found = asking.ok("row", split="train", number=number)
        example = by_place[found["where"]]
        document = shown.document(tokenizer, "train", example)
        assert found["segments"] == document["segments"]
        assert (found["tokens"], found["supervised"], found["cut"]) == (
            len(example), example.supervised, example.cut,
        )  # fmt: skip
        assert [p[2] for p in found["pieces"]] == example.ids.tolist()
        assert "".join(p[0] for p in found["pieces"]) == document["text"]
        cut += example.cut
        assert (found["length"] > found["max_length"]) == example.cut
    assert cut
    assert asking.ok("row", split="train", number=62)["refused"].startswith("not valid JSON")
    assert asking.ok("row", split="train", number=63)["refused"] == "nothing to learn: 'completion' is empty"
    assert asking.ask("row", split="train", number=66)["error"]["problem"] == "there is no row 66"


@pytest.mark.parametrize("kind", tokenisers.KINDS)
@pytest.mark.parametrize("text", ["plain words", "日本語 é 👩‍👩‍👧 ende", " spaces  two\n\nlines\t", "\u202eعربي"])
def test_pieces_of_tokens_make_up_the_text(kind: str, text: str) -> None:
    tokenizer = tokenisers.make(kind)
    ids = tokenizer(text).input_ids
    pieces = shown.pieces(tokenizer, ids)
    assert len(pieces) == len(ids)
    whole = shown.decode(tokenizer, ids)
    if kind in tokenisers.LOSSLESS:
        assert "".join(pieces) == whole
    else:
        assert "".join(pieces).replace(" ", "") == whole.replace(" ", "")


def test_ledger_lengths_overlap_and_marks(asking: Asking) -> None:
    assert asking.ok("marks", split="train", numbers=[1])["marks"] == [None]
    sides = asking.ok("ledger")["sides"]
    for side in sides.values():
        assert side["read"] == side["kept"] + side["cut"] + side["refused"] == side["read"]
    assert (sides["train"]["read"], sides["train"]["refused"], sides["together"]["read"]) == (65, 5, 78)
    assert sides["train"]["refusals"][1]["where"] == "data/train.jsonl:63"
    lengths = asking.ok("lengths", bins=10)["sides"]["train"]
    assert sum(n for *_, n in lengths["bins"]) == lengths["rows"] == 60
    assert lengths["over"] == sides["train"]["cut"] > 0
    assert sum(n for first, _, n in lengths["bins"] if first > 48) == lengths["over"]
    overlap = asking.ok("overlap")
    assert (overlap["count"], overlap["unseen"]) == (12, 13)
    assert overlap["pairs"][0]["test_where"] == "data/test.jsonl:1"
    assert asking.ok("marks", split="train", numbers=[1, 62, 99])["marks"][1:] == [[["refused"], 0], [["unused"], 0]]
    assert asking.ok("marks", split="test", numbers=[1, 13])["marks"][0][0] == ["kept", "shared"]


def test_rows_kept_by_a_fraction_are_paged_once_they_are_known(tmp_path: Path) -> None:
    root = make(tmp_path, 'train = "data/a.jsonl"\ntest_fraction = 0.5', {"a.jsonl": pairs(20)})
    asking = Asking(root, tokenisers.make("byte-level"))
    assert asking.ok("open")["splits"]["test"] == {"fraction": 0.5}
    assert asking.ok("unseen", start=1, count=50)["rows"] == []
    asking.ok("ledger")
    page = asking.ok("unseen", start=1, count=50)
    assert (page["known"], page["complete"], len(page["rows"])) == (10, True, 10)
    assert [r["number"] for r in page["rows"]] == sorted(r["number"] for r in page["rows"])
    assert asking.ok("unseen", start=10, count=50)["rows"] == page["rows"][9:]
    assert asking.ok("rows", split="test", start=10)["rows"] == page["rows"][9:]


def test_a_run_that_would_stop_is_said(tmp_path: Path) -> None:
    root = make(tmp_path, 'train = "data/a.jsonl"', {"a.jsonl": pairs(60, 60)}, 'max_length = 40\noverlong = "stop"')
    asking = Asking(root, tokenisers.make("byte-level"))
    found = asking.ok("ledger")
    assert "more than train.max_length = 40" in found["stops"]["problem"]
    assert asking.ok("row", split="train", number=60)["cut"]


@given(st.lists(st.integers(1, 3000), max_size=80), st.integers(8, 2000), st.integers(1, 40))
def test_a_histogram_has_every_row_once(lengths: list[int], limit: int, wanted: int) -> None:
    import numpy as np

    bins = survey.histogram(np.array(lengths, np.uint32), limit, wanted)
    assert sum(n for *_, n in bins) == len(lengths)
    for first, last, count in bins:
        assert sum(first <= n <= last for n in lengths) == count
        assert not first <= limit < last or limit >= max(lengths)
    for (_, last, _), (first, _, _) in itertools.pairwise(bins):
        assert first == last + 1
    assert len(bins) <= wanted + 3


# --- the protocol

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["split", "start", "count", "number", "numbers", "width", "bins", "text", "from", "direction"])
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(0, 9) | VALUES, "do": st.sampled_from(sorted(LANES)) | VALUES,
        "split": st.sampled_from(["train", "test"]) | VALUES,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def lasting(tmp_path_factory) -> Asking:
    rows = {"train.jsonl": pairs(20) + BROKEN, "test.jsonl": pairs(5)}
    root = make(tmp_path_factory.mktemp("lasting"), 'train = "data/train.jsonl"\ntest = "data/test.jsonl"', rows)
    return Asking(root, tokenisers.make("byte-level"))


@given(st.one_of(st.binary(max_size=60), st.tuples(REQUEST, st.dictionaries(NAMES, VALUES, max_size=3))))
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
def test_whatever_comes_has_an_answer(lasting: Asking, given_line) -> None:
    line = given_line if isinstance(given_line, bytes) else json.dumps({**given_line[1], **given_line[0]}).encode()
    line = line.replace(b"\n", b" ")
    lasting.said.clear()
    serve(io.BytesIO(line + b"\n"), lasting.browser)
    lasting.browser.wait()
    answers = [d for d in lasting.said if "id" in d and "note" not in d]
    assert len(answers) == (1 if line.strip() else 0)
    for answer in answers:
        assert ("ok" in answer) != ("error" in answer)
        assert "unexpected" not in json.dumps(answer.get("error"))
        json.dumps(answer).encode("ascii")


def test_a_request_that_is_too_long_is_refused_and_the_next_is_answered(lasting: Asking) -> None:
    lasting.said.clear()
    long = b'{"id": 1, "do": "' + b"x" * 200_000 + b'"}\n'
    serve(io.BytesIO(long + b'{"id": 2, "do": "rows", "split": "train", "count": 1}\n'), lasting.browser)
    assert lasting.said[0]["error"]["problem"].startswith("a request of more than")
    assert lasting.said[1]["id"] == 2 and "ok" in lasting.said[1]


def test_rows_are_answered_while_all_rows_are_gone_through(workspace: Path) -> None:
    asking = Asking(workspace, tokenisers.make("byte-level"))
    asking.ok("open")
    begun, go_on = threading.Event(), threading.Event()
    original: Callable[..., None] = Survey.run

    def slow(self: Survey, tell: Callable[[], None]) -> None:
        begun.set()
        assert go_on.wait(20)
        original(self, tell)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Survey, "run", slow)
        asking.browser.handle(b'{"id": "l", "do": "ledger"}')
        assert begun.wait(20)
        asking.browser.handle(b'{"id": "r", "do": "rows", "split": "train", "count": 2}')
        assert [d["id"] for d in asking.said if "ok" in d][-1] == "r"
        asking.browser.handle(b'{"id": "w", "do": "row", "split": "train", "number": 1}')
        asking.browser._lane("row").join(20)
        assert any(d.get("id") == "w" and "ok" in d for d in asking.said)
        assert not any(d.get("id") == "l" for d in asking.said)
        go_on.set()
        asking.browser.wait()
    assert any(d.get("id") == "l" and "ok" in d for d in asking.said)


def test_the_process_answers_on_stdout_alone_and_ends_with_its_stdin(workspace: Path) -> None:
    asked = b'\xff\xfe\n{"id": 1, "do": "rows", "split": "train", "count": 2}\n{"id": 2, "do": "nothing"}\n'
    done = subprocess.run(
        [sys.executable, "-m", "engine", "browse", "demo", "--workspace", str(workspace)],
        input=asked, capture_output=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [a["id"] for a in answers] == [None, 1, 2]
    assert len(answers[1]["ok"]["rows"]) == 2
    assert answers[2]["error"]["remedy"].startswith("there are: open, rows")


def test_the_first_rows_load_nothing_heavy(workspace: Path) -> None:
    program = (
        "import sys, io, json; from engine.jobs import browsing\n"
        f"b = browsing.Browser(__import__('pathlib').Path({str(workspace)!r}), 'demo', lambda d: None)\n"
        'browsing.serve(io.BytesIO(b\'{"id": 1, "do": "open"}\\n{"id": 2, "do": "rows", "split": "train"}\\n\'), b)\n'
        "b.wait(); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not set(done.stdout.split()) & {"numpy", "pydantic", "typer", "msgspec", "transformers", "torch", "rich"}
    assert browsing.LONGEST_REQUEST == 1 << 16
