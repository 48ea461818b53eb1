"""Rows to text: what is learned from is told exactly, and a prompt is rendered in one way only."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.rows.shapes import Conversation, Document, Message, Pair, RowError
from engine.tables import DataTable
from engine.tokens import prompts
from engine.tokens.examples import Encoder, Segment
from engine.tokens.prompts import Template, template_for
from tests.engine import tokenisers
from tests.engine.tokenisers import BOS, EOS, IM_END, IM_START

CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}"
    "{% set content = '<|im_start|>' + m['role'] + '\\n\\n' + m['content'] | trim + '<|im_end|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for m in loop_messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|im_start|>' + role + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
)
MISTRAL = (  # the system text stands in the last user message
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set talk = messages[1:] %}"
    "{% else %}{% set talk = messages %}{% endif %}"
    "{% set users = talk | selectattr('role', 'equalto', 'user') | list %}"
    "{{ bos_token }}{% for m in talk %}{% if m['role'] == 'user' %}{% if m == users[-1] and system is defined %}"
    "{{ '[INST] ' + system + '\\n\\n' + m['content'] + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + m['content'] + '[/INST]' }}{% endif %}{% else %}"
    "{% if not m['content'] %}{{ raise_exception('no content') }}{% endif %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
)
THINKS = (  # as Qwen3: an empty thought before the last answer
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\\n\\n</think>\\n\\n' + m['content'].lstrip('\\n') }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
)
STOPLESS = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
FAMILIES = {
    "chatml": CHATML, "llama3": LLAMA3, "llama2": LLAMA2, "gemma": GEMMA, "mistral": MISTRAL,
    "generation": GENERATION, "thinks": THINKS, "stopless": STOPLESS,
}  # fmt: skip


def template(chat: str | None, kind: str = "byte-level", **data: Any) -> Template:
    return template_for(DataTable(**data), tokenisers.make(kind, chat_template=chat))


@pytest.fixture(scope="module")
def families() -> dict[str, Template]:
    return {name: template(chat) for name, chat in FAMILIES.items()}


def talk(*turns: tuple[str, str] | tuple[str, str, float]) -> Conversation:
    return Conversation(
        tuple(Message(t[0], t[1], t[2] if len(t) == 3 else float(t[0] == "assistant")) for t in turns), None
    )


def whole(segments: list[Segment]) -> str:
    return "".join(s.text for s in segments)


def learned(segments: list[Segment]) -> list[tuple[str, float]]:
    """Supervised stretches with their weight."""
    stretches = itertools.groupby((s for s in segments if s.text), key=lambda s: s.weight)
    return [(whole(list(stretch)), weight) for weight, stretch in stretches if weight > 0]


TWO = talk(("user", "one"), ("assistant", "1"), ("user", "two"), ("assistant", "2"))


# --- chat templates


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("chatml", [f"1{IM_END}", f"2{IM_END}"]),
        ("llama3", [f"1{IM_END}", f"2{IM_END}"]),
        ("llama2", [f" 1 {EOS}", f" 2 {EOS}"]),
        ("gemma", [f"1{IM_END}", f"2{IM_END}"]),
        ("mistral", [f" 1{EOS}", f" 2{EOS}"]),
        ("generation", [f"1{IM_END}", f"2{IM_END}"]),
        ("thinks", [f"1{IM_END}", f"2{IM_END}"]),
        ("stopless", [" 1", f" 2\n{EOS}"]),
    ],
)
def test_answers_and_their_ends_are_learned(families: dict[str, Template], family: str, expected: list[str]) -> None:
    """Every answer, its stop token, the space that begins it, and nothing else; the text is the template's own."""
    segments = families[family].render(TWO)
    assert learned(segments) == [(text, 1.0) for text in expected]
    messages = [{"role": m.role, "content": m.text} for m in TWO.messages]
    own = families[family].tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole(segments) == own + (EOS if family == "stopless" else "")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stop_token_is_learned_as_a_token(families: dict[str, Template], family: str) -> None:
    template = families[family]
    assert template.stop == (EOS if family in ("llama2", "mistral", "stopless") else IM_END)
    encoder = Encoder(template.tokenizer)
    ids, weights = encoder.encode(template.render(TWO))
    stop = template.tokenizer.convert_tokens_to_ids(template.stop)
    answers = 1 if family == "stopless" else 2
    assert [w for i, w in zip(ids, weights, strict=True) if i == stop].count(1.0) == answers


def test_weights_of_messages_are_kept(families: dict[str, Template]) -> None:
    row = talk(("user", "a"), ("assistant", "b", 0.0), ("user", "c", 0.5), ("assistant", "d", 2.0), ("user", "e"))
    assert learned(families["chatml"].render(row)) == [(f"c{IM_END}", 0.5), (f"d{IM_END}", 2.0)]


def test_a_system_text_of_the_project_is_for_rows_without_one() -> None:
    made = template(CHATML, system="Be short.")
    assert whole(made.render(Pair("q", "a", {}))).startswith(f"{IM_START}system\nBe short.{IM_END}\n{IM_START}user\nq")
    own = talk(("system", "Be long."), ("user", "q"), ("assistant", "a"))
    assert "Be short." not in whole(made.render(own))
    assert "Be long." in whole(made.render(own))


def test_texts_out_of_order_are_found(families: dict[str, Template]) -> None:
    segments = families["mistral"].render(talk(("system", "S"), *((m.role, m.text) for m in TWO.messages)))
    assert whole(segments) == f"{BOS}[INST] one[/INST] 1{EOS}[INST] S\n\ntwo[/INST] 2{EOS}"
    assert learned(segments) == [(f" 1{EOS}", 1.0), (f" 2{EOS}", 1.0)]


@pytest.mark.parametrize(
    ("chat", "row", "reason"),
    [
        (GEMMA, talk(("system", "s"), ("user", "a"), ("assistant", "b")), "refuses this row: System role"),
        (LLAMA2, talk(("user", "a"), ("user", "b"), ("assistant", "c")), "refuses this row: Conversation roles must"),
        ("{{ messages[0]['content'] }}", TWO, "leaves a message out or says it twice"),
        ("{% for m in messages %}{{ m['content'] * 2 }}{% endfor %}", TWO, "leaves a message out or says it twice"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", TWO, "changes the messages' text"),
        ("{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
         talk(("user", "q"), ("assistant", "<think>x</think>y")), "changes the messages' text"),
        ("{{ messages[99].content.x }}", TWO, "refuses this row"),
    ],
)  # fmt: skip
def test_rows_that_a_template_cannot_say_are_refused(chat: str, row: Conversation, reason: str) -> None:
    tokenizer = tokenisers.make("byte-level", chat_template=chat)
    with pytest.raises(RowError, match=reason):
        Template("chat", tokenizer, "", "", None, EOS).render(row)


def test_a_template_that_drops_the_system_text_is_told() -> None:
    chat = (
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    )
    made = template(chat)
    assert learned(made.render(TWO))
    with pytest.raises(RowError, match="leaves a message out"):
        made.render(talk(("system", "s"), ("user", "a"), ("assistant", "b")))


NASTY = st.lists(
    st.sampled_from(
        ["a", "12", " ", "\n", "\n\n", "é", IM_END, IM_START, EOS, BOS, "{prompt}", "{{ x }}", "{% if %}", "{", "}}",
         "\ue0000\ue001", "\ue000", "\ue001", "assistant\n", "[/INST]", "\\n", "<<SYS>>"]
    ),
    max_size=6,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25)
@given(turns=st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=3))
def test_no_text_changes_what_is_learned(
    families: dict[str, Template], family: str, turns: list[tuple[str, str]]
) -> None:
    """Whatever is written in the messages: the template's own text, the answers learned, users' text never special."""
    template = families[family]
    assume(all(answer for _, answer in turns) or family != "mistral")
    messages = [m for q, a in turns for m in (Message("user", q, 0.0), Message("assistant", a, 1.0))]
    segments = template.render(Conversation(tuple(messages), None))
    own = template.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.text} for m in messages], tokenize=False
    )
    assert whole(segments) == own + (EOS if family == "stopless" else "")
    texts = [s for s in segments if s.raw]
    assert [s.text.strip() for s in texts] == [m.text.strip() for m in messages]
    assert [s.weight for s in texts] == [m.weight for m in messages]

    encoder = Encoder(template.tokenizer)
    harmless = [Segment("x" if s.raw else s.text, s.weight, s.raw) for s in segments]
    stop = template.tokenizer.convert_tokens_to_ids(template.stop)
    ids, weights = encoder.encode(segments)
    assert ids.count(stop) == encoder.encode(harmless)[0].count(stop)
    asked = template.prompt(turns[0][0])
    if len(turns) == 1:
        assert whole(segments).startswith(whole(asked))
        assert ids[: len(encoder.prompt(asked))] == encoder.prompt(asked)
        assert not any(weights[: len(encoder.prompt(asked))])
        assert asked == segments[: len(asked)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_the_beginning_of_its_row(families: dict[str, Template], family: str) -> None:
    template = families[family]
    asked = template.prompt(" What is 12 + 30? ")
    assert not any(s.weight for s in asked)
    assert "What is 12 + 30?" in whole(asked)
    assert not whole(asked).endswith(" ")  # the space belongs to the answer, as tokens begin with theirs
    row = template.render(Pair(" What is 12 + 30? ", "42", {}))
    assert row[: len(asked)] == asked


def test_a_prompt_that_cannot_be_rendered_is_the_users_mistake() -> None:
    made = Template("chat", tokenisers.make("byte-level", chat_template=GEMMA), "", "", "a system text", EOS)
    with pytest.raises(InputError, match="cannot be rendered: the chat template refuses this row: System role"):
        made.prompt("hello")
    with pytest.raises(InputError, match="asks for a column 'question'"):
        template(None, prompt_format="{question}").prompt("hello")


def test_tools_are_given_to_the_template() -> None:
    chat = (
        "{{ tools[0]['name'] if tools else '-' }}{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    made = template(chat)
    assert whole(made.render(Conversation(TWO.messages, '[{"name": "look_up"}]'))).startswith("look_up")
    assert whole(made.render(TWO)).startswith("-")
    with pytest.raises(RowError, match="refuses this row"):
        made.render(Conversation(TWO.messages, "not json"))
    with_tools = Conversation(TWO.messages, '[{"name": "look_up"}]')
    assert made.shows_tools(with_tools)
    plain = chat[chat.index("{% for") :]
    assert not template(plain).shows_tools(with_tools)
    needed = template("{% if messages | length > 2 and not tools %}{{ none[0]['x'] }}{% endif %}" + plain)
    assert needed.shows_tools(Conversation(TWO.messages * 2, with_tools.tools))


# --- format strings


def test_a_format_is_filled_once_and_nothing_in_it_is_interpreted() -> None:
    made = template(None, prompt_format="{{Q}} {prompt} [{topic}]\nA:", completion_format=" {completion}!")
    row = Pair("what is {topic}? {{x}}", "{prompt}", {"topic": "{completion}", "prompt": "another", "n": "7"})
    segments = made.render(row)
    assert whole(segments) == "{Q} what is {topic}? {{x}} [{completion}]\nA: {prompt}!" + EOS
    assert learned(segments) == [(" {prompt}!" + EOS, 1.0)]
    assert [s.text for s in segments if s.raw] == ["what is {topic}? {{x}}", "{completion}", "{prompt}"]


def test_special_tokens_of_a_format_are_tokens_and_those_of_a_row_are_text() -> None:
    made = template(None, prompt_format=f"{IM_START}{{prompt}}{IM_END}", completion_format="{completion}")
    encoder = Encoder(made.tokenizer)
    ids, _ = encoder.encode(made.render(Pair(f"a{IM_END}b", f"c{EOS}d", {})))
    count = {t: ids.count(made.tokenizer.convert_tokens_to_ids(t)) for t in (BOS, EOS, IM_START, IM_END)}
    assert count == {BOS: 1, EOS: 1, IM_START: 1, IM_END: 1}
    assert encoder.prompt(made.prompt(f"a{IM_END}b")) == ids[: len(encoder.prompt(made.prompt(f"a{IM_END}b")))]


def test_a_row_without_a_column_is_refused() -> None:
    with pytest.raises(RowError, match="asks for a column 'topic' that the row does not have"):
        template(None, prompt_format="{topic}").render(Pair("q", "a", {"other": "x"}))


def test_a_conversation_in_a_format_is_a_transcript_before_its_last_answer() -> None:
    made = template(None, template="format")
    assert whole(made.render(talk(("user", "q"), ("assistant", "a")))) == "Question: q\nAnswer: a" + EOS
    assert whole(made.render(TWO)) == f"Question: user: one\nassistant: 1\nuser: two\nAnswer: 2{EOS}"
    row = talk(("user", "q"), ("assistant", "learned"), ("user", "r"), ("assistant", "not learned", 0.0))
    assert whole(made.render(row)) == f"Question: q\nAnswer: learned{EOS}"
    with pytest.raises(RowError, match="no assistant message to learn from"):
        made.render(talk(("user", "q", 1.0)))


def test_documents_are_learned_whole(families: dict[str, Template]) -> None:
    for made in (families["chatml"], template(None)):
        assert made.render(Document("once\n")) == [Segment("once\n", 1.0, raw=True), Segment(EOS, 1.0)]


def test_a_tokenizer_without_an_end_has_no_stop() -> None:
    made = template_for(DataTable(), tokenisers.make("byte-level", eos_token=None))
    assert (made.kind, made.stop) == ("format", "")
    assert whole(made.render(Pair("q", "a", {}))) == "Question: q\nAnswer: a"
    assert whole(made.render(Document("text"))) == "text"
    chat = template_for(DataTable(), tokenisers.make("byte-level", eos_token=None, chat_template=STOPLESS))
    assert learned(chat.render(TWO)) == [(" 1", 1.0), (" 2\n", 1.0)]


# --- choosing


def test_the_template_that_a_project_asks_for() -> None:
    assert template(CHATML).kind == "chat"
    assert template(None).kind == "format"
    assert template(CHATML, template="format").kind == "format"
    with pytest.raises(InputError, match="has no chat template") as caught:
        template(None, template="chat")
    assert 'data.template = "format"' in (caught.value.remedy or "")
    with pytest.raises(InputError, match="does not work: the chat template refuses"):
        template("{{ raise_exception('never') }}")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{prompt", "expected '}' before end of string"),
        ("prompt}", "Single '}' encountered"),
        ("{}", ".*a column and nothing else"),
        ("{prompt:>9}", ".*a column and nothing else"),
        ("{prompt!r}", ".*a column and nothing else"),
    ],
)
@pytest.mark.parametrize("name", ["prompt_format", "completion_format"])
def test_malformed_formats_are_told(name: str, pattern: str, said: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{name}: {said}") as caught:
        template(None, **{name: pattern})
    assert caught.value.remedy


def test_the_stop_is_the_longest_token_that_ends_an_answer() -> None:
    from tokenizers import AddedToken

    tokenizer = tokenisers.make(
        "byte-level", chat_template="{% for m in messages %}{{ m.content + '<end><' }}{% endfor %}"
    )
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<e", "<end>", "<")])
    assert prompts.stop_text(tokenizer, "chat") == "<end>"
    assert prompts.stop_text(tokenizer, "format") == EOS


def test_a_fingerprint_changes_with_whatever_changes_the_text() -> None:
    made = [
        template(CHATML), template(LLAMA3), template(CHATML, system="s"), template(None),
        template(None, prompt_format="{prompt}"), template(None, completion_format="{completion}"),
        template(None, template="format"),
        template_for(DataTable(), tokenisers.make("byte-level", chat_template=LLAMA3, bos_token=IM_START)),
    ]  # fmt: skip
    prints = [t.fingerprint() for t in made]
    assert len(set(prints)) == len(prints) - 1  # "format" asked for, and found, is the same
    assert template(CHATML).fingerprint() == prints[0]
