"""What the inspector says of the key under the cursor: title, type, unit, default, why, its value, what is wrong here."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from engine.text import cut, one_line
from workbench.models.completion import key_of
from workbench.models.schema import KeyDoc, Schema, TableDoc
from workbench.models.spans import Mark
from workbench.models.toml_place import place_at

LONGEST = 300
"""Characters of a value that are shown."""


def key_help(
    lines: Sequence[str], row: int, column: int, schema: Schema, marks: Sequence[Mark], ascii: bool
) -> Content:
    """Help for line `row` and `column`, both from 0."""
    place = place_at(lines, row, column)
    key = key_of(schema, place)
    parts: list[Content] = []
    if key is not None:
        start, end = place.value
        value = "" if place.commented or end <= start else lines[row][start:end]
        parts += _key(key, value)
    else:
        table = schema.get((place.path or place.table or ("",))[0])
        if table is not None:
            parts += _table(table)
        else:
            parts.append(Content.styled("Tables of a project file", "bold"))
            parts += [Content(f"[{t.name}]  {t.about}") for t in schema.values()]
    here = [m for m in marks if m.row == row]
    sign = "!" if ascii else "✗"
    wrong = [Content.styled(f"{sign} {one_line(m.text)}", "$text-error") for m in here]
    return Content("\n").join([*wrong, Content(""), *parts] if wrong else parts)


def _key(key: KeyDoc, value: str) -> list[Content]:
    notes = ", ".join(n for n in (key.type, f"in {key.unit}" if key.unit else "", key.limits) if n)
    parts = [
        Content.styled(key.label, "bold"), Content.styled(notes, "$text-muted"), Content(""), Content(key.about), Content(""),
        _field("value", cut(one_line(value), LONGEST) if value else "not set here: the default"),
        _field("default", one_line(key.default) or "none"),
    ]  # fmt: skip
    if key.why:
        parts.append(_field("why", key.why))
    return parts


def _table(table: TableDoc) -> list[Content]:
    parts = [Content.styled(f"[{table.name}]", "bold"), Content(table.about), Content("")]
    return parts + [Content.assemble((k.name, "bold"), f"  {k.about}") for k in table.keys.values()]


def _field(name: str, text: str) -> Content:
    return Content.assemble((f"{name:8}", "$text-muted"), text)
