"""project.toml: documented, checked, and every mistake told at once where it stands."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tomli
import tomlkit
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from engine import spec
from engine.errors import InputError
from engine.places import key_places
from engine.spec import SpecError
from engine.tables import TABLES, Project

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
NAME = st.text("abcdefgh_0123", min_size=1, max_size=6)


def mistakes(text: str, *overrides: str) -> list[str]:
    """What is wrong, in order; nothing where it is right."""
    try:
        spec.parse(text, "p.toml", list(overrides))
    except SpecError as error:
        return [str(m) for m in error.mistakes]
    return []


# --- the definition


def test_an_empty_file_is_a_valid_project() -> None:
    assert spec.parse("") == Project()
    assert spec.parse("\n".join(f"[{table}]" for table in TABLES)) == Project()


def test_every_key_is_documented() -> None:
    for table, model in TABLES.items():
        assert (model.__doc__ or "").strip().endswith("."), table
        for name, field in model.model_fields.items():
            assert field.description, f"{table}.{name}"
            assert field.description.endswith((".", ").")), f"{table}.{name}"
            extra: Any = field.json_schema_extra
            assert set(extra) == {"unit", "why"} and extra["why"], f"{table}.{name}"
            assert not extra["why"].endswith("."), f"{table}.{name}"
            assert "\n" not in field.description


def test_types_are_said_in_words() -> None:
    said = {spec.type_name(f.annotation) for model in TABLES.values() for f in model.model_fields.values()}
    assert not [name for name in said if re.search(r"[<>\[\]]|class|typing|Annotated", name)]
    assert spec.type_name(int | None) == "whole number"
    assert spec.type_name(str | list[str]) == "text or list of text"
    assert spec.type_name(dict[str, int]) == "table of whole number"


def test_a_project_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Project().train.epochs = 3.0  # type: ignore[misc]


# --- round trips


def values_of(annotation: Any, field: Any) -> st.SearchStrategy[Any]:
    """Valid values of a key, by its type and limits."""
    limits = {k: v for m in field.metadata for k in ("ge", "gt", "le", "lt") if (v := getattr(m, k, None)) is not None}
    members = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return st.sampled_from(members)
    if type(None) in get_args(annotation):
        return values_of(members[0], field)
    if len(members) > 1 and get_origin(annotation) is not dict:
        return st.one_of(*(values_of(m, field) for m in members))
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low, high = limits.get("ge", 0), limits.get("le", 2**63 - 1)
        return st.integers(low, min(high, low + 50)) | st.integers(low, high)
    if annotation is float:
        low, high = limits.get("ge", limits.get("gt", 0.0)), limits.get("le", limits.get("lt", 1e300))
        inside = {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(low, high, **inside) | st.sampled_from([x for x in (1, 1e-8, 1e22) if low < x < high])
    return {str: TEXT}[annotation]


SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "model.base": st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    "data.train": st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
    "lora.target_modules": st.sampled_from(["all-linear", r".*\.(q|v)_proj"]) | st.lists(NAME, min_size=1, max_size=3),
    "lora.rank_pattern": st.dictionaries(NAME | st.just(r"^layers\.0\..*"), st.integers(1, 4096), max_size=3),
    "lora.alpha_pattern": st.dictionaries(NAME | st.just('a "b" c'), st.floats(1e-3, 1e6), max_size=3),
    "lora.modules_to_save": st.lists(TEXT, max_size=3),
    "train.betas": st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=2),
    "eval.answer_pattern": st.just("(a|b)"),
    "generate.stop": st.lists(TEXT, max_size=3),
    "generate.prompts": st.lists(TEXT, max_size=3),
    "launch.device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
}
EVERYTHING = st.fixed_dictionaries(
    {
        table: st.fixed_dictionaries(
            {},
            optional={
                name: SPECIAL[key] if (key := f"{table}.{name}") in SPECIAL else values_of(field.annotation, field)
                for name, field in model.model_fields.items()
            },
        )
        for table, model in TABLES.items()
    }
)


def agree(values: dict[str, dict[str, Any]]) -> bool:
    """Whether keys that are each valid do not contradict each other (which other tests look at)."""
    data, lora, train = (values[t] for t in ("data", "lora", "train"))
    special = lora.get("init", "default") not in ("default", "gaussian")
    divided = values["launch"].get("strategy") == "fsdp" and values["model"].get("quantization") == "int8"
    return not (
        divided
        or ("test" in data and data.get("test_fraction", 0) > 0)
        or special
        or (train.get("early_stopping") and not train.get("evaluate_every"))
        or (values["eval"].get("exact_match") == "regex" and "answer_pattern" not in values["eval"])
    )


@settings(max_examples=25)
@given(EVERYTHING)
def test_whatever_is_set_comes_back(values: dict[str, dict[str, Any]]) -> None:
    """From the file that `new` writes, from the copy that a run keeps, and from an ordinary TOML writer."""
    assume(agree(values))
    project = spec.parse(tomlkit.dumps(values))
    for table, keys in values.items():
        for name, value in keys.items():
            assert getattr(getattr(project, table), name) == value
    assert spec.parse(spec.dump(project)) == project
    assert spec.parse(spec.commented(values, "a heading\nof two lines")) == project


def test_the_commented_file_is_the_defaults_and_shows_every_key() -> None:
    text = spec.commented(heading="My project")
    assert text.startswith("# My project\n")
    assert spec.parse(text) == Project()
    unbroken = text.replace("\n#   ", " ")
    for table, model in TABLES.items():
        for name, field in model.model_fields.items():
            assert f"\n# {name}: {spec.explained(field)}" in unbroken
            assert re.search(rf"^# {name} =", text, re.MULTILINE), f"{table}.{name}"
    assert max(map(len, text.split("\n"))) <= 110


def test_a_key_is_explained_with_type_unit_limits_default_and_reason() -> None:
    said = spec.explained(TABLES["train"].model_fields["max_length"])
    assert said == (
        "Longest example. Whole number, in tokens, at least 8. Default 1024: enough for most instruction rows; `check` "
        "shows the lengths of yours."
    )
    assert spec.limits(TABLES["lora"].model_fields["r"]) == ["at least 1", "at most 4096"]
    assert spec.limits(TABLES["data"].model_fields["test_fraction"]) == ["at least 0", "less than 1"]
    assert "One of cut | refuse | stop. Default " in spec.explained(TABLES["train"].model_fields["overlong"])
    assert "Default not set: " in spec.explained(TABLES["data"].model_fields["test"])


def test_the_commented_defaults_are_valid_without_their_comment_sign() -> None:
    keys = r"^# ((?:" + "|".join({n for m in TABLES.values() for n in m.model_fields}) + r") = .+)$"
    text = re.sub(keys, r"\1", spec.commented(), flags=re.MULTILINE)
    assert text.count("\n# ") < spec.commented().count("\n# ")
    assert spec.parse(text) == Project()


# --- mistakes

BROKEN = '''\
[trian]
epochs = 1

[train]
epochs = "3"              # a text
learning_rat = 1e-4
packing = 1
steps = 3.0
schedule = "cosin"
betas = [0.9, 1.5]
max_length = 7
warmup = nan
r = 8

[lora]
target_modules = [1, "a"]
rank_pattern = {q_proj = 0, "k.proj" = "x"}
alpha_pattern = { v_proj = inf }

[generate]
stop = [
  "a",  # temperature = 3
  7,
]
temperature = true
prompts = """
top_p = 2.0
"""
top_p = 2.0

[launch]
device = "gpu"
'''


def test_all_mistakes_are_told_at_once_in_order_each_at_its_place() -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse(BROKEN, "p.toml")
    assert caught.value.exit_code == 2
    assert str(caught.value).split("\n") == [
        "p.toml:1:2: unknown table [trian]; did you mean `train`?",
        "p.toml:5:1: `train.epochs` is the text '3', not number",
        "p.toml:6:1: unknown key `train.learning_rat`; did you mean `learning_rate`?",
        "p.toml:7:1: `train.packing` is 1, not true or false",
        "p.toml:8:1: `train.steps` is 3.0, not whole number",
        "p.toml:9:1: `train.schedule` is the text 'cosin', not one of constant | linear | cosine; "
        "did you mean `cosine`?",
        "p.toml:10:1: `train.betas[1]` is 1.5; it must be less than 1.0",
        "p.toml:11:1: `train.max_length` is 7; it must be at least 8",
        "p.toml:12:1: `train.warmup` is nan; it must be a finite number",
        "p.toml:13:1: unknown key `train.r`; it belongs in [lora]",
        "p.toml:16:1: `lora.target_modules` is the list [1, 'a'], not text or list of text",
        "p.toml:17:17: `lora.rank_pattern.q_proj` is 0; it must be at least 1",
        "p.toml:17:29: `lora.rank_pattern.k.proj` is the text 'x', not whole number",
        "p.toml:18:19: `lora.alpha_pattern.v_proj` is inf; it must be a finite number",
        "p.toml:21:1: `generate.stop[1]` is 7, not text",
        "p.toml:25:1: `generate.temperature` is the boolean true, not number",
        "p.toml:26:1: `generate.prompts` is the text 'top_p = 2.0\\n', not list of text",
        "p.toml:29:1: `generate.top_p` is 2.0; it must be at most 1.0",
        "p.toml:32:1: `launch.device` is the text 'gpu': string should match pattern '^(auto|cpu|cuda(:\\d+)?)$'",
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("train.epochs = 'x'", "1:7"),
        ("\n\n  train . epochs='x'", "3:11"),
        ("train = {packing = true, epochs = 'x'}", "1:26"),
        ("train = {# epochs = 2\n packing = true,\n epochs = 'x'}", "3:2"),
        ("[train]\nepochs = [\n 1,\n]", "2:1"),
        ("[ 'train' ] # epochs\n\tepochs\t= 'x'", "2:2"),
        ('["tr\\u0061in"]\n"epochs" = \'x\'', "2:1"),
        ("[project]\nname = '''\n[train]\nepochs = 1'''\n[train]\nepochs = 'x'", "6:1"),
        ('[project]\nname = """\\"""\nepochs = 1\\\n"""""\n[train]\nepochs = "x"', "6:1"),
        ("[data]\ntrain = 'epochs = 1' # epochs = 1\n[train] # epochs\n# epochs = 1\nepochs = 'x'", "5:1"),
        ("[project]\nname='é🙂'\n[train]\nseed = 1\r\nepochs = 'x'\r\n", "5:1"),
        ("[[train]]\nepochs = 1\n", "1:3"),
        ("train = 3", "1:1"),
        ("[lora]\nr = 8\n[train]\nepochs = 1\n[train.seed]\nx = 1", "5:8"),
        ("[lora.rank_pattern]\na = 1\n'b.c' = 0", "3:1"),
        ("lora.rank_pattern.a = 0", "1:19"),
        ("[train]\r\nepochs = 'x'\r\n", "2:1"),
        ('"tränen" = 1', "1:1"),
    ],
)
def test_places(text: str, place: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"p.toml:{place}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nepochs = ", r"p.toml:2:10: not valid TOML: Invalid value"),
        ("[train]\nepochs = 1\nepochs = 2\n", r"p.toml:3:\d+: not valid TOML: Cannot overwrite a value"),
        ("[train]\n[train]\n", r"p.toml:2:\d+: not valid TOML: Cannot declare"),
        ("tränen = 1", r"p.toml:1:\d+: not valid TOML"),
        ("[train\nepochs = 1", r"p.toml:1:\d+: not valid TOML"),
        ("a = " + "[" * 5000, r"p.toml:1:1: not valid TOML: .*nested"),
        ("a = " + "9" * 5000, r"p.toml:1:1: not valid TOML: .*digits"),
        (
            "[train]\nseed = 0x" + "f" * 9000,
            r"p.toml:2:1: `train.seed` is a number of more than 64 bits; it must be at ",
        ),
        ("[train]\nname = '" + "x" * 9000 + "'", r"p.toml:2:1: unknown key `train.name`; it belongs in \[project\]$"),
        ("[lora]\nr = '" + "x" * 9000 + "'", r"p.toml:2:1: `lora.r` is the text '.{50,80}\.\.\., not whole number$"),
        ("[data]\ntrain = 2020-01-02", r"p.toml:2:1: `data.train` is 2020-01-02, not text"),
        ("[model]\nbase = ''", r"p.toml:2:1: `model.base` is the text '': "),
        ("[train]\nbetas = [0.9]", r"p.toml:2:1: `train.betas` is the list \[0.9\]: list should have at least 2 items"),
        ("x = " + "{a=" * 390 + "1" + "}" * 390, r"p.toml:1:1: unknown table \[x\]"),
    ],
)
def test_other_mistakes(text: str, said: str) -> None:
    (mistake,) = mistakes(text)
    assert re.match(said, mistake), mistake[:200]


def test_text_is_no_number_and_a_number_no_truth() -> None:
    for table, name, wrong in (
        ("train", "seed", '"123"'), ("train", "seed", "true"), ("train", "seed", "1.0"), ("train", "packing", "1"),
        ("train", "epochs", '"1"'), ("train", "epochs", "true"), ("project", "name", "7"), ("lora", "alpha", "-inf"),
        ("train", "packing", '"true"'), ("generate", "stop", '"a"'), ("model", "revision", "7"),
    ):  # fmt: skip
        assert len(mistakes(f"[{table}]\n{name} = {wrong}")) == 1, (name, wrong)
    assert spec.parse("[train]\nepochs = 3\n[lora]\nalpha = 16").train.epochs == 3.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data.test = 'a'\ndata.test_fraction = 0.1", "2:6: `data.test` and `data.test_fraction` exclude each other"),
        ("lora.init = 'pissa'", '1:6: `lora.init = "pissa"` starts from the base\'s own weights'),
        ("[model]\nquantization='int8'\n[lora]\ninit='loftq'", '4:1: `lora.init = "loftq"` needs `model.quant'),
        ("[model]\nquantization='none'\n[lora]\ninit='loftq'", '4:1: `lora.init = "loftq"` needs `model.quant'),
        ("lora = {dora = true, init = 'loftq'}", "1:9: `lora.dora` cannot be combined"),
        ("lora.target_modules = []", "1:6: `lora.target_modules` is empty"),
        ("lora.target_modules = '(q'", "1:6: `lora.target_modules`: '(q' is not a regular expression"),
        ("[lora.alpha_pattern]\n'(q' = 1.0", "1:7: `lora.alpha_pattern`: '(q' is not a regular expression"),
        ("eval.exact_match = 'regex'", "1:1: `eval.answer_pattern` needs a group"),
        ("[eval]\nexact_match='regex'\nanswer_pattern='(['", "3:1: `eval.answer_pattern` is not a regular"),
        ("train.early_stopping = 2", "1:7: `train.early_stopping` needs measurements"),
        ("launch.strategy = 'fsdp'\nmodel.quantization = 'int8'", '1:8: `launch.strategy = "fsdp"` cannot divide int8'),
    ],
)
def test_keys_that_contradict_each_other(text: str, said: str) -> None:
    """Also where one of the two is a default that the file does not mention."""
    (mistake,) = mistakes(text)
    assert mistake.startswith(f"p.toml:{said}"), mistake


@example('[train]\nepochs = "\\ud800"')
@settings(max_examples=100)
@given(st.text(st.sampled_from('[]{}="\'#.,\n\\train epochs=13"""\r\t\x00\x7fé'), max_size=60))
def test_any_text_is_a_project_or_a_list_of_mistakes(text: str) -> None:
    for line in mistakes(text):
        assert line.startswith("p.toml:")


# --- overrides


def test_overrides_go_before_the_file_and_later_ones_before_earlier() -> None:
    text = "[train]\nepochs = 'wrong'\nseed = 1"
    project = spec.parse(
        text, overrides=["train.epochs=1", "train.epochs=2.5", "lora.r=4", 'lora.rank_pattern."a.b"=3']
    )
    assert (project.train.epochs, project.train.seed, project.lora.r) == (2.5, 1, 4)
    assert project.lora.rank_pattern == {"a.b": 3}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.train=x y.jsonl", "x y.jsonl"),
        ("data.train='x'", "x"),
        ('data.train="a=b"', "a=b"),
        ("data.train=a=b", "a=b"),
        ("data.train=#1", "#1"),
        ("data.train= x", " x"),  # taken as it stands
        ("data.train = x", "x"),  # written with spaces
        (' data . "train" = x', "x"),
        ("data.train=[a", "[a"),
        ("data.train=a\nb", "a\nb"),
        ("data.train=1\nseed=2", "1\nseed=2"),
        ("data.train=true story", "true story"),
    ],
)
def test_the_value_of_an_override_is_toml_or_text_as_it_stands(override: str, value: str) -> None:
    assert spec.parse("", overrides=[override]).data.train == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "--set train.epochs: write table.key=value"),
        ("epochs=1", "--set epochs=1: write table.key=value"),
        ("train.=1", "--set train.=1: write table.key=value"),
        ("=1", "--set =1: write table.key=value"),
        ("trian.epochs=1", "--set trian.epochs: unknown table [trian]; did you mean `train`?"),
        ("train.epoch=1", "--set train.epoch: unknown key `train.epoch`; did you mean `epochs`?"),
        ("train.epochs='1'", "--set train.epochs: `train.epochs` is the text '1', not number"),
        ("train.seed=-1", "--set train.seed: `train.seed` is -1; it must be at least 0"),
        ("train.packing=True", "--set train.packing: `train.packing` is the text 'True', not true or false"),
        ("train.seed.x=1", "--set train.seed.x=1: `seed` is not a table"),
        ("lora.rank_pattern={a=0}", "--set lora.rank_pattern: `lora.rank_pattern.a` is 0; it must be at least 1"),
        ("data.test_fraction=0.5", "--set data.test_fraction: `data.test` and `data.test_fraction` exclude each other"),
    ],
)
def test_mistakes_in_overrides_are_told_with_those_of_the_file(override: str, said: str) -> None:
    found = mistakes("[train]\nseed = 1\nmax_length = 1\n[data]\ntest = 'x'", override)
    assert len(found) == 2
    assert found[0].startswith(said), found
    assert found[1].startswith("p.toml:3:1: `train.max_length`")


# --- files


def test_a_file_is_read_with_its_mark_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "project.toml"
    path.write_bytes("\ufeff[train]\r\nepochs = 2\r\n[project]\r\nname = 'ü'\r\n".encode())
    assert spec.load(path).train.epochs == 2.0
    path.write_bytes("\ufeff[train]\r\nepochz = 2\r\n".encode())
    with pytest.raises(SpecError, match=re.escape(f"{path}:2:1: unknown key")):
        spec.load(path)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read: No such file") as caught:
        spec.load(tmp_path / "project.toml")
    assert caught.value.where == str(tmp_path / "project.toml")
    assert "loraworkbench new" in (caught.value.remedy or "")
    with pytest.raises(InputError, match="cannot read: Is a directory"):
        spec.load(tmp_path)
    (tmp_path / "utf16").write_bytes("[train]".encode("utf-16"))
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 0\)"):
        spec.load(tmp_path / "utf16")


# --- places in any document

KEYS = st.sampled_from(["a", "b-c", "1", '"d.e"', "'f g'", '"\\u00e9"', '"\\""'])
SCALARS = st.sampled_from(
    ["1", "1.5e3", "true", "1979-05-27 07:32:00", '"a = 1 # ]"', "'}'", '"""\na = 1\n"""', "'''\n[a]\n''''", '"\\"]"',
     '"""a\\"""b"""""']
)  # fmt: skip
GAP = st.sampled_from(["", " ", "\t"])
BREAK = st.sampled_from(["", " ", "\n", " # a = 1, ]\n", "\r\n\t"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML of tables, dotted keys, arrays over lines and inline tables, with text that looks like keys."""

    def value(depth: int) -> str:
        kind = draw(st.sampled_from(["scalar", "array", "table"])) if depth else "scalar"
        if kind == "scalar":
            return draw(SCALARS)
        pad = draw(BREAK)
        if kind == "array":
            return f"[{pad}" + f",{pad}".join(value(depth - 1) for _ in range(draw(st.integers(0, 3)))) + f"{pad}]"
        names = draw(st.lists(KEYS, unique=True, max_size=3))
        return "{" + ", ".join(f"{n}{draw(GAP)}={draw(GAP)}{value(depth - 1)}" for n in names) + "}"

    lines = []
    for header in [None, *draw(st.lists(KEYS, unique=True, max_size=3))]:
        if header is not None:
            wide = draw(GAP)
            lines.append(f"{draw(GAP)}[{wide}{header}{wide}.{draw(GAP)}x{wide}] # {header} = 1")
        for name in draw(st.lists(KEYS, unique=True, max_size=4)):
            dotted = draw(st.sampled_from(["z.", "z . y ."])) if header is None else ""
            lines.append(f"{draw(GAP)}{dotted}{name}{draw(GAP)}={draw(GAP)}{value(2)}")
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


def paths_of(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The paths of all keys; inside arrays, those of the tables in them."""
    if isinstance(value, list):
        return set().union(*(paths_of(item, path) for item in value))
    if not isinstance(value, dict):
        return set()
    return set().union(*({(*path, k)} | paths_of(v, (*path, k)) for k, v in value.items()))


@settings(max_examples=60)
@given(documents())
def test_the_place_of_a_key_points_at_the_key(text: str) -> None:
    try:
        parsed = tomli.loads(text)
    except tomli.TOMLDecodeError:
        assume(False)
        return
    found = key_places(text)
    assert set(found) == paths_of(parsed)
    lines = text.split("\n")
    for path, (line, column) in found.items():
        there = lines[line - 1][column - 1 :]
        written = re.match(r"[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*'", there)
        assert written, (path, there)
        assert tomli.loads(f"{written[0]} = 1") == {path[-1]: 1}
        assert re.match(r"[ \t]*[.=\]]", there[written.end() :])


def test_fifty_mistakes_in_two_thousand_lines_are_found_quickly() -> None:
    lines = [line for i in range(50) for line in (f"[table{i}]", *(f"key{j} = [\n1,\n]" for j in range(13)))]
    text = "\n".join(lines)
    assert text.count("\n") == 1999
    begun = time.process_time()
    assert len(mistakes(text)) == 50
    assert time.process_time() - begun < 1
