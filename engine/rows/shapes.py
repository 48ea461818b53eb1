"""What a row means: a row in its shape as a conversation, a prompt with its completion, or text.

    messages            {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}   -> Conversation
    sharegpt            {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", ...}]}     -> Conversation
    alpaca              {"instruction": "...", "input": "...", "output": "..."}                          -> Pair
    prompt_completion   {"question": "...", "answer": "..."} and the like                                -> Pair
    text                {"text": "..."}                                                                  -> Document

The input column of alpaca may be called context, and its output column response. Alpaca and prompt_completion rows
become Conversations where the rows have a system or history column. Nothing is stripped from or added to the text of a
row, but for the line end between an alpaca instruction and its input and between a message and its tool calls. A
message's `name` and ids are not part of its text. Comes from `formats` (Row) and `detect` (Shape). Goes to `prompts`,
by way of `reader.load`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.rows.formats import Row, excerpt
from engine.rows.jsonrows import Literal, kind_of, to_json

SHAPES = ("messages", "sharegpt", "alpaca", "prompt_completion", "text")
_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response"), "tool"),
}


class RowError(Exception):
    """This row cannot be used. `reason` is "kind: detail"; the ledger counts by kind."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `role` is system, user, assistant or tool; `weight` is that of its loss, 0 where nothing is learned."""

    role: str
    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in order, at least one of the assistant's. `tools` is the JSON of the tools on offer, as given."""

    messages: tuple[Message, ...]
    tools: str | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what is to be said to it. `fields` are all columns that are text, for format strings."""

    prompt: str
    completion: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Document:
    """Text that is learned from beginning to end."""

    text: str


Item = Conversation | Pair | Document


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape and the columns it is read from: part (prompt, completion, messages, system, ...) -> column."""

    name: str
    columns: Mapping[str, str]

    def describe(self) -> str:
        """One line: "prompt_completion: question -> answer"."""
        named = {part: excerpt(column) for part, column in self.columns.items()}
        ins = [named.pop(part) for part in ("prompt", "instruction", "input") if part in named]
        outs = [named.pop(part) for part in ("completion", "output", "messages", "text") if part in named]
        rest = ", ".join(f"{part}: {column}" for part, column in named.items())
        arrow = " -> ".join(filter(None, (" + ".join(ins), *outs)))
        return f"{self.name}: {arrow}" + (f" ({rest})" if rest else "")


def convert(row: Row, shape: Shape) -> Item:
    """`row` as what its shape says it is.

    Raises:
        RowError: it cannot be used: a column is missing, null or not text, a text is empty where something must be
            said, a role is unknown, a weight is no number, or there is nothing to learn from.
    """
    fields, columns = row.fields, shape.columns
    try:
        if shape.name == "text":
            return Document(_said(fields, columns["text"], learned=True))
        if shape.name in ("messages", "sharegpt"):
            return _conversation(fields, columns)
        return _exchange(fields, columns)
    except RecursionError as error:
        raise RowError("nested too deeply") from error


def _exchange(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Pair | Conversation:
    """An alpaca or prompt_completion row."""
    if "instruction" in columns:
        parts = [_text(fields, columns["instruction"]), _optional(fields, columns.get("input"))]
        prompt = "\n".join(part for part in parts if part)
        if _empty(prompt):
            raise RowError(f"empty text: {columns['instruction']!r}")
        completion = _said(fields, columns["output"], learned=True)
    else:
        prompt = _said(fields, columns["prompt"])
        completion = _said(fields, columns["completion"], learned=True)
    if "system" not in columns and "history" not in columns:
        return Pair(prompt, completion, {k: str(v) for k, v in fields.items() if isinstance(v, str)})
    system = _optional(fields, columns.get("system"))
    turns = [Message("system", system, 0.0)] if system else []
    for past in _history(fields, columns.get("history")):
        turns += [Message("user", past[0], 0.0), Message("assistant", past[1], 1.0)]
    return Conversation((*turns, Message("user", prompt, 0.0), Message("assistant", completion, 1.0)), None)


def _history(fields: Mapping[str, Any], column: str | None) -> list[list[str]]:
    history = fields.get(column) if column else None
    if not history:
        return []
    if not isinstance(history, list) or not all(
        isinstance(past, list) and len(past) == 2 and all(isinstance(text, str) and text for text in past)
        for past in history
    ):
        raise RowError(f"not a history: {column!r} is not a list of [prompt, answer]")
    return history


def _conversation(fields: Mapping[str, Any], columns: Mapping[str, str]) -> Conversation:
    column = columns["messages"]
    value = _present(fields, column)
    if not isinstance(value, list):
        raise RowError(f"not a list: {column!r} is {kind_of(value)}")
    messages = [_message(item, number) for number, item in enumerate(value, 1)]
    if system := _optional(fields, columns.get("system")):
        if messages and messages[0].role == "system":
            raise RowError(f"two system texts: in {columns['system']!r} and in message 1")
        messages.insert(0, Message("system", system, 0.0))
    if not any(m.role == "assistant" for m in messages):
        raise RowError("nothing to learn: no assistant message")
    if not any(m.weight for m in messages):
        raise RowError("nothing to learn: every message has weight 0")
    tools = fields.get(columns["tools"]) if "tools" in columns else None
    return Conversation(tuple(messages), (tools if isinstance(tools, str) else to_json(tools)) if tools else None)


def _message(item: Any, number: int) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"not a message: message {number} is {kind_of(item)}")
    given = item.get("role", item.get("from"))
    if given is None:
        raise RowError(f"no role: message {number}")
    role = _ROLES.get(given) if isinstance(given, str) else None
    if role is None:
        raise RowError(f"unknown role: {excerpt(str(given), 40)!r} in message {number}")
    weight = _weight(item, 1.0 if role == "assistant" else 0.0, number)
    text = _content(item, number)
    if _empty(text) and (role == "user" or weight):
        raise RowError(f"empty text: message {number} ({role})")
    return Message(role, text, weight)


def _content(item: Mapping[str, Any], number: int) -> str:
    """A message's text; tool calls follow it as JSON, and a call given as an object is its JSON."""
    content, calls = item.get("content", item.get("value")), item.get("tool_calls")
    if isinstance(content, list):
        text = "".join(_part(part, number) for part in content)
    elif isinstance(content, dict) and "function_call" in (item.get("role"), item.get("from")):
        text = to_json(content)
    elif content is None and calls:
        text = ""
    elif content is None:
        raise RowError(f"no text: message {number}")
    elif isinstance(content, str):
        text = str(content)
    else:
        raise RowError(f"not text: message {number} is {kind_of(content)}")
    if calls:
        text += ("\n" if text else "") + (calls if isinstance(calls, str) else to_json(calls))
    return text


def _part(part: Any, number: int) -> str:
    """The text of a typed part, {"type": "text", "text" or "value": ...}."""
    if not isinstance(part, dict):
        raise RowError(f"not text: message {number} has a part that is {kind_of(part)}")
    if part.get("type") != "text":
        raise RowError(f"not text: message {number} has a part of type {excerpt(str(part.get('type')), 40)!r}")
    text = part.get("text") if part.get("text") is not None else part.get("value")
    if not isinstance(text, str):
        raise RowError(f"not text: message {number} has a text part without text")
    return str(text)


def _weight(item: Mapping[str, Any], default: float, number: int) -> float:
    given = {key: item[key] for key in ("weight", "loss_weight") if item.get(key) is not None}
    weights: set[float] = set()
    for key, value in given.items():
        if not isinstance(value, Literal | int | float) or isinstance(value, bool):
            raise RowError(f"weight is not a number: {key} of message {number} is {kind_of(value)}")
        weights.add(float(value))
    if len(weights) > 1:
        raise RowError(f"two weights: weight and loss_weight of message {number} differ")
    weight = weights.pop() if weights else default
    if not (math.isfinite(weight) and weight >= 0):
        raise RowError(f"weight is not a number from 0 up: message {number} has {weight}")
    return weight


def _said(fields: Mapping[str, Any], column: str, learned: bool = False) -> str:
    text = _text(fields, column)
    if _empty(text):
        raise RowError(f"nothing to learn: {column!r} is empty" if learned else f"empty text: {column!r}")
    return text


def _optional(fields: Mapping[str, Any], column: str | None) -> str:
    return "" if column is None or fields.get(column) is None else _text(fields, column)


def _text(fields: Mapping[str, Any], column: str) -> str:
    value = _present(fields, column)
    if not isinstance(value, str):
        raise RowError(f"not text: {column!r} is {kind_of(value)}")
    return str(value)  # a Literal becomes a plain str


def _present(fields: Mapping[str, Any], column: str) -> Any:
    if column not in fields:
        raise RowError(f"missing column: {column!r}")
    if fields[column] is None:
        raise RowError(f"null: {column!r}")
    return fields[column]


def _empty(text: str) -> bool:
    return not text or text.isspace()
