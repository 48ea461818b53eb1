"""A session that trains and measures on its one base: the bits of the verbs, prompts meanwhile, adapters afterwards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import events, protocol
from engine.client import Client
from engine.console import Console
from engine.protocol import Answered, Asked, Begun, Done, Evaluate, Evaluated, Generate, Message, Refused, Status, Train
from engine.store import Run, Workspace
from engine.verbs import session as verb
from tests.engine.commandline import Call, document, pairs, subprocess_of, write_project, write_rows

ASK = Message("user", "What is 2 + 2?")
PROJECT = """
[model]
base = "{base}"
quantization = "{quantization}"
dtype = "float32"
[data]
train = "data/demo.jsonl"
test_fraction = 0.2
[lora]
r = 4
dropout = 0.1
[train]
steps = {steps}
examples_per_step = 4
micro_batch_tokens = 60
save_every = 0
sample_every = 2
evaluate_every = 2
learning_rate = 0.01
[eval]
match_rows = 4
[generate]
max_new_tokens = 4
"""


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of tests have long paths, and a socket's may have 107 bytes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="lw"))


@pytest.fixture
def workspace(call: Call, base_of: Any) -> Path:
    write_rows(Path("data/demo.jsonl"), pairs(20))
    project(base_of(), 6)
    return Path.cwd()


def project(base: Path, steps: int, quantization: str = "none") -> None:
    write_project("demo", PROJECT.format(base=base, steps=steps, quantization=quantization))


def run_of(number: int) -> Run:
    return Run(Path("projects/demo/runs") / f"{number:04d}")


@contextlib.contextmanager
def session(*adapters: str) -> Iterator[Client]:
    """`loraworkbench session demo` in a thread, and a client of it; ended by SHUTDOWN, which has to succeed."""
    jobs, failed = Path("projects/demo/jobs"), []
    before = set(jobs.glob("*")) if jobs.exists() else set()

    def serve() -> None:
        try:
            verb.run(
                Workspace(Path.cwd()), "demo", [], list(adapters), 0.0, Console(io.StringIO(), errors=io.StringIO())
            )
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    client = connected(lambda: next(iter(set(jobs.glob("*")) - before), None), thread.is_alive)
    try:
        yield client
        (said,) = client.ask(protocol.Shutdown(client.next_id()))
        assert isinstance(said, Done), said
    finally:
        with contextlib.suppress(Exception):
            client.ask(protocol.Stop(client.next_id()))
            settled(client)
            client.ask(protocol.Shutdown(client.next_id()))
        client.close()
        thread.join(60)
    assert not failed


def connected(folder: Any, alive: Any, patience: float = 90.0) -> Client:
    end = time.monotonic() + patience
    while time.monotonic() < end and alive():
        with contextlib.suppress(Exception):
            return Client(folder(), timeout=90)
        time.sleep(0.05)
    raise AssertionError("no session came up")


def settled(client: Client) -> protocol.StatusOf:
    """The status once nothing is trained any more."""
    while True:
        (status,) = client.ask(Status(client.next_id()))
        assert isinstance(status, protocol.StatusOf), status
        if status.run is None:
            return status
        time.sleep(0.05)


def begin(client: Client, **how: Any) -> Begun:
    (said,) = client.ask(Train(client.next_id(), **how))
    assert isinstance(said, Begun), said
    return said


def answer(client: Client, *models: str | None, **how: Any) -> list[Answered]:
    said = client.ask(Generate(client.next_id(), [Asked(m, [ASK]) for m in models], **{"max_new_tokens": 4, **how}))
    assert isinstance(said[-1], Done), said[-1]
    return [r for r in said if isinstance(r, Answered)]


def told(run: Run) -> list[tuple[Any, ...]]:
    """Losses, measurements and samples of a run, from its log."""
    found: list[tuple[Any, ...]] = []
    for event in events.read(run.events)[0]:
        if isinstance(event, events.Step):
            found.append((event.step, event.loss, event.gradient_norm))
        elif isinstance(event, events.Scored):
            found.append((event.nll, event.tokens))
        elif isinstance(event, events.Sample):
            found.append((event.step, event.prompt, event.text))
    return found


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_training_in_a_session_has_the_bits_of_the_verb(
    call: Call, workspace: Path, base_of: Any, quantization: str
) -> None:
    """With stored adapters on the base, prompts meanwhile, and a training before it; then its adapter is there."""
    project(base_of(), 6, quantization)
    assert call("train", "demo")[0] == 0
    with session("1") as client:
        before = answer(client, None, "demo-0001")
        for number in (2, 3):
            begun = begin(client)
            assert (begun.run, begun.label) == (f"demo-{number:04d}", f"demo/{number:04d}")
            assert Path(begun.path) == run_of(number).path.resolve()
            (second,) = client.ask(Train(client.next_id()))
            assert isinstance(second, Refused) and "trains demo-" in second.problem
            asked = 0
            while run_of(number).state().state != "done":
                (status,) = client.ask(Status(client.next_id()))
                if isinstance(status, protocol.StatusOf) and status.step is not None:
                    said = answer(client, None, "demo-0001", begun.run, temperature=0.8, seed=asked)
                    assert [a.model for a in said] == [None, "demo-0001", begun.run]
                    asked += 1
            status = settled(client)
            assert begun.run in [a.name for a in status.adapters] and asked > 0
        again = answer(client, None, "demo-0001", "demo-0002", "demo-0003")
        assert [a.text for a in again[:2]] == [a.text for a in before]
        assert again[2].changed and again[2].sha256 and again[2].sha256 == again[3].sha256 == again[1].sha256
        names = [a.name for a in settled(client).adapters]
        assert names == ["demo-0001", "demo-0002", "demo-0003"]
    for number in (2, 3):
        assert told(run_of(number)) == told(run_of(1)) != []
        assert weights(run_of(number).adapter) == weights(run_of(1).adapter)
        assert run_of(number).state().state == "done"


def test_a_training_is_found_by_its_run_stopped_and_gone_on_with(call: Call, workspace: Path, base_of: Any) -> None:
    """A client of the run's folder stops it; the session answers from the stopped weights, and resumes to the same bits."""
    project(base_of(), 30)
    assert call("train", "demo")[0] == 0
    with session() as client:
        begun = begin(client)
        beside = connected(lambda: run_of(2).path, lambda: True)
        while not any(isinstance(e, events.Step) for e in events.read(run_of(2).events)[0]):
            time.sleep(0.01)
        assert isinstance(beside.ask(protocol.Stop(beside.next_id()))[0], Done)
        assert [a.name for a in settled(client).adapters] == [begun.run]
        assert run_of(2).state().state == "stopped" and 0 < (run_of(2).state().step or 0) < 30
        assert not run_of(2).adapter.exists() and answer(client, begun.run)[0].changed
        assert isinstance(client.ask(protocol.Stop(client.next_id()))[0], Refused)
        (other,) = client.ask(Train(client.next_id(), resume=1))
        assert isinstance(other, Refused) and "nothing to resume" in other.problem
        client.ask(protocol.Unload(client.next_id(), begun.run))
        assert begin(client, resume=2).run == begun.run
        settled(client)
        assert answer(client, begun.run)[0].sha256
    losses = [t for t in told(run_of(2)) if len(t) == 3 and isinstance(t[1], float)]
    assert losses == [t for t in told(run_of(1)) if len(t) == 3 and isinstance(t[1], float)]
    assert weights(run_of(2).adapter) == weights(run_of(1).adapter)


def test_an_evaluation_in_a_session_says_what_the_verb_says(call: Call, workspace: Path) -> None:
    assert call("train", "demo")[0] == 0
    assert call("eval", "demo")[0] == 0
    wanted = json.loads((run_of(1).path / "evaluation.json").read_text())
    with session("1") as client:
        for models, words in (([], "no model"), (["nobody"], "no adapter"), ([None, None], "measured twice")):
            said = client.ask(Evaluate(client.next_id(), models))
            assert isinstance(said[-1], Refused) and words in said[-1].problem
        assert isinstance(client.ask(Evaluate(client.next_id(), [None], ["nope"]))[-1], Refused)
        said = client.ask(Evaluate(client.next_id(), [None, "demo-0001"]))
        assert isinstance(said[-1], Evaluated), said[-1]
        assert sum(isinstance(r, protocol.Measured) for r in said) == len(wanted["rows"])
        assert any(isinstance(r, protocol.Progress) and r.done == r.total for r in said)
        assert said[-1].rows == wanted["rows"]
        found = json.loads(Path(said[-1].path).read_text())
        assert found["items"] == wanted["items"] and found["adapters"] == wanted["adapters"]
        assert settled(client).evaluating is None


def test_prompts_are_answered_while_it_measures_and_it_can_be_cancelled(
    call: Call, workspace: Path, base_of: Any
) -> None:
    project(base_of(), 2)
    write_rows(Path("data/demo.jsonl"), pairs(300))  # it is not to be done before it is cancelled, on a crowded machine
    assert call("train", "demo")[0] == 0
    text = Path("projects/demo/project.toml").read_text().replace("max_new_tokens = 4", "max_new_tokens = 60")
    Path("projects/demo/project.toml").write_text(text)
    with session("1") as client:
        request = Evaluate(client.next_id(), [None, "demo-0001"])
        client.send(request)
        other = connected(lambda: sorted(Path("projects/demo/jobs").glob("*"))[-1], lambda: True)
        first = next(r for r in client.replies() if isinstance(r, protocol.Progress))
        assert first.id == request.id
        (status,) = other.ask(Status(other.next_id()))
        assert isinstance(status, protocol.StatusOf) and status.evaluating == [None, "demo-0001"]
        said = answer(other, None, "demo-0001")
        assert said[0].changed is False and said[1].changed is True
        for refused in (protocol.Unload(other.next_id(), "demo-0001"), Train(other.next_id()), Evaluate(99, [None])):
            (no,) = other.ask(refused)
            assert isinstance(no, Refused) and "measuring" in no.problem
        client.send(protocol.Cancel(client.next_id(), request.id))
        last = next(r for r in client.replies() if r.id == request.id and isinstance(r, Done | Evaluated | Refused))
        assert isinstance(last, Done) and last.cancelled and not (run_of(1).path / "evaluation.json").exists()
        assert isinstance(other.ask(protocol.Unload(other.next_id(), "demo-0001"))[0], Done)


def test_what_a_session_cannot_train_is_refused_and_changes_nothing(call: Call, workspace: Path, base_of: Any) -> None:
    with session() as client:
        base = [a.text for a in answer(client, None)]
        for how, words in (
            ({"overrides": ['model.quantization="nf4"']}, "not as it was"),
            ({"overrides": ['lora.init="pissa"']}, "keeps its base"),
            ({"overrides": ["launch.processes=2"]}, "asks for 2 processes, and a session is one"),
            ({"overrides": ["train.steps=-1"]}, "train.steps"),
            ({"resume": 7}, "no run 7"),
        ):
            (said,) = client.ask(Train(client.next_id(), **how))
            assert isinstance(said, Refused) and words in f"{said.problem} {said.remedy}", said
        assert not Path("projects/demo/runs").exists() and settled(client).adapters == []
        Path("data/demo.jsonl").write_text("")
        begin(client)
        assert settled(client).adapters == []
        state = run_of(1).state()
        assert state.state == "failed" and state.problem
        write_rows(Path("data/demo.jsonl"), pairs(20))
        begin(client, overrides=["lora.dora=true", "train.activation_checkpointing=true"])
        status = settled(client)
        assert [a.name for a in status.adapters] == ["demo-0002"] and "DoRA" in str(status.adapters[0].alone)
        assert [a.text for a in answer(client, None)] == base


def test_the_process_of_one_training_takes_no_other(call: Call, workspace: Path, base_of: Any) -> None:
    project(base_of(), 400)
    process = subprocess_of("train", "demo", cwd=workspace)
    try:
        client = connected(lambda: run_of(1).path, lambda: process.poll() is None)
        for request in (Train(1), Evaluate(2, [None])):
            (said,) = client.ask(request)
            assert isinstance(said, Refused) and "trains one run" in said.problem
        assert isinstance(client.ask(protocol.Stop(3))[0], Done)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_session_that_is_killed_in_a_training_loses_nothing(call: Call, workspace: Path, base_of: Any) -> None:
    """SIGKILL in the middle, `train --resume` by the command line: the adapter of the run that nobody killed."""
    project(base_of(), 60)
    toml = Path("projects/demo/project.toml")
    toml.write_text(toml.read_text().replace("save_every = 0", "save_every = 5"))
    assert call("train", "demo")[0] == 0
    process = subprocess_of("session", "demo", cwd=workspace)
    try:
        client = connected(
            lambda: next(iter(Path("projects/demo/jobs").glob("*")), None), lambda: process.poll() is None
        )
        begin(client)
        while not (run_of(2).checkpoints / "step-000010").is_dir():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert run_of(2).state().state == "killed" and not run_of(2).adapter.exists()
    assert call("train", "demo", "--resume", "2")[0] == 0
    assert weights(run_of(2).adapter) == weights(run_of(1).adapter)


def test_sigterm_stops_the_training_first_and_the_session_next(call: Call, workspace: Path, base_of: Any) -> None:
    project(base_of(), 4000)
    process = subprocess_of("session", "demo", "--json", cwd=workspace)
    try:
        client = connected(
            lambda: next(iter(Path("projects/demo/jobs").glob("*")), None), lambda: process.poll() is None
        )
        begin(client)
        while not any(isinstance(e, events.Step) for e in events.read(run_of(1).events)[0]):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert [a.name for a in settled(client).adapters] == ["demo-0001"]
        assert run_of(1).state().state == "stopped"
        process.send_signal(signal.SIGTERM)
        assert document((process.wait(60), *process.communicate()))["reason"] == "stopped"
    finally:
        process.kill()
        process.communicate()


def test_watched_prompts_are_answered_at_every_evaluation_and_change_no_bit(
    call: Call, workspace: Path, base_of: Any
) -> None:
    """The history that a view steps through; without prompts in the project file nothing is answered unasked."""
    toml = Path("projects/demo/project.toml")
    text = toml.read_text().replace("sample_every = 2\n", "")
    toml.write_text(text)
    assert call("train", "demo")[0] == 0
    toml.write_text(text.replace("[generate]", '[generate]\nprompts = ["What is 3 + 3?", "Anna \\u001b[2J"]'))
    assert call("train", "demo", "--set", "train.evaluate_every=4")[0] == 0
    kept = [e for e in events.read(run_of(2).events)[0] if isinstance(e, events.Sample)]
    asked = ["What is 3 + 3?", "Anna \x1b[2J"]
    assert [(e.step, e.prompt) for e in kept] == [(step, p) for step in (4, 6) for p in asked]
    assert all(e.text for e in kept)
    stored = [json.loads(line) for line in (run_of(2).path / "samples.jsonl").read_text().splitlines()]
    assert [(s["step"], s["prompt"], s["text"]) for s in stored] == [(e.step, e.prompt, e.text) for e in kept]
    assert not any(isinstance(e, events.Sample) for e in events.read(run_of(1).events)[0])
    assert weights(run_of(2).adapter) == weights(run_of(1).adapter)
