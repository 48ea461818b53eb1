"""A row -> the text that the model sees, in pieces that say what is supervised.

By the tokenizer's chat template, or by two format strings. The prompt that is generated from is the very beginning of
the text that is trained on, cut where the answer starts: there is no second way to render a prompt.

Comes from `shapes` (Conversation, Pair, Document). Goes to `examples.Encoder`. No torch, no transformers: the tokenizer
is handed in.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.errors import InputError
from engine.rows.shapes import Conversation, Document, Message, Pair, RowError
from engine.tables import DataTable
from engine.tokens.examples import Segment

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
        special = sorted(self.tokenizer.special_tokens_map.items())  # a chat template writes them by name
        return repr((self.kind, chat, special, self.prompt_format, self.completion_format, self.system, self.stop))

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
        prompt, completion = fill(self.prompt_format, values, 0.0), fill(self.completion_format, values, 1.0)
        return [*prompt, *completion, Segment(self._eos, 1.0)]

    def shows_tools(self, conversation: Conversation) -> bool:
        """Whether the model sees the tools that a row defines: many templates have no place for them."""
        try:
            return self.render(conversation) != self.render(replace(conversation, tools=None))
        except RowError:  # it refuses a row without tools, so it looks at them
            return True

    def prompt(self, prompt: str) -> list[Segment]:
        """A prompt typed by a person, as the beginning of a row with that prompt.

        Raises:
            InputError: the template asks for more than a prompt, or refuses this one.
        """
        return self.conversation([Message("user", prompt, 0.0)])

    def conversation(self, messages: Sequence[Message]) -> list[Segment]:
        """Turns typed by a person, as the beginning of a row in which the assistant answers them.

        Raises:
            InputError: the template refuses them; format strings have no turns but one of the user's.
        """
        if not messages or messages[-1].role != "user":
            raise InputError("a conversation ends with a message of the user's, or there is nothing to answer")
        try:
            if self.kind == "format":
                if [m.role for m in messages] != ["user"]:
                    remedy = 'ask without history, or set data.template = "chat"'
                    raise InputError("this project's format strings know one prompt and no turns", remedy=remedy)
                return fill(self.prompt_format, {"prompt": messages[0].text}, 0.0)
            system = [Message("system", self.system, 0.0)] if self.system and messages[0].role != "system" else []
            told = [Message(m.role, m.text, 0.0) for m in messages]
            answer = Message("assistant", "x", 1.0)  # some templates refuse an empty one
            segments = self._chat(Conversation((*system, *told, answer), None))
        except RowError as error:
            raise InputError(f"this prompt cannot be rendered: {error}") from error
        return list(itertools.takewhile(lambda s: s.weight == 0, segments))

    @property
    def _eos(self) -> str:
        return self.tokenizer.eos_token or ""

    def _chat(self, conversation: Conversation) -> list[Segment]:
        """Render with a marker in place of each message's text, then put the texts back: exact places, no guesswork."""
        messages = conversation.messages
        marked = [Message(m.role, _marker(i), m.weight) for i, m in enumerate(messages)]
        around, order = _around(self._apply(marked, conversation.tools))
        if sorted(order) != list(range(len(messages))):
            raise RowError("the chat template leaves a message out or says it twice")
        told = [messages[i] for i in order]
        texts = _texts(self._apply(messages, conversation.tools), around, [m.text for m in told])
        if texts is None:
            raise RowError("the chat template changes the messages' text, so what is learned from cannot be told apart")
        return self._weigh(around, texts, [m.weight for m in told])

    def _weigh(self, around: list[str], texts: list[str], weights: list[float]) -> list[Segment]:
        """around[0] texts[0] around[1] ... texts[-1] around[-1], with what is learned from of each piece."""
        segments: list[Segment] = []
        pending = 0.0  # weight of the message before
        for number, piece in enumerate(around):
            last = number == len(texts)
            if pending > 0:
                ending, piece = self._ending(piece, last)
                segments.append(Segment(ending, pending))
            pending = 0.0 if last else weights[number]
            body = piece.rstrip(" ") if pending > 0 else piece  # "[/INST] " + "42": tokens begin with their space
            segments.append(Segment(body))
            if not last:
                segments += [Segment(piece[len(body) :], pending), Segment(texts[number], pending, raw=True)]
        return segments

    def _ending(self, after: str, last: bool) -> tuple[str, str]:
        """What follows a learned message, as (learned, not learned): its end is, or the model would never stop."""
        at = after.find(self.stop) if self.stop else -1
        if at >= 0:
            return after[: at + len(self.stop)], after[at + len(self.stop) :]
        return (after + self.stop, "") if last else ("", after)

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


def _around(text: str) -> tuple[list[str], list[int]]:
    """Split at the markers: the pieces around them, and their numbers in the order in which they stand."""
    pieces = re.split("\ue000(\\d+)\ue001", text)
    return pieces[::2], [int(number) for number in pieces[1::2]]


def _texts(rendered: str, around: list[str], given: list[str]) -> list[str] | None:
    """What `rendered` has between the pieces `around` of the texts `given`: they, or they without white space around.

    None where it has something else.
    """
    if not rendered.startswith(around[0]):
        return None
    texts, at = [], len(around[0])
    for text, after in zip(given, around[1:], strict=True):
        lines = (text.strip("\n"), text.lstrip("\n"), text.rstrip("\n"))
        for candidate in (text, text.rstrip(), text.lstrip(), text.strip(), *lines):
            if rendered.startswith(candidate + after, at):
                texts.append(candidate)
                at += len(candidate) + len(after)
                break
        else:
            return None
    return texts if at == len(rendered) else None


def as_conversation(item: Conversation | Pair, system: str | None) -> Conversation:
    """A pair as two messages; `system` in front where the row has no system message of its own."""
    if isinstance(item, Pair):
        item = Conversation((Message("user", item.prompt, 0.0), Message("assistant", item.completion, 1.0)), None)
    if system and (not item.messages or item.messages[0].role != "system"):
        return Conversation((Message("system", system, 0.0), *item.messages), item.tools)
    return item


def as_pair(conversation: Conversation) -> Pair:
    """The last assistant message to learn from as completion, what comes before it as a transcript."""
    messages = conversation.messages
    last = max((i for i, m in enumerate(messages) if m.role == "assistant" and m.weight > 0), default=-1)
    if last < 0:
        raise RowError("no assistant message to learn from")
    before = messages[:last]
    prompt = before[0].text if len(before) == 1 else "\n".join(f"{m.role}: {m.text}" for m in before)
    return Pair(prompt, messages[last].text, {})


def fill(pattern: str, values: Mapping[str, str], weight: float) -> list[Segment]:
    """The pattern with each `{name}` replaced by the row's text, once, nothing in that text interpreted.

    Raises:
        RowError: a name that the row does not have.
    """
    segments: list[Segment] = []
    for literal, name, _, _ in string.Formatter().parse(pattern):
        segments.append(Segment(literal, weight))
        if name is not None:
            if name not in values:
                raise RowError(f"the format string asks for a column {name!r} that the row does not have")
            segments.append(Segment(values[name], weight, raw=True))
    return segments


def stop_text(tokenizer: Any, kind: str) -> str:
    """The token that ends an answer: what the chat template puts after one, else the EOS token."""
    if kind != "chat":
        return tokenizer.eos_token or ""
    plain = Template("chat", tokenizer, "", "", None, "")
    talk = (Message("user", "x", 0.0), Message("assistant", _marker(1), 1.0))
    tail = plain._apply(talk, None).partition(_marker(1))[2]
    found = [(tail.find(token), -len(token), token) for token in tokenizer.get_added_vocab() if token in tail]
    return min(found)[2] if found else tokenizer.eos_token or ""


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
            fields = [field for _, *field in string.Formatter().parse(getattr(data, name)) if field[0] is not None]
        except ValueError as error:
            raise InputError(f"data.{name}: {error}", remedy="write a literal brace as {{ or }}") from error
        if any(not column or spec or conversion for column, spec, conversion in fields):
            raise InputError(f"data.{name}: between braces stands a column and nothing else", remedy="write {column}")
    try:
        stop = stop_text(tokenizer, kind)
    except RowError as error:
        raise InputError(f"the tokenizer's chat template does not work: {error}") from error
    return Template(kind, tokenizer, data.prompt_format, data.completion_format, data.system, stop)
