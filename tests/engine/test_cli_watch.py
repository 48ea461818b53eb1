"""`watch`: it ends as the run did, shows the log as it stands, and leaves the run alone."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from engine import events
from engine.verbs import watch
from tests.engine.commandline import Call, finished, log_of, subprocess_of, write_project


@pytest.mark.usefixtures("five_runs")
def test_watch_ends_as_the_run_did(call: Call) -> None:
    code, out, err = call("watch", "p/1")
    assert code == 0 and err == "" and "step 2/9" in out and "done after 3.0 s" in out
    assert call("watch", "p/2")[0] == 130
    code, out, err = call("watch", "p/3")
    assert code == 1 and err == "error: data:7: NaN in step 3\\x1b[2J\n  look\n"
    code, out, err = call("watch", "p/4")
    assert code == 1 and "killed" in err and "train p --resume 4" in err


def test_watch_json_is_the_log_as_it_stands(call: Call, five_runs: Path) -> None:
    log = five_runs / "0001" / "events.jsonl"
    odd = b'{"kind":"later","new":1}\n'
    log.write_bytes(odd + log.read_bytes())
    code, out, _ = call("watch", "p/1", "--json")
    assert code == 0 and out.encode() == log.read_bytes()
    kinds = [json.loads(line)["kind"] for line in call("watch", "p/4", "--json")[1].splitlines()]
    assert kinds == ["started", "step", "step", "failed"], "a killed run gets an end"


def test_watch_goes_past_a_torn_line_and_an_earlier_end(call: Call, five_runs: Path) -> None:
    run = five_runs / "0002"
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"step","st')
    log_of(run, finished("done"))
    code, out, _ = call("watch", "p/2", "--json")
    kinds = [json.loads(line)["kind"] for line in out.splitlines()]
    assert code == 0 and kinds == ["started", "step", "step", "finished"] * 2


def test_watch_follows_a_run_that_has_not_begun(call: Call) -> None:
    write_project("p", "")
    run = Path("projects/p/runs/0001")
    run.mkdir(parents=True)

    def work() -> None:
        time.sleep(0.3)
        log_of(run)
        time.sleep(0.3)
        log = events.EventLog(run / "events.jsonl")
        log(events.Note(text="later"))
        log(finished("done"))
        log.close()

    worker = threading.Thread(target=work)
    worker.start()
    code, out, _ = call("watch", "p")
    worker.join()
    assert code == 0 and out.index("step 2/9") < out.index("later") < out.index("done after")


def test_a_run_that_never_began_was_killed(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    write_project("p", "")
    Path("projects/p/runs/0001").mkdir(parents=True)
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", -1.0)
    assert call("watch", "p")[0] == 1


def test_ctrl_c_leaves_the_run_alone(call: Call) -> None:
    write_project("p", "")
    log_of(Path("projects/p/runs/0001"))  # its process, this one, lives on

    def listen() -> None:  # a shell starts what runs in the background with SIGINT ignored, and so are its children
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess_of("watch", "p", bufsize=1, preexec_fn=listen)
    try:
        assert process.stdout is not None
        seen = ""
        while "step 1/9" not in seen:
            seen = process.stdout.readline()
            assert seen
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
        assert (process.returncode, "no longer watching" in out, err) == (0, True, "")
    finally:
        process.kill()
