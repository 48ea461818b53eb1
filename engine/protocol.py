"""What a session and its clients say to each other: newline-delimited JSON over a Unix socket, typed, with ids.

A request carries an `id` that its replies repeat. Every request is ended by exactly one of `ENDS`; `generate` streams
`text` and one `answered` a column before its `done`, `evaluate` says `progress` and `measured` before its `evaluated`.
Unknown fields are ignored; an unknown, malformed or oversized request is refused and changes nothing. No torch: both
sides import this.

    -> {"op": "generate", "id": 7, "columns": [{"model": null, "messages": [...]}, {"model": "starter-0003", ...}]}
    <- {"kind": "text", "id": 7, "column": 0, "text": "Anna has", "tokens": [["Anna", -0.1], [" has", -0.02]]}
    <- {"kind": "answered", "id": 7, "column": 0, "text": ..., "sha256": "", "changed": false, ...}
    <- {"kind": "done", "id": 7}
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

VERSION = 1
LONGEST_LINE = 2**20
"""Bytes of a request; a longer one is refused and skipped."""


class Message(msgspec.Struct):
    """A turn of a conversation; roles are those of the chat template."""

    role: Literal["system", "user", "assistant"]
    content: str


class Asked(msgspec.Struct):
    """A column: who is asked, and what.

    Attributes:
        model: an adapter's name; None: the base.
        messages: a conversation, rendered by the project's template; with `text` instead, that text as it is.
        so_far: the beginning of the answer, to be continued.
    """

    model: str | None = None
    messages: list[Message] = []
    text: str | None = None
    so_far: str = ""


class Request(msgspec.Struct, tag_field="op"):
    id: int


class Status(Request, tag="status"):
    """What is loaded and going on. Ended by `status`."""


class Load(Request, tag="load"):
    """Attach a stored adapter: a folder in PEFT layout (a run's adapter, a checkpoint's).

    Where memory is short, or more are loaded than a session keeps, those not asked for longest are taken off:
    `done.dropped` names them.
    """

    name: str
    path: str


class Unload(Request, tag="unload"):
    """Take a stored adapter off."""

    name: str


class Generate(Request, tag="generate"):
    """Answer in all columns at once; the [generate] table's keys, None: as the project says."""

    columns: list[Asked]
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: list[str] | None = None


class Cancel(Request, tag="cancel"):
    """End another request of this client; what has been written of it is answered."""

    target: int


class Score(Request, tag="score"):
    """The log-probability of each token of a given answer under several models. Ended by `scores`."""

    models: list[str | None]
    asked: Asked
    answer: str


class Train(Request, tag="train"):
    """Train the session's project with the base that is loaded; prompts are answered meanwhile. Ended by `begun`.

    How it goes on is in the run's event log, as of any run. It ends by itself or by `stop`, whoever is connected; then
    the session goes on, and the trained adapter is loaded under the run's name.

    Attributes:
        overrides: "table.key=value", for this run. resume: number of a run of this project that is to go on.
    """

    overrides: list[str] = []
    resume: int | None = None


class Stop(Request, tag="stop"):
    """Stop the training of this session: it finishes its step and saves."""


class Evaluate(Request, tag="evaluate"):
    """Measure loaded models on the project's rows, as `loraworkbench eval` does. Ended by `evaluated`, or by `done` when
    it was cancelled (or its client is gone); then nothing is written.

    Attributes:
        models: None is the base, against which the others are tested. splits: of "train" and "test"; empty: all.
    """

    models: list[str | None]
    splits: list[str] = []


class Shutdown(Request, tag="shutdown"):
    """End the session, where it trains nothing."""


AnyRequest = Status | Load | Unload | Generate | Cancel | Score | Train | Stop | Evaluate | Shutdown


class Reply(msgspec.Struct, tag_field="kind"):
    id: int


class Refused(Reply, tag="refused"):
    """The request was not carried out, or not to its end. `id` -1: the request's own could not be read."""

    problem: str
    where: str | None = None
    remedy: str | None = None


class Done(Reply, tag="done"):
    """The request has been carried out (`cancelled`: until it was told to end). dropped: see `Load`."""

    cancelled: bool = False
    dropped: list[str] = []


class Loaded(msgspec.Struct):
    """An adapter in the session; `alone`: why it cannot share a batch, or None. `training`: it is being trained."""

    name: str
    sha256: str
    alone: str | None = None
    training: bool = False


class StatusOf(Reply, tag="status"):
    """What a session is and does.

    Attributes:
        run: the name under which the adapter in training is asked; run, step, steps: None where nothing is trained.
        evaluating: the models that an evaluation under way measures, None where there is none.
        bytes_used: memory, see `events.Step.memory_bytes`.
        trains: whether it takes `train` and `evaluate` (the process of a single training does not).
    """

    version: int
    pid: int
    project: str
    base: str
    quantization: str
    adapters: list[Loaded]
    base_there: bool = True
    run: str | None = None
    step: int | None = None
    steps: int | None = None
    bytes_used: int = 0
    evaluating: list[str | None] | None = None
    trains: bool = False


class Text(Reply, tag="text"):
    """New text of a column, and its tokens: (text of the token alone, log-probability in nats under its own model)."""

    column: int
    text: str
    tokens: list[tuple[str, float]] = []


class Answered(Reply, tag="answered"):
    """A column's whole answer with the proof of whose it is; see `engine.generation.together.Compared`.

    Attributes:
        stopped: it ended by itself. full: the context was full.
        step: the optimizer step whose weights answered, of an adapter in training.
    """

    column: int
    model: str | None
    text: str
    tokens: int
    sha256: str
    largest_logit_difference: float
    kl: float
    changed: bool
    stopped: bool
    full: bool = False
    step: int | None = None
    seconds: float = 0.0


class Scores(Reply, tag="scores"):
    """Attributes: tokens: texts of the answer's tokens. logprobs: of each under each model, in nats."""

    tokens: list[str]
    logprobs: list[list[float]]


class Begun(Reply, tag="begun"):
    """A training has its run and begins. Attributes: run: name of its adapter here. path: the run's folder."""

    run: str
    label: str
    path: str


class Progress(Reply, tag="progress"):
    """How far an evaluation is; see `events.Stage`. A slow client gets the newest only."""

    name: str
    done: float
    total: float | None = None
    unit: str = ""


class Measured(Reply, tag="measured"):
    """One model on one split; see `events.Scored`. perplexity None: too large for a number."""

    model: str
    split: str
    scope: str
    nll: float
    tokens: int
    perplexity: float | None = None
    exact_match: float | None = None


class Evaluated(Reply, tag="evaluated"):
    """The evaluation is written. Attributes: path: of its file. rows: as there, one a model, split and scope."""

    path: str
    rows: list[dict[str, Any]]


AnyReply = Refused | Done | StatusOf | Text | Answered | Scores | Begun | Progress | Measured | Evaluated
ENDS = (Refused, Done, StatusOf, Scores, Begun, Evaluated)
"""What ends a request."""

_requests = msgspec.json.Decoder(AnyRequest)
_replies = msgspec.json.Decoder(AnyReply)
_encoder = msgspec.json.Encoder()


class _Id(msgspec.Struct):
    id: int = -1


_id = msgspec.json.Decoder(_Id)


def encode(message: Request | Reply) -> bytes:
    """`message` as a line."""
    return _encoder.encode(message) + b"\n"


def decode_request(line: bytes) -> AnyRequest:
    """The request of a line.

    Raises:
        ValueError: it is none, with what is wrong in words.
    """
    try:
        return _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a request: {error}") from error


def id_of(line: bytes) -> int:
    """The id of a line that is no request, -1 where it has none."""
    try:
        return _id.decode(line).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return -1


def decode_reply(line: bytes) -> AnyReply | None:
    """The reply of a line; None for a kind that this version does not know."""
    try:
        return _replies.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
