"""What a session and its clients say to each other: newline-delimited JSON over a Unix socket, typed, with ids.

A request carries an `id` that its replies repeat. Every request is ended by exactly one `done`, `status`, `scores` or
`refused`; `generate` streams `text` and one `answered` a column before its `done`. Unknown fields are ignored; an
unknown, malformed or oversized request is refused and changes nothing. No torch: both sides import this.

    -> {"op": "generate", "id": 7, "columns": [{"model": null, "messages": [...]}, {"model": "starter-0003", ...}]}
    <- {"kind": "text", "id": 7, "column": 0, "text": "Anna has", "tokens": [["Anna", -0.1], [" has", -0.02]]}
    <- {"kind": "answered", "id": 7, "column": 0, "text": ..., "sha256": "", "changed": false, ...}
    <- {"kind": "done", "id": 7}
"""

from __future__ import annotations

from typing import Literal

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
    """Attach a stored adapter: a folder in PEFT layout (a run's adapter, a checkpoint's)."""

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


class Stop(Request, tag="stop"):
    """Stop the training of this session: it finishes its step and saves."""


class Shutdown(Request, tag="shutdown"):
    """End the session, where it trains nothing."""


AnyRequest = Status | Load | Unload | Generate | Cancel | Score | Stop | Shutdown


class Reply(msgspec.Struct, tag_field="kind"):
    id: int


class Refused(Reply, tag="refused"):
    """The request was not carried out, or not to its end. `id` -1: the request's own could not be read."""

    problem: str
    where: str | None = None
    remedy: str | None = None


class Done(Reply, tag="done"):
    """The request has been carried out (`cancelled`: until it was told to end)."""

    cancelled: bool = False


class Loaded(msgspec.Struct):
    """An adapter in the session; `alone`: why it cannot share a batch, or None. `training`: it is being trained."""

    name: str
    sha256: str
    alone: str | None = None
    training: bool = False


class StatusOf(Reply, tag="status"):
    """Attributes: run, step: of the training that goes on, or None. bytes_used: memory, see `Step.memory_bytes`."""

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


AnyReply = Refused | Done | StatusOf | Text | Answered | Scores

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
