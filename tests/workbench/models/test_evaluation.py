"""Evaluations read, folded into one matrix, arranged, and put into words."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workbench.evaluations import document, write_evaluation, write_job
from workbench.models import evaluated_rows, evaluation_words
from workbench.models import evaluation as ev
from workbench.models.evaluated_rows import Item, Pair
from workbench.models.evaluation import BASE, Line, McNemar, Paired, Row, Wins


@pytest.fixture
def project(workspace: Path) -> Path:
    write_evaluation(workspace, "demo/0001", document([BASE, "demo-0001"]), when=1000.0)
    write_evaluation(workspace, "demo/0002", document([BASE, "demo-0002"], rows=8), when=2000.0)
    return workspace / "projects" / "demo"


def test_scan_finds_the_newest_first_and_a_copy_once(project: Path) -> None:
    label = write_job(project.parents[1], "demo", "eval", [])
    copy = project / "jobs" / label.rsplit("/", 1)[1] / "result.json"
    copy.write_bytes((project / "runs" / "0001" / "evaluation.json").read_bytes())
    (project / "runs" / "0003").mkdir()
    (project / "runs" / "0003" / "evaluation.json").write_text('{"rows": 3')
    other = write_job(project.parents[1], "demo", "merge", [])
    (project / "jobs" / other.rsplit("/", 1)[1] / "result.json").write_text('{"out": "x"}')
    known: dict[Path, Any] = {}
    sources = ev.scan(project, known)
    assert [s.models for s in sources if not s.problem] == [[BASE, "demo-0001"], [BASE, "demo-0002"]]
    assert [s.path.parent.name for s in sources if s.problem] == ["0003"]
    again = ev.scan(project, known)
    assert all(a is b for a, b in zip(sources, again, strict=True)), "what has not changed is not read again"


def test_the_matrix_has_the_newest_of_every_model(project: Path) -> None:
    lines = ev.matrix(ev.scan(project, {}))
    assert [x.key for x in lines[:3]] == [(m, "test", "completion") for m in (BASE, "demo-0001", "demo-0002")]
    assert len(lines) == 3 * 2 * 2
    assert [x.other for x in lines[:3]] == [False, True, False], "0001 was measured on 20 rows, the newest base on 8"
    alone = ev.matrix(ev.scan(project, {}), project / "runs" / "0001" / "evaluation.json")
    assert {x.row.model for x in alone} == {BASE, "demo-0001"} and not any(x.other for x in alone)


def test_wins_are_counted_row_by_row(project: Path) -> None:
    line = next(x for x in ev.matrix(ev.scan(project, {})) if x.key == ("demo-0001", "test", "completion"))
    assert line.wins == Wins(better=18, worse=2, rows=20)
    said = evaluation_words.against(line)
    assert said.startswith("better than base on 18 of 20 rows, -") and said.endswith("p = 0.0099")  # of 100 resamples
    assert evaluation_words.answers(line).startswith("11 answers gained, 2 lost against base, p = 0.022")


def test_rows_in_their_orders(project: Path) -> None:
    whole = evaluated_rows.load(project / "runs" / "0001" / "evaluation.json")
    pairs = whole.rows("demo-0001", "test")
    assert [p.at for p in evaluated_rows.arranged(pairs, "completion", "file")] == list(range(20))
    worst = evaluated_rows.arranged(pairs, "completion", "worst")
    assert [p.at for p in worst[:2]] == [3, 13] and worst[0].item.mean("completion") == 5.5
    gains = [p.change("completion") for p in evaluated_rows.arranged(pairs, "completion", "gain")]
    assert gains == sorted(gains) and gains == ev_reversed(pairs)
    assert {p.turned for p in evaluated_rows.arranged(pairs, "completion", "worst", "gained")} == {"gained"}
    assert len(evaluated_rows.arranged(pairs, "completion", "file", "wrong")) == 7
    assert (
        evaluated_rows.containing(pairs, "WHAT IS 13", False) == [13]
        and evaluated_rows.containing(pairs, "WHAT IS 13", True) == []
    )
    assert [i.model for i in whole.everybody(5, "test")] == [BASE, "demo-0001"]
    assert all(p.base is None for p in whole.rows(BASE, "test"))


def ev_reversed(pairs: list[Pair]) -> list[float]:
    return [p.change("completion") for p in evaluated_rows.arranged(pairs, "completion", "loss")][::-1]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": [], "items": [{"model": 1}]}', "\x00", '{"rows": {}, "items": []}']
)
def test_what_is_no_evaluation_is_told(workspace: Path, text: str) -> None:
    path = workspace / "projects" / "demo" / "runs" / "0001" / "evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (source,) = ev.scan(workspace / "projects" / "demo", {})
    assert source.problem.startswith("not an evaluation") and source.lines == ()
    with pytest.raises(LookupError, match="cannot be read"):
        evaluated_rows.load(path)


def test_figures_that_are_not_there(workspace: Path) -> None:
    """NaN is null in the document; a later version may say more."""
    made = document([BASE, "demo-0001"], rows=4, nll=lambda model, at: math.nan if at == 2 else 10.0)
    made["rows"][0]["new"] = made["items"][0]["new"] = {"x": 1}
    path = write_evaluation(workspace, "demo/0001", made)
    lines = ev.matrix(ev.scan(workspace / "projects" / "demo", {}))
    assert lines[1].wins == Wins(0, 0, 3)
    pairs = evaluated_rows.load(path).rows("demo-0001", "test")
    assert [p.at for p in evaluated_rows.arranged(pairs, "completion", "worst")][-1] == 2
    assert [p.at for p in evaluated_rows.arranged(pairs, "completion", "gain")][-1] == 2


def line(difference: float, p: float | None, wins: Wins | None, test: McNemar | None = None) -> Line:
    row = Row("m", "test", "completion", paired=Paired(difference, (difference - 1, difference + 1), p), mcnemar=test)
    return Line(row, Path("x"), wins)


def test_words() -> None:
    assert evaluation_words.against(line(-1.5, 0.0001, Wins(371, 29, 400))) == (
        "better than base on 371 of 400 rows, -1.5000 nats per token (95 %: -2.5000 to -0.5000), p < 0.001"
    )
    assert evaluation_words.against(line(0.01, 0.6, Wins(9, 11, 20))).endswith("p = 0.6: no difference beyond chance")
    assert "changed nothing" in evaluation_words.against(line(0.0, 1.0, Wins(0, 0, 20)))
    assert evaluation_words.answers(line(0.0, 1.0, None, McNemar(0, 0, 1.0))) == "no answer gained or lost against base"
    assert evaluation_words.chance(0.9999) == "p = 1" and evaluation_words.chance(None) == ""
    assert (
        evaluation_words.short(None) == "-"
        and evaluation_words.short(math.inf) == "inf"
        and evaluation_words.short(1234567.0) == "1.2e+06"
    )


@given(
    st.lists(st.tuples(st.floats(0, 1e4) | st.none(), st.floats(0, 1e4) | st.none(), st.integers(0, 5)), max_size=30)
)
def test_arranging_loses_nothing(rows: list[tuple[float | None, float | None, int]]) -> None:
    items = [(Item("m", "s", "w", {"c": a}, {"c": n}), Item(BASE, "s", "w", {"c": b}, {"c": n})) for a, b, n in rows]
    pairs = [Pair(at, a, b) for at, (a, b) in enumerate(items)]
    for order in evaluated_rows.ORDERS:
        made = evaluated_rows.arranged(pairs, "c", order)
        assert sorted(p.at for p in made) == list(range(len(pairs)))
    worst = [p.item.mean("c") for p in evaluated_rows.arranged(pairs, "c", "worst")]
    real = [w for w in worst if not math.isnan(w)]
    assert real == sorted(real, reverse=True) and not any(map(math.isnan, worst[: len(real)]))


def test_ten_thousand_items_are_read_fast(workspace: Path) -> None:
    made = document([BASE, "demo-0001"], rows=5000, splits=("test",), long="x" * 500)
    path = write_evaluation(workspace, "demo/0001", made)
    assert len(json.loads(path.read_text())["items"]) == 10_000
    begun = time.perf_counter()
    sources = ev.scan(workspace / "projects" / "demo", {})
    pairs = evaluated_rows.arranged(evaluated_rows.load(path).rows("demo-0001", "test"), "completion", "worst")
    assert len(sources) == 1 and len(pairs) == 5000
    assert time.perf_counter() - begun < 5.0  # measured: 0.1 s on free cores
