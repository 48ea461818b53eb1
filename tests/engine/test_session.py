"""A live session: columns that stream, adapters that come and go, clients that are slow, mad or gone; a training that
does not notice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import protocol
from engine.addresses import socket_of
from engine.client import Client
from engine.errors import WorkFailed
from engine.generation.answering import complete, settings_from
from engine.models.loaded import Loaded
from engine.protocol import Answered, Asked, Done, Generate, Message, Refused, Scores, Status, StatusOf, Text
from engine.session.hosting import hosted, serve_alone
from engine.session.owner import Owner
from engine.tokens.prompts import template_for
from tests.engine.test_together import adapter
from tests.engine.tiny import save_tiny, tiny_loaded
from tests.engine.training import examples_of, project_of, training_of, weights_of

ASK = Message("user", "What is 2 + 3?")


@contextlib.contextmanager
def running(folder: Path, loaded: Loaded, **more: Any) -> Iterator[Owner]:
    """A session that a thread serves."""
    folder.mkdir(exist_ok=True)
    project = project_of()
    over = threading.Event()
    with hosted(folder, loaded, project, template_for(project.data, loaded.tokenizer), "demo", **more) as owner:
        thread = threading.Thread(target=serve_alone, args=(owner, over.is_set, 0.0))
        thread.start()
        try:
            yield owner
        finally:
            over.set()
            thread.join()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "a": adapter(folder / "a", "llama", 1), "b": adapter(folder / "b", "llama", 2),
        "dora": adapter(folder / "dora", "llama", 3, use_dora=True),
    }  # fmt: skip


@pytest.fixture
def session(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Owner, Path]]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short(tmp_path)))
    with running(tmp_path / "job", tiny_loaded(base)) as owner:
        yield owner, tmp_path / "job"


def short(tmp_path: Path) -> Path:
    """A folder whose path leaves room for a socket's name (108 bytes on Linux)."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="lw"))


def load(client: Client, stored: dict[str, Path], *names: str) -> None:
    for name in names:
        (said,) = client.ask(protocol.Load(client.next_id(), name, str(stored[name])))
        assert isinstance(said, Done), said


def alone(owner: Owner, model: str | None, how: dict[str, Any]) -> str:
    prompt = owner.encoder.prompt(owner.segments(Asked(messages=[ASK])))
    table = owner.project.generate.model_copy(update=how)
    with owner.loaded.using(model):
        return complete(owner.loaded, [prompt], settings_from(table, owner.loaded, owner.template.stop))[0].text


def test_columns_stream_and_each_says_what_its_model_says_alone(session, stored: dict[str, Path]) -> None:
    owner, folder = session
    client = Client(folder, timeout=60)
    load(client, stored, "a", "b", "dora")
    names = [None, "a", "b", "dora"]
    said = client.ask(Generate(client.next_id(), [Asked(n, [ASK]) for n in names], max_new_tokens=12))
    answers = {r.column: r for r in said if isinstance(r, Answered)}
    assert isinstance(said[-1], Done) and not said[-1].cancelled and list(answers) == [0, 1, 2, 3]
    for column, name in enumerate(names):
        answer = answers[column]
        assert answer.text == alone(owner, name, {"max_new_tokens": 12}), name
        pieces = [r for r in said if isinstance(r, Text) and r.column == column]
        assert answer.text.startswith("".join(p.text for p in pieces)) and answer.tokens == sum(
            len(p.tokens) for p in pieces
        )
        assert answer.changed == (name is not None) and (answer.kl > 0) == (name is not None)
        assert answer.sha256 == (owner.shelf.stored[name].sha256 if name else "")
    (status,) = client.ask(Status(client.next_id()))
    assert isinstance(status, StatusOf) and [a.name for a in status.adapters] == ["a", "b", "dora"]
    assert "DoRA" in str(status.adapters[2].alone) and status.adapters[0].alone is None


def test_history_is_rendered_by_the_template_and_an_answer_is_continued(session) -> None:
    owner, folder = session
    client = Client(folder, timeout=60)
    turns = [ASK, Message("assistant", "5"), Message("user", "And 4?")]
    said = client.ask(Generate(client.next_id(), [Asked(None, turns)], max_new_tokens=3))
    whole = client.ask(Generate(client.next_id(), [Asked(None, [ASK])], max_new_tokens=8))
    text = next(r.text for r in whole if isinstance(r, Answered))
    assert isinstance(said[-1], Done) and len(text) > 0
    prompt = owner.encoder.prompt(owner.segments(Asked(messages=turns)))
    shown = owner.loaded.tokenizer.decode(prompt)
    assert "What is 2 + 3?" in shown and shown.index("And 4?") > shown.index("5") and shown.endswith("assistant\n")
    raw = client.ask(Generate(client.next_id(), [Asked(None, text="The train")], max_new_tokens=3))
    assert isinstance(raw[-1], Done)


def test_a_reference_answer_is_scored_token_by_token(session, stored: dict[str, Path]) -> None:
    owner, folder = session
    client = Client(folder, timeout=60)
    load(client, stored, "a", "dora")
    (found,) = client.ask(protocol.Score(client.next_id(), [None, "a", "dora"], Asked(messages=[ASK]), "5 #### 5"))
    assert isinstance(found, Scores) and "".join(found.tokens) == "5 #### 5"
    prompt = owner.encoder.prompt(owner.segments(Asked(messages=[ASK])))
    ids, _ = owner.encoder.encode([*owner.segments(Asked(messages=[ASK])), *_raw("5 #### 5")])
    assert ids[: len(prompt)] == prompt
    for name, row in zip((None, "a", "dora"), found.logprobs, strict=True):
        with owner.loaded.using(name), torch.no_grad():
            logits = owner.loaded.causal(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        wanted = logits.log_softmax(-1)[range(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
        assert row == pytest.approx(wanted.tolist(), abs=2e-4), name


def _raw(text: str):
    from engine.tokens.examples import Segment

    return [Segment(text, 1.0, raw=True)]


def test_refusals_say_why_and_change_nothing(session, stored: dict[str, Path], tmp_path: Path) -> None:
    _, folder = session
    client = Client(folder, timeout=60)
    for request, words in [
        (Generate(client.next_id(), []), "nobody is asked"),
        (Generate(client.next_id(), [Asked("nope", [ASK])]), "no adapter 'nope'"),
        (Generate(client.next_id(), [Asked(None, [])]), "ends with a message of the user's"),
        (Generate(client.next_id(), [Asked(None, [ASK])], temperature=-1.0), "temperature"),
        (Generate(client.next_id(), [Asked(None, text="x " * 4000)]), "takes 256"),
        (protocol.Load(client.next_id(), "x", str(tmp_path)), "adapter_config.json"),
        (protocol.Unload(client.next_id(), "x"), "no stored adapter"),
        (protocol.Stop(client.next_id()), "nothing is trained"),
        (protocol.Cancel(client.next_id(), 999), "no request 999"),
    ]:
        (said,) = client.ask(request)
        assert isinstance(said, Refused) and words in f"{said.problem} {said.where}", said
    (status,) = client.ask(Status(client.next_id()))
    assert isinstance(status, StatusOf) and status.adapters == []


def test_adapters_come_and_go_and_the_base_stays_the_base(session, stored: dict[str, Path]) -> None:
    owner, folder = session
    client = Client(folder, timeout=60)
    how = Generate(client.next_id(), [Asked(None, [ASK])], max_new_tokens=10)
    before = [r.text for r in client.ask(how) if isinstance(r, Answered)]
    for _ in range(2):
        load(client, stored, "a", "dora", "b")
        for name in ("a", "b", "dora"):
            assert isinstance(client.ask(protocol.Unload(client.next_id(), name))[0], Done)
    assert owner.loaded.peft is None and not any("lora" in n for n, _ in owner.loaded.causal.named_modules())
    assert [r.text for r in client.ask(how) if isinstance(r, Answered)] == before


def test_a_cancelled_generation_ends_soon_with_what_there_is(session) -> None:
    _, folder = session
    client = Client(folder, timeout=60)
    asked = Generate(client.next_id(), [Asked(None, [ASK])], max_new_tokens=200, stop=[])
    client.send(asked)
    said = []
    for reply in client.replies():
        said.append(reply)
        if isinstance(reply, Text) and len(said) == 3:
            client.send(protocol.Cancel(client.next_id(), asked.id))
        if isinstance(reply, Done) and reply.id == asked.id:
            break
    assert said[-1].cancelled and any(isinstance(r, Answered) and 3 <= r.tokens < 200 for r in said)


def test_two_clients_are_answered_in_turn(session) -> None:
    _, folder = session
    clients = [Client(folder, timeout=60) for _ in range(2)]
    order: list[int] = []

    def ask(number: int) -> None:
        client = clients[number]
        client.send(Generate(client.next_id(), [Asked(None, [ASK])], max_new_tokens=60, stop=[]))
        for reply in client.replies():
            order.append(number)
            if isinstance(reply, Done):
                return

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert set(order) == {0, 1} and changes > 1


def test_a_client_that_does_not_read_slows_nobody(session) -> None:
    _, folder = session
    deaf = Client(folder, timeout=60)
    for _ in range(5):
        deaf.send(Generate(deaf.next_id(), [Asked(None, [ASK])] * 2, max_new_tokens=150, stop=[]))
    client = Client(folder, timeout=60)
    said = client.ask(Generate(client.next_id(), [Asked(None, [ASK])], max_new_tokens=5, stop=[]))
    assert isinstance(said[-1], Done)
    (status,) = client.ask(Status(client.next_id()))
    assert isinstance(status, StatusOf)
    finished = sum(isinstance(r, Done) for r in _until(deaf, 5))
    assert finished == 5  # it reads late, and nothing of the ends is lost


def _until(client: Client, dones: int) -> list[protocol.AnyReply]:
    found: list[protocol.AnyReply] = []
    for reply in client.replies():
        found.append(reply)
        if sum(isinstance(r, Done) for r in found) == dones:
            break
    return found


def test_a_client_that_is_gone_takes_its_generations_with_it(session) -> None:
    _, folder = session
    client = Client(folder, timeout=60)
    client.send(Generate(client.next_id(), [Asked(None, [ASK])] * 3, max_new_tokens=240, stop=[]))
    next(client.replies())
    client.close()
    other, begun = Client(folder, timeout=60), time.monotonic()
    assert isinstance(other.ask(Status(other.next_id()))[0], StatusOf)
    assert time.monotonic() - begun < 20


def test_folder_and_socket_are_for_this_user_alone(session) -> None:
    _, folder = session
    path = socket_of(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.parent.chmod(0o755)
    with pytest.raises(WorkFailed, match="not yours alone"):
        socket_of(folder)
    path.parent.chmod(0o700)


def test_another_user_is_refused(session, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.session import server

    _, folder = session
    monkeypatch.setattr(server, "_user_of", lambda connection: os.getuid() + 1)
    client = Client(folder, timeout=10)
    with pytest.raises(WorkFailed):
        client.ask(Status(client.next_id()))


def test_nobody_listens_where_no_session_is(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="no session answers here"):
        Client(tmp_path)


LINES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(st.sampled_from(["op", "id", "columns", "name", "x"]), x, max_size=4),
        max_leaves=8,
    ).map(lambda value: repr_json(value)),
    st.builds(
        lambda op, id: repr_json({"op": op, "id": id}),
        st.sampled_from(["generate", "load", "cancel", "score", "nope", "stop", "unload", ""]), st.integers(-5, 5),
    ),
)  # fmt: skip


def repr_json(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, min_size=1, max_size=5))
def test_whatever_is_sent_the_session_goes_on(session, lines: list[bytes]) -> None:
    _, folder = session
    with contextlib.closing(Client(folder, timeout=30)) as client:
        client._socket.sendall(b"\n".join(lines) + b"\n")
        client.send(Status(10_000))
        kinds = []
        for reply in client.replies():
            kinds.append(reply)
            if isinstance(reply, StatusOf):
                break
        assert isinstance(kinds[-1], StatusOf) and all(isinstance(r, Refused | Done | StatusOf) for r in kinds)


def test_a_request_that_is_too_long_is_refused_once_and_skipped(session) -> None:
    _, folder = session
    client = Client(folder, timeout=60)
    client._socket.sendall(b'{"op":"status","id":3,"x":"' + b"y" * (3 * protocol.LONGEST_LINE) + b'"}\n')
    client.send(Status(4))
    said = []
    for reply in client.replies():
        said.append(reply)
        if isinstance(reply, StatusOf):
            break
    assert [type(r) for r in said] == [Refused, StatusOf] and "longer than" in said[0].problem


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_training_that_is_prompted_gives_the_bits_of_one_that_is_not(
    tmp_path: Path, base: Path, stored: dict[str, Path], quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, an adapter loaded and unloaded, scores, and two clients: losses and weights stay the same bits."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short(tmp_path)))
    project = project_of(steps=6, examples_per_step=4, micro_batch_tokens=60, save_every=0, lora_dropout=0.1)
    plain_said: list[Any] = []
    plain = training_of(
        tiny_loaded(base, quantization=quantization), project, examples_of(24), tmp_path / "p", plain_said.append
    )
    plain.run()

    loaded, said = tiny_loaded(base, quantization=quantization), []
    training = training_of(loaded, project, examples_of(24), tmp_path / "q", said.append)
    (tmp_path / "run").mkdir()
    template, answers, errors = template_for(project.data, loaded.tokenizer), [], []

    def ask() -> None:
        try:
            client = Client(tmp_path / "run", timeout=120)
            load(client, stored, "a")
            for number in range(4):
                columns = [Asked(m, [ASK]) for m in (None, "now", "a")]
                how = Generate(client.next_id(), columns, max_new_tokens=6, temperature=0.7, seed=number)
                answers.extend(r for r in client.ask(how) if isinstance(r, Answered))
                client.ask(protocol.Score(client.next_id(), [None, "now"], Asked(messages=[ASK]), "5"))
            client.ask(protocol.Unload(client.next_id(), "a"))
        except Exception as error:
            errors.append(error)

    with hosted(tmp_path / "run", loaded, project, template, "demo", training, "now") as owner:
        thread = threading.Thread(target=ask)
        thread.start()
        owner.wait(30)

        def between() -> None:
            owner.wait(0.2)
            owner.serve()

        training.run(between)
        while thread.is_alive():
            between()
        thread.join()
    assert not errors and len(answers) == 12
    losses = lambda events_: [e.loss for e in events_ if type(e).__name__ == "Step"]  # noqa: E731
    assert losses(said) == losses(plain_said)
    mine, theirs = weights_of(training), weights_of(plain)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)
    assert {a.step for a in answers if a.model == "now"} <= set(range(7)) and {
        a.step for a in answers if a.model != "now"
    } == {None}
    assert not any(a.changed for a in answers if a.model is None)


def test_an_idle_session_ends(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short(tmp_path)))
    project, loaded = project_of(), tiny_loaded(base)
    with hosted(tmp_path, loaded, project, template_for(project.data, loaded.tokenizer), "demo") as owner:
        assert serve_alone(owner, lambda: False, 0.2) == "idle"
    assert not socket_of(tmp_path).exists()
    with pytest.raises(WorkFailed):
        Client(tmp_path)
