"""Which shape rows have: from a sample of them and what the project file says, the columns that mean something.

Comes from `reader.load` (the first rows) and the `[data]` table. Goes to `shapes.convert`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from engine.columns import COMPLETIONS, MESSAGES, PROMPTS, SYSTEMS, TEXTS
from engine.errors import InputError
from engine.rows.formats import Row, excerpt
from engine.rows.shapes import SHAPES, Shape

SAMPLE = 100
"""How many rows are looked at."""

_SETTLE = (
    "set data.shape, and data.prompt_column with data.completion_column, data.messages_column or data.text_column, "
    "to say how they are to be read"
)


def detect(rows: Sequence[Row], *, shape: str = "auto", columns: Mapping[str, str | None] | None = None) -> Shape:
    """The shape of the first `SAMPLE` rows: messages before alpaca before prompt and completion before plain text.

    A column counts where at least half of the rows have it; names are compared without regard to case.

    Args:
        shape: one of `SHAPES`, or "auto".
        columns: names from the project file, as "prompt_column" or "prompt" (also completion, messages, text, system),
            or the columns of a `Shape`.

    Raises:
        InputError: no shape fits, several do, or a column or shape that is named does not exist.
    """
    seen = _Seen(rows[:SAMPLE])
    given = {_part(key): column for key, column in (columns or {}).items() if column}
    if shape not in ("auto", *SHAPES):
        raise seen.error(
            f"data.shape: there is no shape {shape!r}", _nearest(shape, SHAPES), f"shapes: {', '.join(SHAPES)}"
        )
    for part, column in given.items():
        if column not in seen.counts:
            raise seen.error(f"data.{part}_column: the rows have no column {column!r}", _nearest(column, seen.counts))
    names = [shape] if shape != "auto" else _asked_for(seen, given)
    for name in names:
        if (found := _FINDERS[name](seen, given)) is None:
            continue
        stray = [f"data.{part}_column" for part in given if given[part] not in found.values()]
        if stray:
            raise seen.error(f"{' and '.join(stray)} cannot be used with the shape {name}")
        return Shape(name, found)
    if shape == "auto":
        raise seen.error("the shape of the rows is not known", seen.suggestion(), _SETTLE)
    raise seen.error(f"the rows do not have the shape {shape}", _SETTLE)


class _Seen:
    """The columns of a sample of rows, with how many rows have each."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.counts = Counter(column for row in rows for column in row.fields)

    def among(self, names: Sequence[str], share: float = 0.5) -> list[str]:
        """Columns with one of these names that at least `share` of the rows have, in the order of `names`."""
        usual = {c.lower(): c for c, n in reversed(self.counts.items()) if n >= share * len(self.rows)}
        return [usual[name] for name in names if name in usual]

    def optional(self, part: str, given: Mapping[str, str], names: Sequence[str], share: float = 0.0) -> dict[str, str]:
        """{part: column} where there is one."""
        found = [given[part]] if part in given else self.among(names, share)
        return {part: found[0]} if found else {}

    def chats(self, key: str) -> list[str]:
        """Columns that at least half of the rows have, and some row has a list of objects with `key` in."""

        def has_key(value: Any) -> bool:
            return isinstance(value, list) and any(isinstance(m, dict) and key in m for m in value)

        usual = (c for c, n in self.counts.items() if 2 * n >= len(self.rows))
        return [c for c in usual if any(has_key(row.fields.get(c)) for row in self.rows)]

    def suggestion(self) -> str | None:
        known = {"prompt": PROMPTS, "completion": COMPLETIONS, "messages": MESSAGES, "text": TEXTS}
        import difflib

        for column in self.counts:
            for part, names in known.items():
                if column.lower() not in names and difflib.get_close_matches(column.lower(), names, 1, 0.75):
                    return f'perhaps data.{part}_column = "{excerpt(column)}"'
        columns = [excerpt(column) for column in self.counts]
        if len(columns) == 2:
            return 'perhaps data.prompt_column = "{}" and data.completion_column = "{}"'.format(*columns)
        return f'perhaps data.text_column = "{columns[0]}"' if len(columns) == 1 else None

    def error(self, problem: str, *remedies: str | None) -> InputError:
        columns = ", ".join(excerpt(c) for c in list(self.counts)[:20]) + (", …" if len(self.counts) > 20 else "")
        where = self.rows[0].where if self.rows else None
        return InputError(
            f"{problem} (columns: {columns or 'none'})", where=where, remedy="; ".join(filter(None, remedies)) or None
        )


def _part(key: str) -> str:
    part = key.removesuffix("_column")
    return {"instruction": "prompt", "output": "completion"}.get(part, part)


def _nearest(name: str, among: Iterable[str]) -> str | None:
    import difflib

    close = difflib.get_close_matches(name, list(among), 1)
    return f"did you mean {close[0]!r}?" if close else None


def _asked_for(seen: _Seen, given: Mapping[str, str]) -> Sequence[str]:
    """The shapes that the columns named in the project file leave open."""
    if "messages" in given:
        return ["sharegpt" if given["messages"] in seen.chats("from") else "messages"]
    if "text" in given:
        return ["text"]
    return ["prompt_completion"] if given.keys() & {"prompt", "completion"} else SHAPES


def _find_chat(key: str, usual: str, seen: _Seen, given: Mapping[str, str]) -> dict[str, str] | None:
    found = [given["messages"]] if "messages" in given else seen.chats(key)
    if len(found) != 1:
        found = [c for c in seen.among(MESSAGES) if c in found] or found
    if not found and not any(map(seen.chats, ("role", "from"))):
        found = seen.among((usual,))  # its values are broken, and each row will say how
    if not found:
        return None
    if len(found) > 1:
        raise seen.error(f"several columns hold messages: {', '.join(found)}", "set data.messages_column")
    return {
        "messages": found[0],
        **seen.optional("system", given, SYSTEMS),
        **seen.optional("tools", given, ("tools",)),
    }


def _find_alpaca(seen: _Seen, given: Mapping[str, str]) -> dict[str, str] | None:
    context = seen.optional("input", given, ("input", "context"))
    instruction = seen.optional("prompt", given, ("instruction",), 0.5)
    output = seen.optional("completion", given, ("output", "response") if context else ("output",), 0.5)
    if not instruction or not output:
        return None
    more = {**seen.optional("system", given, SYSTEMS), **seen.optional("history", given, ("history",))}
    return {"instruction": instruction["prompt"], **context, "output": output["completion"], **more}


def _find_pair(seen: _Seen, given: Mapping[str, str]) -> dict[str, str] | None:
    parts: dict[str, str] = {}
    several: list[str] = []
    for part, names in (("prompt", PROMPTS), ("completion", COMPLETIONS)):
        found = [given[part]] if part in given else [c for c in seen.among(names) if c not in given.values()]
        if not found:
            return None
        parts[part] = found[0]
        if len(found) > 1:
            several.append(f"the {part} could be {' or '.join(found)}")
    if several:
        keys = "set data.prompt_column and data.completion_column"
        raise seen.error(f"the shape of the rows is not clear: {', '.join(several)}", keys)
    return {**parts, **seen.optional("system", given, SYSTEMS)}


def _find_text(seen: _Seen, given: Mapping[str, str]) -> dict[str, str] | None:
    found = [given["text"]] if "text" in given else seen.among(TEXTS)
    if len(found) > 1:
        raise seen.error(f"several columns hold text: {', '.join(found)}", "set data.text_column")
    return {"text": found[0]} if found else None


_FINDERS: dict[str, Callable[[_Seen, Mapping[str, str]], dict[str, str] | None]] = {
    "messages": partial(_find_chat, "role", "messages"),
    "sharegpt": partial(_find_chat, "from", "conversations"),
    "alpaca": _find_alpaca,
    "prompt_completion": _find_pair,
    "text": _find_text,
}
