"""An answer of a comparison becomes a row of a dataset, in the shape that its rows have already. No torch.

Comes from: the compare editor, by `transcripts.add_to_dataset`. Goes to: a JSONL file that a project trains on. Text is
never changed, columns are never invented, and what does not fit is refused in words.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from engine import jsonl
from engine.columns import COMPLETIONS, PROMPTS, SYSTEMS
from engine.errors import InputError, WorkFailed
from engine.protocol import Message

SAMPLE = 100


def add_to_dataset(
    file: Path, prompt: str, answer: str, history: Iterable[Message] = (), *, columns: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Append a row to a JSONL dataset in the shape that its rows have; an empty or new file gets prompt and completion.

    Args:
        history: turns before the prompt. Rows of messages take them all, others a system prompt where they have such a
            column.
        columns: where the project file names them: prompt_column, completion_column, messages_column.

    Returns:
        The row as it was written; prompt and answer are in it as they were given.

    Raises:
        InputError: the file is no JSONL, or its rows have no shape that this fits; nothing has been written.
        WorkFailed: it cannot be written.
    """
    if file.suffix != ".jsonl":
        raise InputError("rows can be added to JSONL files only", where=str(file))
    if not prompt.strip() or not answer.strip():
        raise InputError("a row needs a prompt and an answer", where=str(file))
    turns = list(history)
    named = {k.removesuffix("_column"): v for k, v in (columns or {}).items() if v}
    row: dict[str, Any] = {}
    while True:
        seen = _sample(file)
        try:
            row = _as_row(seen, prompt, answer, turns, named) if seen else _new_row(prompt, answer, turns, named)
            line = json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError("the text holds half a character, which no tokenizer reads", where=str(file)) from error
        except InputError as error:
            error.where = str(file)
            raise
        with contextlib.suppress(_ChangedError):
            jsonl.append(file, line + b"\n", lambda path, seen=seen: _unless_changed(path, seen))
            return row


class _ChangedError(Exception):
    """Another process gave an empty file its first row."""


def _unless_changed(path: Path, seen: list[dict[str, Any]]) -> None:
    if not seen and _sample(path):
        raise _ChangedError


def _sample(file: Path) -> list[dict[str, Any]]:
    """The first rows.

    Raises:
        InputError: a line is no row. WorkFailed: the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            lines = list(islice((line for line in opened if line.strip()), SAMPLE))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise WorkFailed(f"cannot be read: {error.strerror}", where=str(file)) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"row {number} is no JSON, so the shape is not known", where=str(file)) from error
        if not isinstance(row, dict):
            raise InputError(f"row {number} is no JSON object, so the shape is not known", where=str(file))
        rows.append(row)
    return rows


def _new_row(prompt: str, answer: str, turns: list[Message], named: Mapping[str, str]) -> dict[str, Any]:
    if "messages" in named or turns:
        return {named.get("messages", "messages"): _messages(prompt, answer, turns)}
    return {named.get("prompt", PROMPTS[0]): prompt, named.get("completion", COMPLETIONS[0]): answer}


def _messages(prompt: str, answer: str, turns: list[Message]) -> list[dict[str, str]]:
    before = [{"role": m.role, "content": m.content} for m in turns]
    return [*before, {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _as_row(
    seen: list[dict[str, Any]], prompt: str, answer: str, turns: list[Message], named: Mapping[str, str]
) -> dict[str, Any]:
    every = dict.fromkeys(column for row in seen for column in row)
    chats = [c for c in every if c == named.get("messages") or ("messages" not in named and _is_chat(seen, c))]
    if chats:
        _all_filled(every, chats)
        values = [row.get(chats[0]) for row in seen]
        if not all(isinstance(v, list) and all(_is_message(m) for m in v) for v in values):
            raise InputError(f"the messages in {chats[0]!r} are not made of role and content")
        return {chats[0]: _messages(prompt, answer, turns)}
    ins, outs = _named(every, named.get("prompt"), PROMPTS), _named(every, named.get("completion"), COMPLETIONS)
    if len(ins) != 1 or len(outs) != 1:
        have = ", ".join(map(repr, every))
        raise InputError(
            f"it is not clear which column takes the prompt and which the answer (columns: {have})",
            remedy="name them in the project file: data.prompt_column and data.completion_column",
        )
    for column in (*ins, *outs):
        if any(not isinstance(row.get(column, ""), str) for row in seen):
            raise InputError(f"column {column!r} does not hold text in all rows, and an answer is text")
    system = [m.content for m in turns if m.role == "system"]
    systems = _named(every, None, SYSTEMS)[:1]
    if any(m.role != "system" for m in turns) or (system and not systems):
        raise InputError("rows of this file hold no turns before the prompt, and this answer had some")
    _all_filled(every, [*ins, *outs, *systems])
    values = {ins[0]: prompt, outs[0]: answer} | ({systems[0]: system[0]} if system else {})
    return {column: values[column] for column in every if column in values}


def _is_chat(seen: list[dict[str, Any]], column: str) -> bool:
    return any(isinstance(v := row.get(column), list) and any(isinstance(m, dict) for m in v) for row in seen)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value


def _named(every: Iterable[str], given: str | None, usual: tuple[str, ...]) -> list[str]:
    return [c for c in every if (c == given if given else c.lower() in usual)]


def _all_filled(every: Iterable[str], filled: list[str]) -> None:
    if left := [c for c in every if c not in filled]:
        raise InputError(f"rows of this file have columns that an answer does not fill: {', '.join(map(repr, left))}")
