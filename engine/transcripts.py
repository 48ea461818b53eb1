"""Comparisons that were made, kept with their project, searched, written out as Markdown, and turned into rows. No torch.

    projects/NAME/transcripts.jsonl   an `Entry` a line, oldest first; any number of processes may append

Comes from: the compare editor, an entry each time all columns have answered. Goes to: its history, a Markdown file, and
(`add_to_dataset`) the dataset that the next run is trained on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine import jsonl
from engine.additions import add_to_dataset
from engine.protocol import Message

__all__ = ["Answer", "Entry", "add_to_dataset", "append", "as_markdown", "entries", "path_of", "search"]

FILE_NAME = "transcripts.jsonl"
BASE = "base"


class Answer(msgspec.Struct):
    """What one column said.

    Attributes:
        model: the adapter's name, or "base".
        sha256: of the adapter's file; "" for the base and an adapter in training.
        step: the optimizer step whose weights answered, of an adapter in training.
        history: the column's own turns before the prompt, where the columns do not share them; None: `Entry.history`.
        changed, largest_logit_difference, kl: see `protocol.Answered`; None where there was no proof.
        ended: "stopped" by itself, "cut" at the limit of tokens, "full" context, or "cancelled".
    """

    model: str
    text: str
    sha256: str = ""
    step: int | None = None
    history: list[Message] | None = None
    changed: bool | None = None
    largest_logit_difference: float | None = None
    kl: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    ended: str = "stopped"


class Entry(msgspec.Struct):
    """One prompt and what all columns said to it.

    Attributes:
        prompt: as it was typed. raw: it was continued as it is, without a chat template.
        history: turns before the prompt that all columns saw, a system prompt among them.
        settings: of sampling, by the [generate] table's names.
        t: seconds since the epoch; `append` sets it where it is 0.
    """

    prompt: str
    answers: list[Answer]
    history: list[Message] = []
    raw: bool = False
    base: str = ""
    quantization: str = ""
    settings: dict[str, Any] = {}
    t: float = 0.0


_decoder = msgspec.json.Decoder(Entry)


def path_of(project: Path) -> Path:
    """The transcripts of the project in this folder."""
    return project / FILE_NAME


def append(path: Path, entry: Entry) -> None:
    """Keep an entry.

    Raises:
        WorkFailed: the file cannot be written; it is as it was.
    """
    entry.t = entry.t or time.time()
    jsonl.append(path, jsonl.encode(entry))


def entries(path: Path) -> Iterator[Entry]:
    """All entries, newest first, read as they are asked for: `islice(entries(path), 20)` reads the end of the file only.

    Lines that are no entry (torn by a kill, of another version) are passed over.
    """
    for line in jsonl.newest_lines(path):
        with contextlib.suppress(*jsonl.UNREADABLE):
            yield _decoder.decode(line)


def search(path: Path, words: str) -> Iterator[Entry]:
    """Entries, newest first, in whose prompt, history, models or answers each of these words is, whatever its case."""
    wanted = words.casefold().split()
    for entry in entries(path):
        said = "\n".join(_texts(entry)).casefold()
        if all(word in said for word in wanted):
            yield entry


def _texts(entry: Entry) -> Iterator[str]:
    yield entry.prompt
    for messages in (entry.history, *(a.history or [] for a in entry.answers)):
        yield from (m.content for m in messages)
    for answer in entry.answers:
        yield from (answer.model, answer.text)


def as_markdown(chosen: Iterable[Entry]) -> str:
    """Entries in the order given, as a Markdown document; what was said stands in code blocks, exactly as it was."""
    parts = ["# Comparisons"]
    for entry in chosen:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.t))
        settings = ", ".join(f"{k} {v}" for k, v in entry.settings.items())
        about = "; ".join(filter(None, (entry.base, entry.quantization, settings)))
        parts += [f"## {when}", *([about] if about else [])]
        parts += _turns(entry.history)
        parts += ["**text to continue**" if entry.raw else "**user**", _block(entry.prompt)]
        for answer in entry.answers:
            parts += [f"### {_title(answer)}", *_turns(answer.history or []), _block(answer.text), _proof(answer)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _turns(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        yield from (f"**{message.role}**", _block(message.content))


def _title(answer: Answer) -> str:
    step = f", step {answer.step}" if answer.step is not None else ""
    return answer.model + (f" ({answer.sha256[:8]})" if answer.sha256 else "") + step


def _proof(answer: Answer) -> str:
    said = {"cut": "cut off at the limit of tokens", "full": "the context was full", "cancelled": "cancelled"}
    parts = [said.get(answer.ended, "")]
    if answer.model != BASE and answer.changed is False:
        parts.append("this adapter changed nothing")
    elif answer.model != BASE and answer.changed and answer.kl is not None:
        difference = answer.largest_logit_difference or 0.0
        parts.append(f"against base: largest logit difference {difference:.3g}, KL {answer.kl:.3g} nats")
    return "; ".join(filter(None, parts))


def _block(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in `text`."""
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
