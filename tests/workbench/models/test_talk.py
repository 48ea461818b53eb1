"""Questions to a session: adapters are loaded first, replies are folded in, refusals and ends are said in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import protocol
from engine.protocol import Answered, Done, Generate, Load, Loaded, Refused, Request, Scores, Status, StatusOf, Text
from workbench.models.compare import BASE_CHOICE, Answer, Choice, Comparison, Turn
from workbench.models.talk import Talk

A = Choice("demo-0001", "demo/0001", Path("/a"))
B = Choice("demo-0002", "demo/0002", Path("/b"))
LIVE = Choice("demo-0003", "demo/0003", training=True)


def status(*names: str, run: str | None = None, sha256: str = "aa") -> StatusOf:
    adapters = [Loaded(n, sha256, training=n == run) for n in names]
    return StatusOf(0, 1, 1, "demo", "tiny", "none", adapters, run=run, step=5 if run else None)


class Wire:
    """A talk about columns, and what it has sent."""

    def __init__(self, *columns: Choice, status: StatusOf | None = None) -> None:
        self.comparison = Comparison(columns=list(columns))
        self.talk = Talk(self.comparison)
        self.sent: list[Request] = []
        if status is not None:
            self.talk.connect(self.sent.append, status)

    def ask(self, prompt: str = "2 + 3?", **more: Any) -> Turn:
        turn = Turn(prompt)
        self.comparison.turns.append(turn)
        self.talk.ask(turn, self.comparison.shown, **more)
        return turn

    def last(self, kind: type) -> Any:
        return next(r for r in reversed(self.sent) if isinstance(r, kind))

    def kinds(self) -> list[str]:
        return [type(r).__name__ for r in self.sent]


def answered(id: int, column: int, model: str | None, text: str, **more: Any) -> Answered:
    return Answered(id, column, model, text, 2, "aa" if model else "", 1.0, 0.5, model is not None, True, **more)


def test_base_and_a_loaded_adapter_are_asked_at_once_in_one_request() -> None:
    wire = Wire(BASE_CHOICE, A, status=status(A.name))
    turn = wire.ask(seed=3)
    assert wire.kinds() == ["Generate"]
    request = wire.last(Generate)
    assert [c.model for c in request.columns] == [None, A.name] and request.seed == 3 and request.temperature is None
    wire.talk.take([Text(request.id, 0, "fi", [("fi", -0.1)]), Text(request.id, 1, "5", [("5", -0.2)])])
    assert turn.answers["base"].text == "fi" and turn.answers[A.name].tokens == [("5", -0.2)] and wire.talk.busy
    wire.talk.take([answered(request.id, 0, None, "five"), answered(request.id, 1, A.name, "5"), Done(request.id)])
    assert [a.state for a in turn.answers.values()] == ["done", "done"] and not wire.talk.busy
    assert turn.answers["base"].text == "five"


def test_what_is_not_loaded_is_loaded_first_and_once() -> None:
    wire = Wire(BASE_CHOICE, A, status=status())
    wire.talk.load(A)
    turn = wire.ask()
    assert wire.kinds() == ["Load"] and turn.answers[A.name].state == "loading" and wire.talk.loading(A)
    assert wire.last(Load).path == "/a" and turn.answers["base"].state == "waiting"
    wire.talk.take([Done(wire.last(Load).id)])
    assert wire.kinds() == ["Load", "Status", "Generate"] and wire.talk.ready(A)


def test_a_prompt_waits_for_the_session_and_is_not_lost() -> None:
    wire = Wire(BASE_CHOICE, A)
    turn = wire.ask("typed early")
    assert wire.sent == [] and wire.talk.busy
    wire.talk.connect(wire.sent.append, status(A.name))
    assert wire.last(Generate).columns[0].messages[-1].content == turn.prompt


def test_no_session_comes() -> None:
    wire = Wire(BASE_CHOICE, A)
    turn = wire.ask()
    wire.talk.give_up("there is no memory")
    assert {a.problem for a in turn.answers.values()} == {"there is no memory"} and not wire.talk.busy


def test_other_weights_under_the_same_name_are_loaded_anew() -> None:
    wire = Wire(BASE_CHOICE, A, status=status(A.name, sha256="old"))
    wire.talk.digests = {"/a": "new"}
    wire.ask()
    assert wire.kinds() == ["Unload", "Load"]
    wire.talk.take([Done(wire.last(protocol.Unload).id), Done(wire.last(Load).id)])
    wire.talk.take([status(A.name, sha256="new")])
    assert wire.kinds().count("Generate") == 1 and wire.kinds().count("Load") == 1


def test_an_adapter_that_cannot_be_loaded_says_why_and_the_others_answer() -> None:
    wire = Wire(BASE_CHOICE, A, status=status())
    turn = wire.ask()
    wire.talk.take([Refused(wire.last(Load).id, "it does not fit the base", "/a", "train another one")])
    assert turn.answers[A.name].state == "failed"
    assert turn.answers[A.name].problem == "/a: it does not fit the base (train another one)"
    assert [c.model for c in wire.last(Generate).columns] == [None]


def test_an_adapter_that_had_to_make_room_is_loaded_again_once() -> None:
    wire = Wire(BASE_CHOICE, A, status=status(A.name))
    turn = wire.ask()
    refused = Refused(wire.last(Generate).id, "no adapter 'demo-0001' in this session (there are: none)")
    wire.talk.take([refused])
    wire.talk.take([StatusOf(wire.last(Status).id, 1, 1, "demo", "tiny", "none", [])])
    wire.talk.take([Done(wire.last(Load).id)])
    assert wire.kinds().count("Generate") == 2 and not turn.answers[A.name].over
    wire.talk.take([Refused(wire.last(Generate).id, "no adapter 'demo-0001' in this session")])
    assert turn.answers[A.name].state == "failed" and not wire.talk.busy


def test_another_client_was_faster_with_loading() -> None:
    wire = Wire(BASE_CHOICE, A, status=status())
    wire.ask()
    wire.talk.take([Refused(wire.last(Load).id, "an adapter called 'demo-0001' is here already")])
    wire.talk.take([status(A.name)])
    assert wire.kinds().count("Load") == 1 and wire.kinds().count("Generate") == 1


def test_stopping_cancels_and_keeps_what_there_is() -> None:
    wire = Wire(BASE_CHOICE, status=status())
    turn = wire.ask()
    request = wire.last(Generate)
    wire.talk.take([Text(request.id, 0, "half")])
    assert wire.talk.stop() and wire.last(protocol.Cancel).target == request.id
    wire.talk.take([answered(request.id, 0, None, "half"), Done(request.id, cancelled=True)])
    answer = turn.answers["base"]
    assert (answer.state, answer.text) == ("cut", "half") and not wire.talk.stop()


def test_an_answer_that_was_cut_off_goes_on() -> None:
    wire = Wire(BASE_CHOICE, status=status())
    turn = wire.ask()
    turn.answers["base"] = Answer(BASE_CHOICE, "done", "one two", [("one two", -0.1)])
    wire.talk._asking.clear()
    wire.talk.ask(turn, [BASE_CHOICE], go_on=True)
    request = wire.last(Generate)
    assert request.columns[0].so_far == "one two"
    wire.talk.take([Text(request.id, 0, " three", [(" three", -0.2)])])
    assert turn.answers["base"].text == "one two three"
    wire.talk.take([answered(request.id, 0, None, " three four"), Done(request.id)])
    assert turn.answers["base"].text == "one two three four" and len(turn.answers["base"].tokens) == 2


def test_a_session_that_is_lost_leaves_what_was_written_and_the_next_one_is_asked_again() -> None:
    wire = Wire(BASE_CHOICE, A, status=status(A.name))
    turn = wire.ask()
    wire.talk.take([Text(wire.last(Generate).id, 0, "half an ans")])
    wire.talk.lost("it was killed")
    answer = turn.answers["base"]
    assert (answer.state, answer.text, answer.problem) == ("failed", "half an ans", "it was killed")
    assert not wire.talk.busy and not wire.talk.connected and not wire.talk.ready(BASE_CHOICE)
    wire.talk.ask(turn, wire.comparison.shown)
    wire.talk.connect(wire.sent.append, status(A.name))
    assert wire.kinds().count("Generate") == 2


def test_the_adapter_in_training_is_asked_by_its_name_until_it_is_over() -> None:
    wire = Wire(BASE_CHOICE, LIVE, status=status(LIVE.name, run=LIVE.name))
    turn = wire.ask()
    request = wire.last(Generate)
    wire.talk.take([answered(request.id, 1, LIVE.name, "5", step=41), Done(request.id)])
    assert turn.answers[LIVE.name].said.step == 41
    wire.talk.take([status()])
    turn = wire.ask()
    assert "not in training any more" in turn.answers[LIVE.name].problem


def test_tokens_are_scored_under_all_models_once() -> None:
    wire = Wire(BASE_CHOICE, A, status=status(A.name))
    turn = wire.ask()
    id = wire.last(Generate).id
    wire.talk.take([answered(id, 0, None, "five"), answered(id, 1, A.name, "5"), Done(id)])
    answer = turn.answers[A.name]
    wire.talk.score(turn, answer, [BASE_CHOICE, A, B])
    wire.talk.score(turn, answer, [BASE_CHOICE, A])
    request = wire.last(protocol.Score)
    assert wire.kinds().count("Score") == 1 and request.models == [None, A.name] and request.answer == "5"
    wire.talk.take([Scores(request.id, ["5"], [[-2.0], [-0.5]])])
    assert answer.scored == ["5"] and answer.scores == {"base": [-2.0], A.name: [-0.5]}
    wire.talk.score(turn, answer, [BASE_CHOICE, A])
    assert wire.kinds().count("Score") == 1
    turn.reference = "five"
    wire.talk.score(turn, None, [BASE_CHOICE, A])
    wire.talk.take([Scores(wire.last(protocol.Score).id, ["fi", "ve"], [[-1.0, -2.0], [-0.1, -0.2]])])
    assert turn.reference_tokens == ["fi", "ve"] and turn.reference_scores[A.name] == [-0.1, -0.2]


@pytest.mark.parametrize("reply", [Done(999), Refused(999, "x"), Text(999, 0, "x"), Scores(999, [], []),
                                   answered(999, 7, None, "x"), Refused(-1, "a line that is none")])  # fmt: skip
def test_replies_to_nothing_change_nothing(reply: Any) -> None:
    wire = Wire(BASE_CHOICE, status=status())
    turn = wire.ask()
    wire.talk.take([reply, Text(wire.last(Generate).id, 9, "x")])
    assert wire.talk.busy and turn.answers["base"].text == ""
