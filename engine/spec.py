"""project.toml -> Project: every mistake at once, each as file:line:column, what is wrong, and the nearest valid name.

Comes from: a TOML file and `--set table.key=value` overrides. Goes to: every verb, and `runs/NNNN/project.toml`, the
resolved copy that a run was started with. No torch.
"""

from __future__ import annotations

import difflib
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import tomli
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from engine.errors import InputError
from engine.places import KEY, Places
from engine.tables import TABLES, DataTable, EvalTable, LaunchTable, LoraTable, ModelTable, Project, Table, TrainTable
from engine.text import one_line, wrap

FILE_NAME = "project.toml"
COMMENT_CELLS = 96
"""Width of the comments in the file that explains itself."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a project file; `where` is file:line:column, or the `--set` it came from."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"

    @property
    def place(self) -> list[int]:
        """[line, column], to sort by; empty for a `--set`."""
        found = re.search(r":(\d+):(\d+)$", self.where)
        return [int(number) for number in found.groups()] if found else []


class SpecError(InputError):
    """All mistakes of a project file."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(map(str, mistakes)))


def check_name(name: str) -> None:
    """See that a project may be called `name`.

    Raises:
        InputError: it may not.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name.isdigit() or name.endswith((".part", ".old")):
        remedy = "use letters, digits, - _ and ., not digits alone (a number names a run)"
        raise InputError(f"{one_line(name)!r} cannot be a project's name", remedy=remedy)


def load(path: Path, overrides: list[str] | None = None) -> Project:
    """The project of a file, with overrides ("train.learning_rate=1e-4") applied and checked like the file.

    Raises:
        SpecError: with every mistake of the file and of the overrides.
        InputError: the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        remedy = f"`loraworkbench new NAME` writes a {FILE_NAME}"
        raise InputError(f"cannot read: {error.strerror}", where=str(path), remedy=remedy) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})", where=str(path)) from error
    return parse(text, str(path), overrides)


def parse(text: str, name: str = FILE_NAME, overrides: list[str] | None = None) -> Project:
    """Like `load`, from text; `name` stands for the file in messages."""
    text = text.replace("\r\n", "\n")
    try:
        raw = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise SpecError([Mistake(f"{name}:{error.lineno}:{error.colno}", f"not valid TOML: {error.msg}")]) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 500 brackets in each other
        raise SpecError([Mistake(f"{name}:1:1", f"not valid TOML: {error}")]) from error
    sources: dict[tuple[str, ...], str] = {}
    mistakes = [m for item in overrides or [] if (m := _override(raw, item, sources))]
    places = Places(text, name, sources)
    tables: dict[str, Table] = {name: model() for name, model in TABLES.items() if name not in raw}
    for table, value in raw.items():
        if table not in TABLES:
            mistakes.append(Mistake(places.of((table,)), f"unknown table [{table}]{_nearest(table, TABLES)}"))
        elif not isinstance(value, dict):
            mistakes.append(Mistake(places.of((table,)), f"`{table}` is a table: write [{table}]"))
        else:
            try:
                tables[table] = TABLES[table].model_validate(value)
            except ValidationError as error:
                mistakes += [_explain(table, value, detail, places) for detail in error.errors()]
    mistakes += _contradictions(tables, places)
    if mistakes:
        raise SpecError(sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.place))
    return Project(**tables)  # type: ignore[arg-type]


def _override(raw: dict[str, Any], item: str, sources: dict[tuple[str, ...], str]) -> Mistake | None:
    """Apply one `table.key=value`; the value is TOML, or a bare string where it is not."""
    parsed = _assignment(item)
    if parsed is None:
        return Mistake(f"--set {item}", "write table.key=value, for example train.learning_rate=1e-4")
    parts, value = parsed
    here = raw
    for part in parts[:-1]:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            return Mistake(f"--set {item}", f"`{part}` is not a table")
    here[parts[-1]] = value
    sources[parts] = f"--set {'.'.join(parts)}"
    return None


_ASSIGNMENT = re.compile(rf"\s*((?:{KEY.pattern})(?:\s*\.\s*(?:{KEY.pattern}))+)(\s*)=(.*)", re.DOTALL)


def _assignment(item: str) -> tuple[tuple[str, ...], Any] | None:
    """The path and the value of "table.key=value"; None where it is no such thing.

    A bare string is taken as it stands, but without the spaces of "table.key = value".
    """
    match = _ASSIGNMENT.fullmatch(item)
    if match is None:
        return None
    path, here = [], tomli.loads(f"{match[1]} = 0")
    while isinstance(here, dict):
        ((name, here),) = here.items()
        path.append(name)
    try:
        (value,) = tomli.loads(f"value = {match[3].strip()}").values()
    except (ValueError, RecursionError):  # not TOML, or several lines of it
        value = match[3].strip() if match[2] else match[3]
    return tuple(path), value


def _nearest(name: str, valid: Any) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.55)
    return f"; did you mean `{close[0]}`?" if close else ""


_SIGNS = {"gt": "greater than", "ge": "at least", "lt": "less than", "le": "at most"}
_LIMITS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}


def _explain(table: str, values: dict[str, Any], detail: ErrorDetails, places: Places) -> Mistake:
    """A pydantic error as a sentence about a TOML key."""
    name, *inner = detail["loc"]
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    label = f"{table}.{name}"
    if kind == "extra_forbidden":
        return Mistake(places.of((table, str(name))), f"unknown key `{label}`{_belongs(str(name), table)}")
    annotation = TABLES[table].model_fields[str(name)].annotation
    if _is_union(annotation):  # the places inside are those of its members
        given, inner = values[str(name)], []
    for part in inner:
        annotation = get_args(annotation)[-1]
        label += f"[{part}]" if isinstance(part, int) else f".{part}"
    where, expected = places.of((table, str(name), *map(str, inner))), type_name(annotation)
    if kind == "literal_error":
        hint = _nearest(str(given), get_args(annotation))
        return Mistake(where, f"`{label}` is {_show(given)}, not one of {expected}{hint}")
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return Mistake(where, f"`{label}` is {_show(given)}, not {expected}")
    if kind == "finite_number":
        return Mistake(where, f"`{label}` is {given}; it must be a finite number")
    if kind in _LIMITS:
        sign = _LIMITS[kind]
        return Mistake(where, f"`{label}` is {_show(given)}; it must be {_SIGNS[sign]} {context[sign]}")
    return Mistake(where, f"`{label}` is {_show(given)}: {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _belongs(name: str, table: str) -> str:
    """What an unknown key probably is: a key of another table, or a misspelt one of this."""
    owners = [f"[{other}]" for other, model in TABLES.items() if name in model.model_fields]
    return f"; it belongs in {' or '.join(owners)}" if owners else _nearest(name, TABLES[table].model_fields)


def _show(value: Any) -> str:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a number of more than 64 bits"
    names = {str: "the text", bool: "the boolean", list: "the list", dict: "the table"}
    shown = repr(value) if isinstance(value, str | list | dict) else str(value).lower()
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{names[type(value)]} {shown}" if type(value) in names else shown


def _is_union(annotation: Any) -> bool:
    """Whether a value may be of several types, None not counted."""
    members = [a for a in get_args(annotation) if a is not type(None)]
    return get_origin(annotation) in (Union, types.UnionType) and len(members) > 1


def type_name(annotation: Any) -> str:
    """A type in words: `Literal["a", "b"]` -> 'a | b', `int | None` -> 'whole number'."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(a) for a in args if a is not type(None)))
    if origin is list:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return f"table of {type_name(args[1])}"
    if hasattr(annotation, "__metadata__"):
        return type_name(args[0])
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(annotation, str(annotation))


def _contradictions(tables: dict[str, Table], places: Places) -> list[Mistake]:
    """What each key allows but the keys together do not. Only tables that are valid in themselves are looked at."""
    found: list[Mistake] = []

    def wrong(path: tuple[str, str], problem: str) -> None:
        found.append(Mistake(places.of(path), problem))

    model, data, lora, train, evaluation = (tables.get(n) for n in ("model", "data", "lora", "train", "eval"))
    launch = tables.get("launch")
    sharded = isinstance(launch, LaunchTable) and launch.strategy == "fsdp"
    if sharded and isinstance(model, ModelTable) and model.quantization == "int8":
        wrong(
            ("launch", "strategy"),
            '`launch.strategy = "fsdp"` cannot divide int8 weights, which bitsandbytes holds outside of the parameters; '
            'use model.quantization = "nf4" or "none", or strategy = "data"',
        )
    if isinstance(data, DataTable) and data.test is not None and data.test_fraction > 0:
        wrong(("data", "test_fraction"), "`data.test` and `data.test_fraction` exclude each other; keep one")
    if isinstance(lora, LoraTable):
        if isinstance(model, ModelTable) and model.quantization != "none" and lora.init in ("pissa", "olora"):
            loftq = '"loftq", ' if model.quantization == "nf4" else ""
            wrong(
                ("lora", "init"),
                f'`lora.init = "{lora.init}"` starts from the base\'s own weights, which are not kept with '
                f'`model.quantization = "{model.quantization}"`; use {loftq}"default", or quantization = "none"',
            )
        if isinstance(model, ModelTable) and model.quantization != "nf4" and lora.init == "loftq":
            wrong(("lora", "init"), '`lora.init = "loftq"` needs `model.quantization = "nf4"`')
        if lora.dora and lora.init in ("pissa", "olora", "loftq"):
            wrong(("lora", "dora"), f'`lora.dora` cannot be combined with `lora.init = "{lora.init}"`')
        targets = [lora.target_modules] if isinstance(lora.target_modules, str) else []
        for field, patterns in (
            ("target_modules", targets),
            ("rank_pattern", lora.rank_pattern),
            ("alpha_pattern", lora.alpha_pattern),
        ):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    wrong(("lora", field), f"`lora.{field}`: {pattern!r} is not a regular expression: {error}")
        if isinstance(lora.target_modules, list) and not lora.target_modules:
            wrong(("lora", "target_modules"), "`lora.target_modules` is empty: nothing would be trained")
    if isinstance(train, TrainTable) and train.early_stopping and not train.evaluate_every:
        wrong(("train", "early_stopping"), "`train.early_stopping` needs measurements: set `train.evaluate_every`")
    if isinstance(evaluation, EvalTable) and evaluation.exact_match == "regex":
        try:
            if re.compile(evaluation.answer_pattern).groups < 1:
                wrong(("eval", "answer_pattern"), "`eval.answer_pattern` needs a group ( ) around the answer")
        except re.error as error:
            wrong(("eval", "answer_pattern"), f"`eval.answer_pattern` is not a regular expression: {error}")
    return found


def dump(project: Project) -> str:
    """The project as TOML with every key written out (the resolved copy of a run)."""
    import tomlkit

    return tomlkit.dumps(project.model_dump(exclude_none=True))


def _toml(value: Any) -> str:
    """A value on one line; "" for None, which TOML cannot say."""
    import tomlkit

    if isinstance(value, dict):
        return "{" + ", ".join(f"{tomlkit.key(k).as_string()} = {_toml(v)}" for k, v in value.items()) + "}"
    return "" if value is None else tomlkit.item(value).as_string()


def explained(field: FieldInfo) -> str:
    """What a key is, its type, unit and limits, its default and why that is the default."""
    extra: dict[str, str] = field.json_schema_extra or {}  # type: ignore[assignment]
    kind = type_name(field.annotation)
    kind = f"one of {kind}" if get_origin(field.annotation) is Literal else kind
    notes = [kind[0].upper() + kind[1:], *([f"in {extra['unit']}"] if extra["unit"] else []), *limits(field)]
    default = "not set" if field.default is None else _toml(field.default)
    return f"{field.description} {', '.join(notes)}. Default {default}: {extra['why']}."


def limits(field: FieldInfo) -> list[str]:
    """The limits of a number in words: ["at least 1", "at most 4096"]."""
    annotation = next((a for a in (field.annotation, *get_args(field.annotation)) if hasattr(a, "__metadata__")), None)
    inside: tuple[Any, ...] = tuple(m for a in getattr(annotation, "__metadata__", ()) for m in a.metadata)
    given = {sign: getattr(m, sign) for m in (*field.metadata, *inside) for sign in _SIGNS if hasattr(m, sign)}
    return [f"{_SIGNS[sign]} {limit:g}" for sign, limit in given.items() if abs(limit) < 2**63 - 1]


def commented(values: dict[str, dict[str, Any]] | None = None, heading: str = "") -> str:
    """A project file that explains itself: every key with its documentation; those left at their default commented out.

    Args:
        values: table -> key -> value to write as set.
        heading: comment lines for the top of the file.
    """
    lines = (
        [f"# {part}".rstrip() for line in heading.split("\n") for part in wrap(line, COMMENT_CELLS)] if heading else []
    )
    for table, model in TABLES.items():
        lines += ["", f"[{table}]  # {(model.__doc__ or '').splitlines()[0]}"]
        for name, field in model.model_fields.items():
            first, *more = wrap(f"{name}: {explained(field)}", COMMENT_CELLS)
            lines += [f"# {first}", *(f"#   {line}" for line in more)]
            chosen = (values or {}).get(table, {})
            value = chosen.get(name, field.default)
            lines += [f"{'' if name in chosen else '# '}{name} = {_toml(value)}".rstrip()]
    return "\n".join(lines).strip("\n") + "\n"
