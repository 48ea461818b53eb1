"""A row -> the text that the model sees, in pieces that say what is supervised.

By the tokenizer's chat template, or by two format strings. The prompt that is generated from is the very beginning of
the text that is trained on, cut where the answer starts: there is no second way to render a prompt.

Comes from `shapes` (Conversation, Pair, Document). Goes to `tokens.Encoder`. No torch, no transformers: the tokenizer
is handed in.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from engine.shapes import Conversation, Document, Message, Pair, RowError
from engine.tables import DataTable
from engine.tokens import Segment

Item = Conversation | Pair | Document


@dataclass(frozen=True, slots=True)
class Template:
    """How rows become text.

    Attributes:
        kind: "chat" (the tokenizer's template) or "format" (the format strings).
        stop: the text of the token that ends an answer, "" where the model has none.
    """

    kind: str
    tokenizer: Any
    prompt_format: str
    completion_format: str
    system: str | None
    stop: str

    def fingerprint(self) -> str:
        """Everything that the rendering depends on, as text."""
        chat = self.tokenizer.chat_template if self.kind == "chat" else ""
        return repr((self.kind, chat, self.prompt_format, self.completion_format, self.system, self.stop))

    def render(self, item: Item) -> list[Segment]:
        """The whole text of a row; what is to be learned has a weight.

        Raises:
            RowError: this row cannot be rendered (the reason is for the ledger).
        """
        if isinstance(item, Document):
            return [Segment(item.text, 1.0, raw=True), Segment(self._eos, 1.0)]
        if self.kind == "chat":
            return self._chat(as_conversation(item, self.system))
        if isinstance(item, Conversation):
            item = as_pair(item)
        values = {**item.fields, "prompt": item.prompt, "completion": item.completion}
        prompt, completion = fill(self.prompt_format, values), fill(self.completion_format, values)
        return [Segment(prompt, 0.0, raw=True), Segment(completion, 1.0, raw=True), Segment(self._eos, 1.0)]

    def prompt(self, prompt: str) -> list[Segment]:
        """A prompt typed by a person, as the beginning of a row with that prompt."""
        if self.kind == "format":
            return [Segment(fill(self.prompt_format, {"prompt": prompt}), 0.0, raw=True)]
        segments = self._chat(as_conversation(Pair(prompt, "", {}), self.system))
        return [s for s in segments[: next(i for i, s in enumerate(segments) if s.weight > 0)]]

    @property
    def _eos(self) -> str:
        return self.tokenizer.eos_token or ""

    def _chat(self, conversation: Conversation) -> list[Segment]:
        """Render with a marker in place of each message's text, then put the texts back: exact places, no guesswork."""
        messages = conversation.messages
        rendered = self._apply(messages, conversation.tools)
        for texts in ([m.text for m in messages], [m.text.strip() for m in messages]):
            marked = [Message(m.role, _marker(i), m.weight) for i, m in enumerate(messages)]
            with_markers = self._apply(marked, conversation.tools)
            pieces = _between(with_markers, len(messages))
            if pieces is None:
                break
            if "".join(p if isinstance(p, str) else texts[p] for p in pieces) == rendered:
                return self._weigh(pieces, texts, [m.weight for m in messages])
        raise RowError("the chat template changes the messages' text, so what is learned from cannot be told apart")

    def _weigh(self, pieces: list[str | int], texts: list[str], weights: list[float]) -> list[Segment]:
        segments: list[Segment] = []
        pending = 0.0
        for piece in pieces:
            if isinstance(piece, int):
                segments.append(Segment(texts[piece], weights[piece], raw=True))
                pending = weights[piece]
                continue
            end = piece.find(self.stop) + len(self.stop) if pending > 0 and self.stop and self.stop in piece else 0
            if end:  # the turn's end is learned too, or the model would never stop
                segments.append(Segment(piece[:end], pending))
            segments.append(Segment(piece[end:]))
            pending = 0.0
        if pending > 0:
            segments.append(Segment(self.stop or self._eos, pending))
        return segments

    def _apply(self, messages: tuple[Message, ...] | list[Message], tools: str | None) -> str:
        import json

        try:
            return self.tokenizer.apply_chat_template(
                [{"role": m.role, "content": m.text} for m in messages],
                tools=json.loads(tools) if tools else None,
                tokenize=False,
            )
        except Exception as error:  # a template is a program of the model's author and may raise anything
            raise RowError(f"the chat template refuses this row: {error}") from error


def _marker(index: int) -> str:
    return f"\ue000{index}\ue001"


def _between(text: str, how_many: int) -> list[str | int] | None:
    """Split at the markers 0, 1, ...: [text, 0, text, 1, ..., text]; None where one is missing or out of order."""
    pieces: list[str | int] = []
    for index in range(how_many):
        before, found, text = text.partition(_marker(index))
        if not found:
            return None
        pieces += [before, index]
    return [*pieces, text]


def as_conversation(item: Conversation | Pair, system: str | None) -> Conversation:
    """A pair as two messages; `system` in front where the row has no system message of its own."""
    if isinstance(item, Pair):
        item = Conversation((Message("user", item.prompt, 0.0), Message("assistant", item.completion, 1.0)), None)
    if system and (not item.messages or item.messages[0].role != "system"):
        return Conversation((Message("system", system, 0.0), *item.messages), item.tools)
    return item


def as_pair(conversation: Conversation) -> Pair:
    """The last assistant message as completion, what comes before it as a transcript."""
    messages = conversation.messages
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    if last < 0:
        raise RowError("no assistant message to learn from")
    before = messages[:last]
    if len(before) == 1:
        prompt = before[0].text
    else:
        prompt = "\n".join(f"{m.role}: {m.text}" for m in before)
    return Pair(prompt, messages[last].text, {})


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """`{name}` replaced by the row's text, once, nothing in that text interpreted.

    Raises:
        RowError: a name that the row does not have.
    """
    out: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(pattern):
        out.append(literal)
        if name is not None:
            if name not in values:
                raise RowError(f"the format string asks for a column {name!r} that the row does not have")
            out.append(values[name])
    return "".join(out)


def stop_text(tokenizer: Any, kind: str) -> str:
    """The token that ends an answer: what the chat template puts after one, else the EOS token."""
    if kind != "chat":
        return tokenizer.eos_token or ""
    plain = Template("chat", tokenizer, "", "", None, "")
    talk = (Message("user", "x", 0.0), Message("assistant", _marker(1), 1.0))
    tail = plain._apply(talk, None).partition(_marker(1))[2]
    found = [(tail.find(token), token) for token in tokenizer.get_added_vocab() if token in tail]
    return min(found)[1] if found else tokenizer.eos_token or ""


def template_for(data: DataTable, tokenizer: Any) -> Template:
    """The template that a project asks for.

    Raises:
        InputError: a chat template is asked for and the tokenizer has none, or a format string is malformed.
    """
    kind = data.template
    if kind == "auto":
        kind = "chat" if tokenizer.chat_template else "format"
    if kind == "chat" and not tokenizer.chat_template:
        raise InputError(
            'data.template = "chat", but this tokenizer has no chat template',
            remedy='use data.template = "format" with data.prompt_format and data.completion_format',
        )
    for name in ("prompt_format", "completion_format"):
        try:
            list(string.Formatter().parse(getattr(data, name)))
        except ValueError as error:
            raise InputError(f"data.{name}: {error}", remedy="write a literal brace as {{ or }}") from error
    try:
        stop = stop_text(tokenizer, kind)
    except RowError as error:
        raise InputError(f"the tokenizer's chat template does not work: {error}") from error
    return Template(kind, tokenizer, data.prompt_format, data.completion_format, data.system, stop)
