"""Which shape rows have, how the project file settles it, and what a row in its shape says, word for word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows.detect import detect
from engine.rows.formats import Row
from engine.rows.jsonrows import Literal
from engine.rows.shapes import SHAPES, Conversation, Document, Message, Pair, RowError, Shape, convert

SAID = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


def table(*fields: dict[str, Any]) -> list[Row]:
    return [Row(f, f"a.jsonl:{n}", n - 1) for n, f in enumerate(fields, 1)]


def described(*fields: dict[str, Any], shape: str = "auto", columns: Mapping[str, str | None] | None = None) -> str:
    return detect(table(*fields), shape=shape, columns=columns).describe()


def as_item(fields: dict[str, Any], shape: str = "auto", columns: Mapping[str, str | None] | None = None) -> Any:
    (row,) = table(fields)
    return convert(row, detect([row], shape=shape, columns=columns))


def texts(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "x")


# --- detection


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": SAID}, "messages: messages"),
        ({"conversations": SAID}, "messages: conversations"),
        ({"dialogue": SAID, "id": "x"}, "messages: dialogue"),
        ({"messages": SAID, "system": "s", "tools": "[]"}, "messages: messages (system: system, tools: tools)"),
        ({"conversations": [{"from": "human", "value": "u"}]}, "sharegpt: conversations"),
        ({"messages": [{"from": "human", "value": "u"}]}, "sharegpt: messages"),
        ({"messages": None}, "messages: messages"),
        ({"conversations": "broken"}, "sharegpt: conversations"),
        (texts("instruction", "input", "output"), "alpaca: instruction + input -> output"),
        (texts("instruction", "input", "output", "text"), "alpaca: instruction + input -> output"),
        (texts("instruction", "output", "system"), "alpaca: instruction -> output (system: system)"),
        (texts("instruction", "context", "response", "category"), "alpaca: instruction + context -> response"),
        (texts("instruction", "response"), "prompt_completion: instruction -> response"),
        (texts("prompt", "completion"), "prompt_completion: prompt -> completion"),
        (texts("question", "answer", "id"), "prompt_completion: question -> answer"),
        (texts("Question", "Answer"), "prompt_completion: Question -> Answer"),
        (texts("input", "output"), "prompt_completion: input -> output"),
        (texts("query", "response", "text"), "prompt_completion: query -> response"),
        (
            texts("system_prompt", "question", "response"),
            "prompt_completion: question -> response (system: system_prompt)",
        ),
        (texts("text", "url"), "text: text"),
        (texts("content"), "text: content"),
    ],
)
def test_shapes_are_detected(fields: dict[str, Any], expected: str) -> None:
    assert described(fields) == expected


def test_a_few_odd_rows_do_not_decide() -> None:
    usual = [texts("question", "answer")] * 8
    assert described(*usual, {"messages": SAID}, texts("prompt")) == "prompt_completion: question -> answer"


def test_only_a_sample_is_looked_at() -> None:
    assert described(*[texts("text")] * 100, *[texts("prompt", "completion")] * 1000) == "text: text"


@pytest.mark.parametrize(
    ("fields", "shape", "columns", "expected"),
    [
        (texts("a", "b"), "auto", {"prompt_column": "b", "completion_column": "a"}, "prompt_completion: b -> a"),
        (texts("a", "answer"), "auto", {"prompt": "a", "completion": None}, "prompt_completion: a -> answer"),
        (
            texts("problem", "answer", "solution"),
            "auto",
            {"completion": "answer"},
            "prompt_completion: problem -> answer",
        ),
        (
            texts("instruction", "input", "output"),
            "prompt_completion",
            {"prompt": "input"},
            "prompt_completion: input -> output",
        ),
        (texts("ask", "say"), "alpaca", {"prompt": "ask", "completion": "say"}, "alpaca: ask -> say"),
        (texts("prompt", "completion"), "text", {"text": "completion"}, "text: completion"),
        (texts("prompt", "completion", "text"), "text", {}, "text: text"),
        (texts("body", "prompt"), "auto", {"text": "body"}, "text: body"),
        ({"chosen": SAID, "rejected": SAID}, "auto", {"messages": "chosen"}, "messages: chosen"),
        ({"log": [{"from": "human"}], "text": "x"}, "auto", {"messages": "log"}, "sharegpt: log"),
        (
            texts("q", "answer", "who"),
            "auto",
            {"prompt": "q", "system": "who"},
            "prompt_completion: q -> answer (system: who)",
        ),
    ],
)
def test_the_project_file_settles_it(
    fields: dict[str, Any], shape: str, columns: dict[str, str | None], expected: str
) -> None:
    assert described(fields, shape=shape, columns=columns) == expected


@pytest.mark.parametrize(
    ("fields", "shape", "columns", "said"),
    [
        (
            texts("problem", "answer", "solution"),
            "auto",
            {},
            ["completion could be answer or solution", "data.completion_column"],
        ),
        ({"chosen": SAID, "rejected": SAID}, "auto", {}, ["chosen, rejected", "data.messages_column"]),
        (
            texts("promt", "completion"),
            "auto",
            {},
            ['perhaps data.prompt_column = "promt"', "columns: promt, completion"],
        ),
        (
            texts("customer", "agent"),
            "auto",
            {},
            ['data.prompt_column = "customer" and data.completion_column = "agent"'],
        ),
        (texts("review"), "auto", {}, ['perhaps data.text_column = "review"', "data.shape"]),
        (texts("text", "content"), "auto", {}, ["several columns hold text: text, content", "data.text_column"]),
        (
            texts("question", "answer"),
            "auto",
            {"prompt": "qestion"},
            ["data.prompt_column", "did you mean 'question'?"],
        ),
        (texts("question", "answer"), "message", {}, ["no shape 'message'", "did you mean 'messages'?"]),
        (texts("question", "answer"), "messages", {}, ["do not have the shape messages", "data.messages_column"]),
        (
            texts("text", "who"),
            "auto",
            {"text": "text", "system": "who"},
            ["data.system_column cannot be used with the shape text"],
        ),
        ({}, "auto", {}, ["columns: none"]),
    ],
)
def test_what_is_not_clear_is_asked(
    fields: dict[str, Any], shape: str, columns: dict[str, str], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        described(fields, shape=shape, columns=columns)
    assert caught.value.where == "a.jsonl:1"
    for piece in said:
        assert piece in str(caught.value)


def test_column_names_are_shown_without_control_codes() -> None:
    shape = Shape("text", {"text": "te\x1b[31mxt"})
    assert shape.describe() == "text: te\\x1b[31mxt"


# --- conversion


def test_pairs_keep_every_character() -> None:
    item = as_item(
        {"question": "  q\r\n", "answer": Literal("7.50"), "id": Literal("007"), "tags": ["x"], "seen": True}
    )
    assert item == Pair("  q\r\n", "7.50", {"question": "  q\r\n", "answer": "7.50", "id": "007"})
    assert type(item.completion) is str


def test_alpaca_joins_instruction_and_input() -> None:
    fields = {"instruction": "Add.", "input": " 1 2", "output": "3"}
    assert as_item(fields) == Pair("Add.\n 1 2", "3", fields)
    assert as_item({**fields, "input": ""}).prompt == "Add."
    assert as_item({**fields, "input": None}).prompt == "Add."
    assert as_item({**fields, "instruction": ""}).prompt == " 1 2"


def test_system_and_history_make_a_conversation() -> None:
    fields = {"instruction": "i", "output": "o", "system": "s", "history": [["q1", "a1"], ["q2", "a2"]]}
    assert as_item(fields) == Conversation(
        (
            Message("system", "s", 0.0),
            Message("user", "q1", 0.0),
            Message("assistant", "a1", 1.0),
            Message("user", "q2", 0.0),
            Message("assistant", "a2", 1.0),
            Message("user", "i", 0.0),
            Message("assistant", "o", 1.0),
        ),
        None,
    )
    bare = as_item({**fields, "system": "", "history": None})
    assert [m.role for m in bare.messages] == ["user", "assistant"]


def test_chat_messages_with_parts_weights_and_tool_calls() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": Literal("1.50")}}}
    messages = [
        {"role": "system", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "value": "b"}], "name": "Bob"},
        {"role": "assistant", "content": None, "tool_calls": [call], "loss_weight": Literal("0")},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "done ", "weight": Literal("0.5"), "tool_calls": None, "loss_weight": None},
        {"role": "user", "content": "more", "weight": 2},
    ]
    assert as_item({"messages": messages}).messages == (
        Message("system", "", 0.0),
        Message("user", "a b", 0.0),
        Message("assistant", '[{"type": "function", "function": {"name": "f", "arguments": {"x": 1.50}}}]', 0.0),
        Message("tool", "", 0.0),
        Message("assistant", "done ", 0.5),
        Message("user", "more", 2.0),
    )


def test_text_before_tool_calls_is_kept() -> None:
    said = {"role": "assistant", "content": "Wait.", "tool_calls": '{"name":"f"}'}
    assert as_item({"messages": [said]}).messages[0].text == 'Wait.\n{"name":"f"}'


def test_sharegpt_with_calls_observations_system_and_tools() -> None:
    said = [
        {"from": "human", "value": "u"},
        {"from": "function_call", "value": '{"name":  "f"}'},
        {"from": "observation", "value": "7"},
        {"from": "gpt", "value": "a"},
    ]
    tools = [{"name": "f", "n": Literal("1.0")}]
    item = as_item({"conversations": said, "system": "s", "tools": tools})
    assert [(m.role, m.text, m.weight) for m in item.messages] == [
        ("system", "s", 0.0),
        ("user", "u", 0.0),
        ("assistant", '{"name":  "f"}', 1.0),
        ("tool", "7", 0.0),
        ("assistant", "a", 1.0),
    ]
    assert item.tools == '[{"name": "f", "n": 1.0}]'
    assert as_item({"conversations": said, "tools": ' [{"as": "given"}]'}).tools == ' [{"as": "given"}]'
    assert as_item({"conversations": said, "tools": ""}).tools is None
    said[1] = {"from": "function_call", "value": {"name": "f"}}
    assert as_item({"conversations": said}).messages[1].text == '{"name": "f"}'


def test_documents() -> None:
    assert as_item({"text": " a\n"}) == Document(" a\n")


def chat(*messages: Any) -> dict[str, Any]:
    return {"messages": [*messages]}


USER = {"role": "user", "content": "u"}
ANSWER = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"question": "q"}, "missing column: 'answer'"),
        ({"question": "q", "answer": None}, "null: 'answer'"),
        ({"question": "q", "answer": True}, "not text: 'answer' is a boolean"),
        ({"question": ["q"], "answer": "a"}, "not text: 'question' is a list"),
        ({"question": " \n", "answer": "a"}, "empty text: 'question'"),
        ({"question": "q", "answer": ""}, "nothing to learn: 'answer' is empty"),
        ({"text": ""}, "nothing to learn: 'text' is empty"),
        ({"instruction": "", "input": "", "output": "o"}, "empty text: 'instruction'"),
        (
            {"instruction": "i", "output": "o", "history": [["q"]]},
            "not a history: 'history' is not a list of [prompt, answer]",
        ),
        ({"messages": "hello"}, "not a list: 'messages' is text"),
        (chat(), "nothing to learn: no assistant message"),
        (chat(USER), "nothing to learn: no assistant message"),
        (chat(USER, {**ANSWER, "weight": 0}), "nothing to learn: every message has weight 0"),
        (chat("hello"), "not a message: message 1 is text"),
        (chat({"content": "x"}), "no role: message 1"),
        (chat({"role": "narrator", "content": "x"}), "unknown role: 'narrator' in message 1"),
        (chat({"role": ["user"], "content": "x"}), "unknown role: \"['user']\" in message 1"),
        (chat(USER, {"role": "assistant"}), "no text: message 2"),
        (chat(USER, {"role": "assistant", "content": 7}), "not text: message 2 is of type int"),
        (chat(USER, {"role": "assistant", "content": "  "}), "empty text: message 2 (assistant)"),
        (chat({"role": "user", "content": ""}, ANSWER), "empty text: message 1 (user)"),
        (
            chat({"role": "user", "content": [{"type": "image_url"}]}),
            "not text: message 1 has a part of type 'image_url'",
        ),
        (chat({"role": "user", "content": ["x"]}), "not text: message 1 has a part that is text"),
        (chat({"role": "user", "content": [{"type": "text"}]}), "not text: message 1 has a text part without text"),
        (chat({**ANSWER, "weight": "1"}), "weight is not a number: weight of message 1 is text"),
        (chat({**ANSWER, "loss_weight": True}), "weight is not a number: loss_weight of message 1 is a boolean"),
        (chat({**ANSWER, "weight": Literal("-1")}), "weight is not a number from 0 up: message 1 has -1.0"),
        (chat({**ANSWER, "weight": Literal("NaN")}), "weight is not a number from 0 up: message 1 has nan"),
        (chat({**ANSWER, "weight": 1, "loss_weight": 2}), "two weights: weight and loss_weight of message 1 differ"),
        (
            {"messages": [{"role": "system", "content": "s"}, ANSWER], "system": "t"},
            "two system texts: in 'system' and in message 1",
        ),
    ],
)
def test_what_cannot_be_used_says_why(fields: dict[str, Any], reason: str) -> None:
    shape = detect(table({"question": "q", "answer": "a"})) if "question" in fields else detect(table(fields))
    with pytest.raises(RowError) as caught:
        convert(table(fields)[0], shape)
    assert caught.value.reason == str(caught.value) == reason


anything = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.integers().map(lambda n: Literal(n)) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "from", "content", "value", "weight", "tool_calls", "type", "text"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
columns = st.sampled_from(
    ["messages", "prompt", "completion", "instruction", "output", "text", "system", "tools", "history"]
)


@given(st.dictionaries(columns, anything), st.sampled_from(SHAPES))
def test_any_row_is_converted_or_refused(fields: dict[str, Any], name: str) -> None:
    parts = {
        "messages": {"messages": "messages", "system": "system", "tools": "tools"},
        "alpaca": {"instruction": "instruction", "output": "output", "system": "system", "history": "history"},
        "prompt_completion": {"prompt": "prompt", "completion": "completion"},
        "text": {"text": "text"},
    }
    try:
        item = convert(Row(fields, "a:1", 0), Shape(name, parts["messages" if name == "sharegpt" else name]))
    except RowError:
        return
    if isinstance(item, Conversation):
        assert any(m.role == "assistant" for m in item.messages) and any(m.weight > 0 for m in item.messages)
    else:
        assert (item.text if isinstance(item, Document) else item.prompt and item.completion).strip()
