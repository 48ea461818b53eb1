"""Questions on their way to a session and back: adapters are loaded first, replies are folded into the comparison.

Comes from: the compare view, which hands in what the session says. Goes to: `models.compare`, and through `send` to
`jobs.session_client`. Plain state: no widget, no socket, no thread.

    ask -> what is not loaded: Load ... Done -> Generate -> Text ... Answered ... Done
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine import protocol
from engine.protocol import Answered, AnyReply, Done, Generate, Refused, Request, Scores, StatusOf, Text
from workbench.models.compare import BASE, Answer, Choice, Comparison, Turn

Send = Callable[[Request], None]


@dataclass
class Question:
    """A generation that was asked for. `loads`: names that have to be there first."""

    turn: Turn
    choices: list[Choice]
    seed: int | None = None
    loads: set[str] = field(default_factory=set)
    request: int = -1
    again: bool = False


@dataclass
class _Scoring:
    turn: Turn
    answer: Answer | None
    """None: the turn's reference."""
    names: list[str]


class Talk:
    """Attributes:
    status: the session's last word about itself, None while there is no session.
    digests: path of an adapter's folder -> SHA-256 of its weights, as far as known; a session that holds other
        weights under the name is told to load them anew.
    problem: what the session refused that belongs to no answer.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.status: StatusOf | None = None
        self.digests: dict[str, str] = {}
        self.problem = ""
        self._send: Send | None = None
        self._ids = itertools.count(1)
        self._loading: dict[int, Choice] = {}
        self._asking: dict[int, Question] = {}
        self._scoring: dict[int, _Scoring] = {}
        self._waiting: list[Question] = []
        self._status_asked = -1

    # --- the session

    @property
    def connected(self) -> bool:
        return self._send is not None

    @property
    def busy(self) -> bool:
        """Whether answers are waited for."""
        return bool(self._waiting or self._asking)

    def connect(self, send: Send, status: StatusOf) -> None:
        """A session is there; what waits is asked."""
        self._send, self.status, self.problem = send, status, ""
        self._go_on()

    def lost(self, words: str) -> None:
        """The session is gone; what it was writing stays, as far as it came."""
        self._send, self.status = None, None
        for question in [*self._asking.values(), *(q for q in self._waiting if q.loads)]:
            self._fail(question, words)
        self._waiting = [q for q in self._waiting if not q.loads]
        self._asking.clear()
        self._loading.clear()
        self._scoring.clear()
        self._status_asked = -1

    def give_up(self, words: str) -> None:
        """No session comes: what waits is not answered."""
        for question in self._waiting:
            self._fail(question, words)
        self._waiting.clear()

    def ask_status(self) -> None:
        """Ask how the session is; one question at a time."""
        if self._status_asked < 0 and self._send is not None:
            self._status_asked = next(self._ids)
            self._send(protocol.Status(self._status_asked))

    def held(self, choice: Choice) -> protocol.Loaded | None:
        """What the session says of a choice that it holds, None where it holds it not (or is not there)."""
        if self.status is None or choice.name == BASE:
            return None
        return next((a for a in self.status.adapters if a.name == choice.name), None)

    def ready(self, choice: Choice) -> bool:
        """Whether a choice can be asked at once."""
        if self.status is None:
            return False
        return choice.name == BASE or (self.held(choice) is not None and not self._stale(choice))

    def loading(self, choice: Choice) -> bool:
        return any(c.name == choice.name for c in self._loading.values())

    def _stale(self, choice: Choice) -> bool:
        """Whether the session holds other weights under this name than the file has now."""
        held = self.held(choice)
        if held is None or held.training or choice.path is None or not held.sha256:
            return False
        return self.digests.get(str(choice.path), held.sha256) != held.sha256

    # --- asking

    def ask(self, turn: Turn, choices: Sequence[Choice], *, seed: int | None = None, go_on: bool = False) -> None:
        """Ask these choices for their answers to `turn`; what they said before is replaced, or gone on from."""
        asked = list(dict.fromkeys(choices))
        turn.seed = seed
        for choice in asked:
            before = turn.answers.get(choice.name)
            fresh = Answer(choice)
            if go_on and before is not None:
                fresh.so_far = fresh.text = before.text
                fresh.tokens = list(before.tokens)
            turn.answers[choice.name] = fresh
        joined = next((q for q in self._waiting if q.turn is turn and q.seed == seed), None)
        if joined is not None:  # one batch for those that wait for the same
            joined.choices += [c for c in asked if c not in joined.choices]
        else:
            self._waiting.append(Question(turn, asked, seed))
        self._go_on()

    def load(self, choice: Choice) -> None:
        """Have an adapter loaded before anyone asks it."""
        if self._send is not None and not self.ready(choice) and not self.loading(choice) and choice.path is not None:
            self._load(choice)

    def stop(self) -> bool:
        """End what is being written; returns whether anything was."""
        stopped = self.busy
        for question in self._waiting:
            for answer in self._answers(question):
                answer.state = "cut"
        self._waiting.clear()
        for question in self._asking.values():
            self._out(protocol.Cancel(next(self._ids), question.request))
        return stopped

    def score(self, turn: Turn, answer: Answer | None, choices: Sequence[Choice]) -> None:
        """Ask what each token of an answer (None: of the reference) is worth to these choices, where they are ready."""
        asked = [c for c in choices if self.ready(c)]
        text = turn.reference if answer is None else answer.text
        have = turn.reference_scores if answer is None else answer.scores
        if not asked or not text or all(c.name in have for c in asked):
            return
        if any(s.turn is turn and s.answer is answer for s in self._scoring.values()):
            return
        if answer is not None and answer.so_far:
            turn_asked = self.comparison.asked(answer.choice, turn)
            turn_asked.so_far = ""
        else:
            turn_asked = self.comparison.asked(answer.choice if answer is not None else asked[0], turn)
        if answer is None:
            turn_asked.so_far = ""
        id = next(self._ids)
        self._scoring[id] = _Scoring(turn, answer, [c.name for c in asked])
        self._out(protocol.Score(id, [c.model for c in asked], turn_asked, text))

    def _go_on(self) -> None:
        """Load what the waiting questions need; ask those that need nothing more."""
        if self._send is None:
            return
        for question in list(self._waiting):
            question.loads = set()
            for choice in question.choices:
                answer = question.turn.answers[choice.name]
                if answer.state == "failed":
                    continue
                if self.ready(choice):
                    answer.state = "waiting"
                elif choice.path is None:
                    answer.state, answer.problem = "failed", "not in training any more: a digit or m chooses another"
                else:
                    answer.state = "loading"
                    question.loads.add(choice.name)
                    if not self.loading(choice):
                        self._load(choice)
            if not question.loads:
                self._waiting.remove(question)
                self._generate(question)

    def _load(self, choice: Choice) -> None:
        if self._stale(choice):
            self._out(protocol.Unload(next(self._ids), choice.name))
        id = next(self._ids)
        self._loading[id] = choice
        self._out(protocol.Load(id, choice.name, str(choice.path)))

    def _generate(self, question: Question) -> None:
        question.choices = [c for c in question.choices if question.turn.answers[c.name].state != "failed"]
        if not question.choices:
            return
        question.request = next(self._ids)
        self._asking[question.request] = question
        values = dict(self.comparison.sampling.values)
        if question.seed is not None:
            values["seed"] = question.seed
        columns = [self.comparison.asked(c, question.turn) for c in question.choices]
        self._out(Generate(question.request, columns, **values))  # type: ignore[arg-type]

    def _out(self, request: Request) -> None:
        if self._send is not None:
            self._send(request)

    # --- what the session says

    def take(self, replies: Sequence[AnyReply]) -> None:
        """Fold replies in, in their order."""
        for reply in replies:
            match reply:
                case StatusOf():
                    self.status, self._status_asked = reply, -1
                    self._go_on()
                case Text() | Answered():
                    self._write(reply)
                case Scores():
                    self._scored(reply)
                case Done():
                    self._done(reply)
                case Refused():
                    self._refused(reply)

    def _write(self, reply: Text | Answered) -> None:
        question = self._asking.get(reply.id)
        if question is None or not 0 <= reply.column < len(question.choices):
            return
        answer = question.turn.answers.get(question.choices[reply.column].name)
        if answer is None:
            return
        if isinstance(reply, Text):
            answer.state = "writing"
            answer.text += reply.text
            answer.tokens += [(text, logprob) for text, logprob in reply.tokens]
        else:
            answer.text, answer.said, answer.state = answer.so_far + reply.text, reply, "done"

    def _done(self, reply: Done) -> None:
        if (choice := self._loading.pop(reply.id, None)) is not None:
            digest = self.digests.pop(str(choice.path), "")  # just read: whatever it is, it is what the file has
            if self.status is not None:
                others = [a for a in self.status.adapters if a.name != choice.name and a.name not in reply.dropped]
                self.status.adapters = [*others, protocol.Loaded(choice.name, digest)]
            self._status_asked = -1
            self.ask_status()  # its hash, whether it goes alone, and who had to make room
            self._go_on()
        elif (question := self._asking.pop(reply.id, None)) is not None:
            for answer in self._answers(question):
                if reply.cancelled or not answer.over:
                    answer.state = "cut"

    def _refused(self, reply: Refused) -> None:
        words = ": ".join(p for p in (reply.where, reply.problem) if p) + (f" ({reply.remedy})" if reply.remedy else "")
        if (choice := self._loading.pop(reply.id, None)) is not None:
            if "is here already" in reply.problem:  # another client was faster
                self._status_asked = -1
                self.ask_status()
                return
            for question in self._waiting:
                if choice.name in question.loads:
                    answer = question.turn.answers[choice.name]
                    answer.state, answer.problem = "failed", words
            self._go_on()
        elif (question := self._asking.pop(reply.id, None)) is not None:
            if "no adapter" in reply.problem and not question.again:  # it had to make room for another one
                question.again = True
                self._waiting.append(question)
                self._status_asked = -1
                self.ask_status()
            else:
                self._fail(question, words)
        elif reply.id in self._scoring:
            del self._scoring[reply.id]
            self.problem = words
        elif reply.id == self._status_asked:
            self._status_asked = -1

    def _scored(self, reply: Scores) -> None:
        scoring = self._scoring.pop(reply.id, None)
        if scoring is None:
            return
        found = dict(zip(scoring.names, reply.logprobs, strict=False))
        if scoring.answer is None:
            scoring.turn.reference_tokens = reply.tokens
            scoring.turn.reference_scores |= found
        else:
            scoring.answer.scored = reply.tokens
            scoring.answer.scores |= found

    def _answers(self, question: Question) -> list[Answer]:
        return [a for c in question.choices if (a := question.turn.answers.get(c.name)) is not None]

    def _fail(self, question: Question, words: str) -> None:
        for answer in self._answers(question):
            if not answer.over:
                answer.state, answer.problem = "failed", words
