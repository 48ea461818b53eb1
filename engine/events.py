"""What a job says while it works: typed events, an append-only log of them, and a reader that can start anywhere.

One JSON object a line: {"kind": ..., "v": 1, "seq": n, "t": seconds since the epoch, ...}. The first event of a job is
`started`, the last `finished` or `failed`; neither, and a process that is gone, means it was killed. Units stand in
the names. A reader ignores kinds and fields it does not know. A job never waits for a reader: the log is a file.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from engine.files import disk_errors

VERSION = 1


class Event(msgspec.Struct, tag_field="kind", omit_defaults=False, kw_only=True):
    """What every event carries; `EventLog` fills in the three.

    Attributes:
        v: version of the protocol; moves only when a reader of the old one would be wrong.
        seq: 0, 1, 2, ... within one log; a gap means lost events.
        t: wall-clock seconds since the epoch.
    """

    v: int = VERSION
    seq: int = -1
    t: float = 0.0


class Started(Event, tag="started"):
    """A job began. `pid_started`: the process's start time (seconds since the epoch), so that a reused pid is seen."""

    verb: str
    pid: int
    pid_started: float
    project: str
    device: str
    versions: dict[str, str] = {}
    resumed_from_step: int | None = None


class Stage(Event, tag="stage"):
    """Progress of a named stage: `done` of `total` `unit`s (total None: not known). done == total ends the stage."""

    name: str
    done: float
    total: float | None = None
    unit: str = ""


class Step(Event, tag="step"):
    """One optimizer step. `loss` is nats per supervised token over the whole step; `tokens` counts no padding."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float
    tokens_per_second: float
    memory_bytes: int
    epoch: float


class Memory(Event, tag="memory"):
    """A run's peak: as estimated before, and as measured by a pass of its largest micro-batch with the optimizer's state.

    Attributes:
        tokens: of that micro-batch. estimated_bytes: None where the base's shapes could not be read.
        measured_bytes: on a GPU of the card, on a CPU of the process (at least: its peak so far); None: it did not fit.
    """

    tokens: int
    estimated_bytes: int | None
    measured_bytes: int | None


class Scored(Event, tag="scored"):
    """A measurement of one model on one split: sums, from which perplexity = exp(nll / tokens)."""

    model: str
    split: str
    scope: str
    nll: float
    tokens: int
    perplexity: float
    step: int | None = None
    exact_match: float | None = None


class Sample(Event, tag="sample"):
    """A text that a model produced for a prompt (`step` when it was asked while training)."""

    model: str
    prompt: str
    text: str
    step: int | None = None


class Saved(Event, tag="saved"):
    """Something was written and is complete: a checkpoint, an adapter, a merged model."""

    what: str
    path: str
    bytes: int
    step: int | None = None


class Note(Event, tag="note"):
    """Something worth reading; level is "info" or "warning"."""

    text: str
    level: str = "info"


class Failed(Event, tag="failed"):
    """The job ended without its result. `trace` is the path of the traceback where there is one."""

    problem: str
    where: str | None = None
    remedy: str | None = None
    trace: str | None = None


class Finished(Event, tag="finished"):
    """The job ended: reason is "done", "stopped" or "early stopping"."""

    reason: str
    seconds: float = 0.0


AnyEvent = Started | Stage | Step | Memory | Scored | Sample | Saved | Note | Failed | Finished
Emit = Callable[[Event], None]
"""How a job speaks. Tests pass `list.append`."""

_decoder = msgspec.json.Decoder(AnyEvent)
_encoder = msgspec.json.Encoder()
_MEASURED = {
    kind.__struct_config__.tag: [f.name for f in msgspec.structs.fields(kind) if f.type is float]
    for kind in get_args(AnyEvent)
}
"""Of each kind, the numbers that are always there: a null among them was NaN or infinite."""
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


_BLOCK_BYTES = 1 << 18
"""What is decoded at once: a few milliseconds."""


class _Numbered(msgspec.Struct):
    seq: int


_numbered = msgspec.json.Decoder(_Numbered)


def encode(event: Event) -> bytes:
    """`event` as one line of JSON. NaN and infinity become null (JSON has neither) and are read back as NaN.

    What UTF-8 cannot say (half a character, as in the name of a file from another system) is written as an escape.
    """
    try:
        return _encoder.encode(event) + b"\n"
    except UnicodeEncodeError:
        values = {n: _sayable(getattr(event, n)) for n in event.__struct_fields__}
        return _encoder.encode(type(event)(**values)) + b"\n"


def _sayable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def decode(line: bytes) -> AnyEvent | None:
    """The event of one line, or None for a kind that this version does not know or a line that is not an event."""
    try:
        return _decoder.decode(line)
    except _NOT_JSON:
        with contextlib.suppress(*_NOT_JSON):
            return _decode_null(msgspec.json.decode(line, type=dict[str, Any]))
    return None


def _decode_null(values: dict[str, Any]) -> AnyEvent:
    for name in _MEASURED.get(str(values.get("kind")), ()):
        if values.get(name, 0.0) is None:
            values[name] = math.nan
    return msgspec.convert(values, AnyEvent)


class EventLog:
    """Appends events to a file, one line each, numbered on from what the file already holds. One writer a file.

    Raises:
        WorkFailed: the disk is full or the file cannot be written; the file ends with its last whole line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            data = path.read_bytes()
            if data and not data.endswith(b"\n"):
                # A job that was killed while it wrote: end its line, so that ours starts on one of its own.
                os.write(self._fd, b"\n")
                data += b"\n"
        self._seq = _last_seq(data)

    def __call__(self, event: Event) -> None:
        event.seq, event.t = self._seq + 1, time.time()
        line = encode(event)
        with disk_errors(self.path):
            size = os.fstat(self._fd).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._fd, line[written:])
            except OSError:
                os.ftruncate(self._fd, size)  # a full disk took a part of the line
                raise
        self._seq += 1

    def close(self) -> None:
        os.close(self._fd)


def _last_seq(data: bytes) -> int:
    """The number of the last numbered line of whatever kind, -1 where there is none."""
    end = len(data)
    while end > 0:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        try:
            return _numbered.decode(data[begin:end]).seq
        except _NOT_JSON:
            end = begin
    return -1


def iter_events(data: bytes) -> Iterator[AnyEvent]:
    """The events of complete lines in `data`; a torn last line and unknown kinds are passed over."""
    begin, last = 0, data.rfind(b"\n") + 1
    while begin < last:
        end = data.find(b"\n", min(begin + _BLOCK_BYTES, last - 1)) + 1
        yield from _decode_block(data[begin:end])
        begin = end


def _decode_block(lines: bytes) -> list[AnyEvent]:
    """All lines at once, which is several times faster; one by one where one of them is no event that we know."""
    with contextlib.suppress(*_NOT_JSON):
        found = _decoder.decode_lines(lines)
        if len(found) == lines.count(b"\n"):  # no line had two: that would be one torn by a kill
            return found
    return [event for line in lines.split(b"\n") if line and (event := decode(line)) is not None]


def read(path: Path, offset: int = 0, limit: int | None = None) -> tuple[list[AnyEvent], int]:
    """The events after byte `offset`, and the offset to go on from (always the start of a line).

    A log that has no line ending at `offset` was replaced and is read from its start.

    Args:
        limit: read about this many bytes (a line more where none ends within them); None: to the end.
    """
    try:
        with path.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                offset = offset if file.read(1) == b"\n" else 0
            file.seek(offset)
            data = file.read(-1 if limit is None else limit)
            while limit is not None and data and b"\n" not in data[-limit:] and (more := file.read(limit)):
                data += more
    except FileNotFoundError:
        return [], 0
    whole = data.rfind(b"\n") + 1
    return list(iter_events(data[:whole])), offset + whole


def follow(path: Path, alive: Callable[[], bool], poll_seconds: float = 0.1) -> Iterator[AnyEvent]:
    """Events as they come, from the first, to `finished` or `failed`, or until all is read and `alive()` is False."""
    offset, ended = 0, False
    while not ended:
        living = alive()
        events, offset = read(path, offset)
        for event in events:
            yield event
            ended = isinstance(event, Finished | Failed)
        if not events:
            if not living:
                return
            time.sleep(poll_seconds)


def to_builtins(event: Event) -> dict[str, Any]:
    """The event as a plain dictionary, `kind` included."""
    return msgspec.to_builtins(event)
