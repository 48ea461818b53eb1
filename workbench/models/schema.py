"""What the engine's tables say of every key of a project file, as plain data for completion and help.

Comes from: `engine.tables` (with it pydantic, so `schema()` is first called in a thread). Goes to: `completion`,
`key_help`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

LARGEST = 2**63 - 1
"""The end of TOML's whole numbers: no limit worth telling."""
_WORDS = {
    ("launch", "device"): ("auto", "cpu", "cuda", "cuda:0"),
    ("lora", "target_modules"): (
        "all-linear", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ),
    ("lora", "modules_to_save"): ("embed_tokens", "lm_head"),
}  # fmt: skip
"""Texts that are usual for keys whose type says only "text"."""


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key.

    Attributes:
        type, unit, default, why, about: as in the engine's table; `default` is written as TOML, "" for none.
        limits: "at least 1, less than 2" or "". choices: values to choose from, as TOML.
        closed: whether nothing but the choices is valid.
    """

    table: str
    name: str
    type: str
    unit: str
    default: str
    why: str
    about: str
    limits: str
    choices: tuple[str, ...]
    closed: bool

    @property
    def label(self) -> str:
        return f"{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class TableDoc:
    """One table and its keys, in the engine's order."""

    name: str
    about: str
    keys: dict[str, KeyDoc]


Schema = dict[str, TableDoc]


@cache
def schema() -> Schema:
    """All tables by name."""
    from engine.spec import type_name
    from engine.tables import TABLES

    found: Schema = {}
    for table, model in TABLES.items():
        keys = {}
        for name, field in model.model_fields.items():
            extra: dict[str, str] = field.json_schema_extra or {}  # type: ignore[assignment]
            choices, closed = _choices(table, name, field.annotation)
            keys[name] = KeyDoc(
                table, name, type_name(field.annotation), extra.get("unit", ""), toml(field.default),
                extra.get("why", ""), field.description or "", _limits(field.metadata), choices, closed,
            )  # fmt: skip
        found[table] = TableDoc(table, (model.__doc__ or "").splitlines()[0], keys)
    return found


def toml(value: Any) -> str:
    """A default written as TOML; "" for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _choices(table: str, name: str, annotation: Any) -> tuple[tuple[str, ...], bool]:
    members = [a for a in get_args(annotation) if a is not type(None)]
    if get_origin(annotation) is Literal:
        return tuple(map(toml, members)), True
    if annotation is bool:
        return ("true", "false"), True
    return tuple(map(toml, _WORDS.get((table, name), ()))), False


def _limits(metadata: list[Any]) -> str:
    words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    found = []
    for name, phrase in words.items():
        for item in metadata:
            limit = getattr(item, name, None)
            if limit is not None and limit != LARGEST:
                found.append(f"{phrase} {limit}")
    return ", ".join(found)
