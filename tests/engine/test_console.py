"""Output for people and for programs: what a terminal shows, a pipe gets and JSON holds, and what is never sent."""

from __future__ import annotations

import io
import json
import math
import os
import re
import threading
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import console as console_module
from engine import events, text
from engine.console import Console
from engine.errors import InputError, Stopped, WorkFailed

EVIL = "a\x1b[2Jb\x1b]52;c;eHg=\x07\rc\x9bd\u202ee\x00"


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and knows what its screen shows."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines, at = [""], 0
        for piece in re.split(r"(\r|\n|\x1b\[K)", self.getvalue()):
            if piece == "\r":
                at = 0
            elif piece == "\n":
                lines.append("")
                at = 0
            elif piece == "\x1b[K":
                lines[-1] = lines[-1][:at]
            else:
                lines[-1] = lines[-1][:at] + piece + lines[-1][at + len(piece) :]
                at += len(piece)
        return lines


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


def step(number: int, steps: int = 300, **changes: float) -> events.Step:
    numbers: dict[str, Any] = {
        "loss": 0.412,
        "learning_rate": 1.8e-4,
        "gradient_norm": 0.9,
        "seconds": 0.5,
        "epoch": 1.0,
        **changes,
    }
    counts: dict[str, Any] = {
        "tokens": 100,
        "supervised_tokens": 50,
        "tokens_per_second": 4120.0,
        "memory_bytes": 1_200_000_000,
    }
    return events.Step(step=number, steps=steps, **counts, **numbers)


def stage(done: float, total: float | None = None, at: float = 0.0, name: str = "read rows") -> events.Stage:
    return events.Stage(name=name, done=done, total=total, unit="rows", t=at)


# --- text


@given(st.text())
def test_printable_text_cannot_act_on_a_terminal(given: str) -> None:
    shown = text.printable(given)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n"]
    assert shown.count("\n") == given.count("\n") and shown.count("\t") == given.count("\t")
    assert "\n" not in text.one_line(given) and "\t" not in text.one_line(given)


def test_printable_spells_out_what_it_takes_away() -> None:
    assert text.printable(EVIL) == "a\\x1b[2Jb\\x1b]52;c;eHg=\\x07\\x0dc\\x9bd\\u202ee\\x00"
    assert text.printable("naïve 日本 👩\u200d🔬") == "naïve 日本 👩\u200d🔬"


WIDE = st.text(alphabet=st.sampled_from(list("ab é日本語 \n\u0301")), max_size=80)


@given(WIDE, st.integers(2, 30))
def test_wrapped_lines_fit_and_keep_every_word_character(given: str, width: int) -> None:
    lines = text.wrap(given, width)
    assert all(text.cells(line) <= width for line in lines)
    assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", given)


@given(WIDE, st.integers(0, 30))
def test_cut_text_fits_and_says_that_it_is_cut(given: str, width: int) -> None:
    shown = text.cut(given, width)
    assert text.cells(shown) <= width
    assert shown == given or shown.endswith("…") or width == 0


@given(st.lists(WIDE, min_size=1, max_size=4), st.integers(10, 140))
def test_columns_fit_and_hold_every_text(texts: list[str], width: int) -> None:
    titles = [f"model {i}" for i in range(len(texts))]
    shown = text.columns(titles, texts, width)
    assert all(text.cells(line) <= width for line in shown.split("\n"))
    assert sorted(re.sub(r"[\s│─┼]", "", shown)) == sorted(re.sub(r"\s", "", "".join([*titles, *texts])))


def test_columns_stand_beside_each_other_where_there_is_room() -> None:
    shown = text.columns(["base", "adapter"], ["one two", "drei\nvier"], 60).split("\n")
    assert shown[0].split("│")[1].strip() == "adapter"
    assert [part.strip() for part in shown[2].split("│")] == ["one two", "drei"]
    assert [part.strip() for part in shown[3].split("│")] == ["", "vier"]
    assert text.columns(["base", "adapter"], ["one", "two"], 40) == "base\n  one\nadapter\n  two"


def test_columns_neutralise_what_a_model_wrote() -> None:
    assert "\x1b" not in text.columns(["base"], [EVIL], 80)


def test_a_table_is_aligned_by_cells() -> None:
    shown = text.table(["name", "n"], [["日本", "5"], ["é", "1,000"], ["a\nb", ""]], "<>")
    assert shown.split("\n") == ["name      n", "日本      5", "é     1,000", "a\\nb"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (80, "1 min 20 s"), (7500, "2 h 05 min"), (math.inf, "?")],
)
def test_duration(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "-"), (-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (86399, "23 h"), (9 * 86400, "9 d")]
)
def test_age(seconds: float | None, words: str) -> None:
    assert text.age(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (999.9, "1.0 kB"), (123_456, "123 kB"), (1.2e9, "1.2 GB"), (5e15, "5000.0 TB")],
)
def test_size(count: float, words: str) -> None:
    assert text.size(count) == words


# --- a pipe


def test_a_short_stage_leaves_one_line_on_a_pipe() -> None:
    out = io.StringIO()
    console = Console(out)
    console.emit(stage(0, at=100.0))
    console.emit(stage(500, at=100.1))
    console.emit(stage(8000, 8000, at=100.2))
    assert out.getvalue() == "read rows: 8,000 rows in 0.2 s\n"


def test_a_stage_without_events_is_told_on_a_pipe_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(console_module, "TICK_SECONDS", 0.02)
    out = io.StringIO()
    console = Console(out)
    console.emit(events.Stage(name="load starter (nf4)", done=0, total=1, t=time.time()))
    deadline = time.monotonic() + 5
    while not out.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert out.getvalue() == "load starter (nf4) ...\n"
    console.emit(events.Stage(name="load starter (nf4)", done=1, total=1, t=time.time() + 2))
    assert re.fullmatch(r"load starter \(nf4\): [2-9]\.\d s", out.getvalue().split("\n")[1])
    while any(t.name == "progress" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stage_that_another_one_follows_is_ended() -> None:
    out = io.StringIO()
    console = Console(out)
    console.emit(stage(5, at=10.0))
    console.emit(stage(1, 1, at=13.0, name="tokenise"))
    assert out.getvalue() == "read rows: 5 rows in 3.0 s\ntokenise: 1 rows in 0.0 s\n"


def test_steps_on_a_pipe_are_told_every_few_seconds_and_at_the_last() -> None:
    out = io.StringIO()
    console = Console(out)
    for number in range(1, 301):
        console.emit(step(number))
    first, last = out.getvalue().splitlines()
    assert first == "step 1/300  loss 0.412  ETA 2 min 30 s  4,120 tok/s  mem 1.2 GB  lr 1.8e-04  grad 0.9"
    assert last.startswith("step 300/300  loss 0.412") and "ETA" not in last


def test_what_is_said_between_steps_stands_after_the_newest_step() -> None:
    out = io.StringIO()
    console = Console(out)
    for number in range(1, 10):
        console.emit(step(number))
    console.emit(events.Saved(what="checkpoint", path="/x/step-9", bytes=1_500_000, step=9))
    assert [line[:8] for line in out.getvalue().splitlines()] == ["step 1/3", "step 9/3", "step 9, "]


# --- a terminal


def test_a_stage_is_rewritten_in_place() -> None:
    out = Terminal()
    console = Console(out)
    console.emit(stage(0, at=1.0))
    console.emit(stage(4000, 8000, at=2.0))
    console.emit(events.Note(text="a row is odd"))
    console.emit(stage(8000, 8000, at=3.0))
    assert out.screen == ["a row is odd", "read rows: 8,000 rows in 2.0 s", ""]


def test_steps_are_rewritten_in_place_and_the_last_one_stays() -> None:
    out = Terminal()
    console = Console(out)
    for number in range(1, 5):
        console.emit(step(number, 4))
        time.sleep(0.11 if number == 2 else 0)
    console.emit(events.Finished(reason="done", seconds=2.0))
    assert len(out.screen) == 3 and out.screen[0].startswith("step 4/4") and out.screen[1:] == ["done after 2.0 s", ""]
    assert out.getvalue().count("\r") > 1


def test_a_line_in_place_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out, long = Terminal(), Terminal()
    Console(out).emit(step(1, 2))
    assert out.screen[0] == "step 1/2  loss 0.412"
    Console(long).emit(stage(1, 5, name="read rows of many files"))
    assert text.cells(long.screen[0]) == 29 and long.screen[0].endswith("…")


def test_paths_are_told_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    err = io.StringIO()
    console = Console(io.StringIO(), errors=err)
    console.error(InputError(f"{tmp_path}/p.toml:1:1: a\n{tmp_path}/p.toml:2:1: b"))
    console.error(InputError("no such file", where=f"{tmp_path}/data/x.csv:3"))
    assert err.getvalue() == "error:\n  p.toml:1:1: a\n  p.toml:2:1: b\nerror: data/x.csv:3: no such file\n"


def test_what_is_told_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out, err, pipe = Terminal(), Terminal(), io.StringIO()
    sums: dict[str, Any] = {"scope": "all", "nll": 1.0, "tokens": 37388, "perplexity": 7.826}
    for stream in (out, pipe):
        console = Console(stream, errors=err if stream is out else io.StringIO())
        console.emit(events.Scored(model="base", split="train", **sums))
        console.warn("forty cells are not enough for all of this, for once")
        console.error(WorkFailed("the merged model differs from base + adapter", where="projects/p/merged"))
    said = pipe.getvalue().splitlines()
    assert said[0] == "base on training rows (all): perplexity 7.826 over 37,388 tokens"
    assert [" ".join(out.screen[i : i + 2]).replace("   ", " ") for i in (0, 2)] == said
    assert err.screen[:2] == ["error: projects/p/merged: the merged", "  model differs from base + adapter"]
    assert all(text.cells(line) <= 40 for line in (*out.screen, *err.screen))


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, coloured, piped = Terminal(), Terminal(), io.StringIO()
    Console(plain).warn("beware")
    monkeypatch.delenv("NO_COLOR")
    Console(coloured).warn("beware")
    Console(piped).warn("beware")
    assert plain.getvalue() == piped.getvalue() == "warning: beware\n"
    assert coloured.getvalue() == "\x1b[33mwarning: beware\x1b[0m\n"


def test_a_dumb_terminal_is_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    Console(out).emit(step(1, 2))
    assert "\r" not in out.getvalue() and out.getvalue().endswith("\n")


# --- texts of models and datasets


@pytest.mark.parametrize(
    "event",
    [
        events.Sample(model=EVIL, prompt=EVIL, text=EVIL, step=3),
        events.Note(text=EVIL),
        events.Note(text=EVIL, level="warning"),
        events.Scored(model=EVIL, split=EVIL, scope="all", nll=1.0, tokens=1, perplexity=2.7),
        events.Saved(what=EVIL, path=EVIL, bytes=1),
        events.Started(verb="train", pid=1, pid_started=1.0, project=EVIL, device=EVIL),
        events.Stage(name=EVIL, done=1, total=1),
        events.Failed(problem=EVIL, where=EVIL, remedy=EVIL),
        events.Finished(reason=EVIL),
    ],
)
def test_no_event_acts_on_the_terminal(event: events.Event) -> None:
    out, err = Terminal(), Terminal()
    console = Console(out, errors=err)
    console.emit(event)
    console.say(EVIL)
    console.warn(EVIL)
    console.error(InputError(EVIL, where=EVIL, remedy=EVIL))
    console.table([EVIL], [[EVIL]])
    written = out.getvalue() + re.sub(r"\x1b\[(31|0)m", "", err.getvalue())
    assert not [c for c in written if unicodedata.category(c) == "Cc" and c not in "\n\t"]


def test_a_sample_keeps_the_lines_of_its_text() -> None:
    out = io.StringIO()
    Console(out).emit(events.Sample(model="adapter", prompt="q\nr", text="a\n\nb", step=100))
    assert out.getvalue() == "step 100, adapter was asked:\n  > q\n  > r\n    a\n    \n    b\n"


# --- JSON


def test_event_lines_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, json_lines=True, errors=err)
    console.say("no")
    console.warn("no")
    console.table(["no"], [["no"]])
    console.document({"no": 1})
    console.emit(stage(0))
    console.emit(step(1, loss=math.nan))
    console.emit(events.Finished(reason="done"))
    kinds = [json.loads(line)["kind"] for line in out.getvalue().splitlines()]
    assert kinds == ["stage", "step", "finished"] and err.getvalue() == ""


def test_event_lines_always_end_with_an_end() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, json_lines=True, errors=err)
    console.emit(events.Note(text="x", seq=6))
    console.error(WorkFailed("it broke", where="here", remedy="mend it"))
    last = json.loads(out.getvalue().splitlines()[-1])
    assert (last["kind"], last["seq"], last["problem"], last["where"]) == ("failed", 7, "it broke", "here")
    assert err.getvalue() == "error: here: it broke\n  mend it\n"
    console.error(Stopped("again"))
    assert len(out.getvalue().splitlines()) == 2


def test_a_log_line_is_passed_on_as_it_stands() -> None:
    out = io.StringIO()
    console = Console(out, json_lines=True)
    lines = [
        b'{"kind":"later","x":1}\n',
        b'{"kind": "note", "text": "\xc3\xa9", "new": [1]}\n',
        b'{"kind":"no\n',
        b"7\n",
    ]
    assert [type(console.line(line)) for line in lines] == [type(None), events.Note, type(None), type(None)]
    assert out.getvalue().encode() == lines[0] + lines[1]


def test_one_document_without_nan() -> None:
    out = io.StringIO()
    console = Console(out, json_document=True)
    console.emit(step(1))
    console.say("no")
    console.document({"a": [math.nan, math.inf, 1.5], "b": {"c": -math.inf}, "é": (1, None, True)})
    console.document({"second": 1})
    assert json.loads(out.getvalue()) == {"a": [None, None, 1.5], "b": {"c": None}, "é": [1, None, True]}


def test_an_error_is_a_document_too() -> None:
    out, err = io.StringIO(), io.StringIO()
    Console(out, json_document=True, errors=err).error(InputError("bad", where="f:1", remedy="do this"))
    assert json.loads(out.getvalue()) == {"error": {"problem": "bad", "where": "f:1", "remedy": "do this"}}
    assert err.getvalue() == "error: f:1: bad\n  do this\n"


# --- failures and streams that go away


def test_a_failure_is_told_once() -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(out, errors=err)
    console.emit(events.Failed(problem="NaN in step 4", where="data:7", remedy="look"))
    console.error(WorkFailed("NaN in step 4", where="data:7", remedy="look"))
    assert err.getvalue() == "error: data:7: NaN in step 4\n  look\n" and out.getvalue() == ""


def test_several_mistakes_are_a_list() -> None:
    err = io.StringIO()
    Console(io.StringIO(), errors=err).error(InputError("p.toml:1:1: a\np.toml:2:1: b"))
    assert err.getvalue() == "error:\n  p.toml:1:1: a\n  p.toml:2:1: b\n"


def test_a_reader_that_is_gone_changes_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        console = Console(stream)
        for number in range(1, 301):
            console.emit(step(number))
        console.say("on we go")
        console.emit(events.Finished(reason="done"))


def test_no_stdout_at_all() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        console = Console(stream)
        console.emit(stage(1, 1))
        console.say("nobody hears")
        assert not console.tty


def test_a_stream_without_unicode_still_gets_the_text() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(stream).say("⟦é⟧")
    assert raw.getvalue() == b"\\u27e6\\xe9\\u27e7\n"
