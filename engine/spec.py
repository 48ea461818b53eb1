"""project.toml -> Project: every mistake at once, each as file:line:column, what is wrong, and the nearest valid name.

Comes from: a TOML file and `--set table.key=value` overrides. Goes to: every verb, and `runs/NNNN/project.toml`, the
resolved copy that a run was started with. No torch.
"""

from __future__ import annotations

import difflib
import math
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import tomli
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from engine.errors import InputError
from engine.tables import TABLES, Project, Table

FILE_NAME = "project.toml"


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a project file; `where` is file:line:column, or the `--set` it came from."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


class SpecError(InputError):
    """All mistakes of a project file."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(map(str, mistakes)))


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
    try:
        raw = tomli.loads(text.replace("\r\n", "\n"))
    except tomli.TOMLDecodeError as error:
        raise SpecError([Mistake(f"{name}:{error.lineno}:{error.colno}", f"not valid TOML: {error.msg}")]) from error
    sources: dict[tuple[str, ...], str] = {}
    mistakes = [m for item in overrides or [] if (m := _override(raw, item, sources))]
    places = Places(text, name, sources)
    tables: dict[str, Table] = {}
    for table, value in raw.items():
        if table not in TABLES:
            mistakes.append(Mistake(places.of((table,)), f"unknown table [{table}]{_nearest(table, TABLES)}"))
        elif not isinstance(value, dict):
            mistakes.append(Mistake(places.of((table,)), f"`{table}` is a table: write [{table}]"))
        else:
            try:
                tables[table] = TABLES[table].model_validate(value)
            except ValidationError as error:
                for detail in error.errors():
                    mistakes.append(_explain(table, detail, places))
    mistakes += _contradictions(tables, places)
    if mistakes:
        raise SpecError(mistakes)
    return Project(**tables)  # type: ignore[arg-type]


def _override(raw: dict[str, Any], item: str, sources: dict[tuple[str, ...], str]) -> Mistake | None:
    """Apply one `table.key=value`; the value is TOML, or a bare string where it is not."""
    path, equals, value = item.partition("=")
    parts = tuple(p.strip() for p in path.split("."))
    if not equals or len(parts) < 2 or not all(parts):
        return Mistake(f"--set {item}", "write table.key=value, for example train.learning_rate=1e-4")
    try:
        parsed = tomli.loads(f"x = {value.strip()}")["x"]
    except tomli.TOMLDecodeError:
        parsed = value.strip()
    here = raw
    for part in parts[:-1]:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            return Mistake(f"--set {item}", f"`{part}` is not a table")
    here[parts[-1]] = parsed
    sources[parts] = f"--set {path.strip()}"
    return None


class Places:
    """Where a key stands in the text: the first prefix of whole lines that parses and holds it ends its statement."""

    def __init__(self, text: str, name: str, sources: dict[tuple[str, ...], str]) -> None:
        self.lines, self.name, self.sources = text.replace("\r\n", "\n").split("\n"), name, sources

    def of(self, path: tuple[str, ...]) -> str:
        """file:line:column of the key at `path` (1-based), or of its table where the file does not have it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.sources:
                return self.sources[path[:length]]
            if found := self._find(path[:length]):
                return "{}:{}:{}".format(self.name, *found)
        return f"{self.name}:1:1"

    def _find(self, path: tuple[str, ...]) -> tuple[int, int] | None:
        begin = 0
        for end in range(1, len(self.lines) + 1):
            try:
                value: Any = tomli.loads("\n".join(self.lines[:end]))
            except tomli.TOMLDecodeError:
                continue
            for part in path:
                if not isinstance(value, dict) or part not in value:
                    break
                value = value[part]
            else:
                return self._key(path[-1], begin, end)
            begin = end
        return None

    def _key(self, name: str, begin: int, end: int) -> tuple[int, int]:
        pattern = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
        for index in range(begin, end):
            if match := pattern.search(self.lines[index]):
                return index + 1, match.start() + 1
        return begin + 1, 1


def _nearest(name: str, valid: Any) -> str:
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.55)
    return f"; did you mean `{close[0]}`?" if close else ""


def _explain(table: str, detail: ErrorDetails, places: Places) -> Mistake:
    """A pydantic error as a sentence about a TOML key."""
    path = tuple(str(p) for p in detail["loc"])
    fields = TABLES[table].model_fields
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    where = places.of((table, *path[:1]))
    label = f"{table}.{path[0]}"
    if kind == "extra_forbidden":
        owner = next((t for t, model in TABLES.items() if path[0] in model.model_fields), None)
        hint = _nearest(path[0], fields) or (f"; it belongs in [{owner}]" if owner else "")
        return Mistake(where, f"unknown key `{label}`{hint}")
    expected = type_name(fields[path[0]].annotation) if path[0] in fields else "another value"
    if kind == "literal_error":
        return Mistake(where, f"`{label}` is {given!r}, not one of {expected}{_nearest(str(given), _choices(fields[path[0]].annotation))}")
    if kind.endswith(("_type", "_parsing", "_from_float")):
        return Mistake(where, f"`{label}` is {_show(given)}, not {expected}")
    limits = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least"),
              "less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}  # fmt: skip
    if kind in limits:
        name, words = limits[kind]
        return Mistake(where, f"`{label}` is {_show(given)}; it must be {words} {context[name]}")
    return Mistake(where, f"`{label}` is {_show(given)}: {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _show(value: Any) -> str:
    names = {str: "the text", bool: "the boolean", list: "the list", dict: "the table"}
    shown = repr(value).lower() if isinstance(value, bool) else repr(value)
    return f"{names[type(value)]} {shown}" if type(value) in names else shown


def _choices(annotation: Any) -> list[str]:
    return [str(v) for v in get_args(annotation)] if get_origin(annotation) is Literal else []


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

    for name, table in tables.items():
        for field, value in table:
            if isinstance(value, float) and not math.isfinite(value):
                wrong((name, field), f"`{name}.{field}` is {value}; it must be a finite number")
    from engine.tables import DataTable, EvalTable, LoraTable, ModelTable  # the classes, for narrowing

    model, data, lora, evaluation = (tables.get(n) for n in ("model", "data", "lora", "eval"))
    if isinstance(data, DataTable) and data.test is not None and data.test_fraction > 0:
        wrong(("data", "test_fraction"), "`data.test` and `data.test_fraction` exclude each other; keep one")
    if isinstance(lora, LoraTable):
        if isinstance(model, ModelTable) and model.quantization != "none" and lora.init in ("pissa", "olora"):
            wrong(
                ("lora", "init"),
                f'`lora.init = "{lora.init}"` starts from the base\'s own weights, which are not kept with '
                f'`model.quantization = "{model.quantization}"`; use "loftq", "default", or quantization = "none"',
            )
        if lora.init == "loftq" and not (isinstance(model, ModelTable) and model.quantization in ("nf4", "none")):
            if isinstance(model, ModelTable):
                wrong(("lora", "init"), '`lora.init = "loftq"` needs `model.quantization = "nf4"`')
        if lora.dora and lora.init in ("pissa", "olora", "loftq"):
            wrong(("lora", "dora"), f'`lora.dora` cannot be combined with `lora.init = "{lora.init}"`')
        for field, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    wrong(("lora", field), f"`lora.{field}`: {pattern!r} is not a regular expression: {error}")
        if isinstance(lora.target_modules, list) and not lora.target_modules:
            wrong(("lora", "target_modules"), "`lora.target_modules` is empty: nothing would be trained")
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


def commented(values: dict[str, dict[str, Any]] | None = None, heading: str = "") -> str:
    """A project file that explains itself: every key with its documentation; keys left at their default are commented out.

    Args:
        values: table -> key -> value to write as set.
        heading: comment lines for the top of the file.
    """
    import tomlkit

    lines = [f"# {line}".rstrip() for line in heading.split("\n")] if heading else []
    for table, model in TABLES.items():
        lines += ["", f"[{table}]  # {(model.__doc__ or '').splitlines()[0]}"]
        for name, field in model.model_fields.items():
            extra: dict[str, str] = field.json_schema_extra or {}  # type: ignore[assignment]
            notes = type_name(field.annotation) + (f", in {extra['unit']}" if extra["unit"] else "")
            why = f" Default: {extra['why']}." if extra["why"] else ""
            lines += [f"# {name}: {field.description} ({notes}).{why}"]
            chosen = (values or {}).get(table, {})
            value = chosen.get(name, field.default)
            shown = "" if value is None else tomlkit.item(value).as_string()
            lines += [f"{'' if name in chosen else '# '}{name} = {shown}".rstrip()]
    return "\n".join(lines).strip("\n") + "\n"
