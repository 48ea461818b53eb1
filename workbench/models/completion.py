"""What could stand at the cursor of a project file: tables, keys, values, with what is said of each.

Comes from: the text, the place of the cursor in it (`toml_place`), the engine's tables (`schema`), and what there is
in the workspace (`Known`). Goes to: the list that pops up in the editor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.models.schema import KeyDoc, Schema, TableDoc
from workbench.models.toml_place import Place, header, names, place_at

MOST = 100


@dataclass(frozen=True, slots=True)
class Known:
    """What is there to be named: data sources and base models."""

    sources: tuple[str, ...] = ()
    bases: tuple[str, ...] = ("starter",)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of the list.

    Attributes:
        label: what is shown and compared with what is typed. insert: what is put in.
        detail: a few words beside it. about: its documentation.
    """

    label: str
    insert: str
    detail: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """The candidates, best first, and the columns of the text that the chosen one replaces."""

    row: int
    start: int
    end: int
    candidates: tuple[Candidate, ...] = ()


def complete(
    lines: Sequence[str], row: int, column: int, schema: Schema, known: Known, *, asked: bool = True
) -> Completion:
    """Candidates at line `row` and `column`, both from 0.

    Args:
        asked: by a key; otherwise the user is only typing, and gets nothing where anything may be written, nothing
            for an empty word, and nothing once the word is complete.
    """
    place = place_at(lines, row, column)
    nothing = Completion(row, column, column)
    if place.part in ("comment", "text") or not 0 <= row < len(lines):
        return nothing
    line = lines[row]
    typed = line[place.start : min(column, place.end)] if place.start <= column else ""
    start, end = place.start, place.end
    if place.part == "table":
        found = _headers(schema, line, place)
    elif place.part == "key":
        found, start = _keys(lines, row, schema, place, line)
    else:
        found = _values(schema, known, place, asked)
    fitting = _fitting(found, typed)
    if (
        not asked
        and (not typed or any(c.label == line[start:end] for c in fitting))
        and not (place.quote and not typed)
    ):
        return nothing
    return Completion(row, start, max(start, end), tuple(fitting[:MOST]))


def _fitting(candidates: Iterable[Candidate], typed: str) -> list[Candidate]:
    """Those that begin with what is typed, then those that have it somewhere; without regard to case."""
    word = typed.casefold()
    begin = [c for c in candidates if c.label.casefold().startswith(word)]
    return begin + [c for c in candidates if c not in begin and word in c.label.casefold()]


def _headers(schema: Schema, line: str, place: Place) -> list[Candidate]:
    if "." in line[: place.start]:
        return []
    close = "" if "]" in line[place.end :] else "]"
    return [Candidate(t.name, t.name + close, "table", _table_about(t)) for t in schema.values()]


def _keys(lines: Sequence[str], row: int, schema: Schema, place: Place, line: str) -> tuple[list[Candidate], int]:
    """Keys of the table (those that are not there yet first); at the start of a line, tables too."""
    before = names(line[: place.start])
    table = (*place.table, *before)
    has_value = "=" in line[place.end :]
    found: list[Candidate] = []
    doc = schema.get(table[0]) if len(table) == 1 else None
    if doc is not None:
        there = set(_keys_of(lines, table[0])) - {line[place.start : place.end]}
        fresh = [k for k in doc.keys.values() if k.name not in there]
        old = [k for k in doc.keys.values() if k.name in there]
        for key in (*fresh, *old):
            detail = "is set" if key.name in there else _detail(key)
            found.append(Candidate(key.name, key.name + ("" if has_value else " = "), detail, key_about(key)))
    if not before and not has_value and not line[: place.start].strip():
        there = {h[0] for other in lines if (h := header(other))}
        tables = sorted(schema.values(), key=lambda t: t.name in there)
        found += [
            Candidate(f"[{t.name}]", f"[{t.name}]\n", "is there" if t.name in there else "table", _table_about(t))
            for t in tables
        ]
        if not place.table:
            found += [Candidate(t.name, f"{t.name}.", "table", _table_about(t)) for t in tables]
    return found, place.start


def _keys_of(lines: Sequence[str], table: str) -> list[str]:
    """Names of the keys that a table has in the text, as far as a look at the lines tells."""
    found, here = [], ()
    for line in lines:
        opened = header(line)
        if opened is not None:
            here = opened
        elif "=" in line and not line.lstrip().startswith("#"):
            path = (*here, *names(line.split("=", 1)[0]))
            if len(path) > 1 and path[0] == table:
                found.append(path[1])
    return found


def _values(schema: Schema, known: Known, place: Place, asked: bool) -> list[Candidate]:
    key = key_of(schema, place)
    if key is None or (place.listed and "list" not in key.type):
        return []
    values: dict[str, str] = dict.fromkeys(key.choices, "")
    if key.label in ("data.train", "data.test"):
        values |= {json.dumps(s, ensure_ascii=False): "" for s in known.sources}
    elif key.label == "model.base":
        values |= {json.dumps(b, ensure_ascii=False): "" for b in known.bases}
    if asked and key.default and not place.listed:
        values.setdefault(key.default, "")
    if key.default in values:
        values[key.default] = "default"
    return [c for value, detail in values.items() if (c := _value(value, detail, key, place)) is not None]


def _value(value: str, detail: str, key: KeyDoc, place: Place) -> Candidate | None:
    """A value as what is to be put in at `place`, None where it does not fit between its quotation marks."""
    about = key_about(key)
    if not value.startswith('"'):
        return None if place.quote else Candidate(value, value, detail, about)
    text = json.loads(value)
    if not place.quote:
        return Candidate(text, value, detail, about)
    inner = value[1:-1] if place.quote == '"' else text
    if place.quote == "'" and "'" in text:
        return None
    return Candidate(text, inner + ("" if place.closed else place.quote), detail, about)


# --- what is said of a key


def key_of(schema: Schema, place: Place) -> KeyDoc | None:
    """The key that a place is about."""
    table = schema.get(place.path[0]) if place.path else None
    return table.keys.get(place.path[1]) if table and len(place.path) > 1 else None


def _detail(key: KeyDoc) -> str:
    return f"{key.type}, {key.unit}" if key.unit else key.type


def key_about(key: KeyDoc) -> str:
    """A few lines about a key."""
    lines = [key.about, f"{_detail(key)}{f' ({key.limits})' if key.limits else ''}"]
    if key.default:
        lines.append(f"default {key.default}" + (f": {key.why}" if key.why else ""))
    elif key.why:
        lines.append(key.why)
    return "\n".join(lines)


def _table_about(table: TableDoc) -> str:
    return f"{table.about}\nKeys: {', '.join(table.keys)}"
