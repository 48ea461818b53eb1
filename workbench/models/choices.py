"""What the one box finds: by its first character files and runs, commands, TOML keys, a line, themes, or its own help.

(nothing) projects, data, runs, files   > commands   @ keys of the project file   # runs and adapters   : line   ? help
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from workbench import actions
from workbench.models.workspace import Snapshot

PREFIXES = {
    "": "projects, data, runs and files by name",
    ">": "commands",
    "@": "tables and keys of the project file in front",
    "#": "runs and adapters",
    ":": "a line of the text in front (a row, a step)",
    "?": "this help",
}
THEME = "theme "


@dataclass(frozen=True, slots=True)
class Choice:
    """A line of the list.

    Attributes:
        text: what is matched. detail: what stands at the right.
        act: an action's id; uri, place: a tab and where in it; type: what to put into the box instead.
    """

    text: str
    detail: str = ""
    act: str = ""
    uri: str = ""
    place: tuple[int, int] | None = None
    type: str | None = None
    theme: str = ""


def split(query: str) -> tuple[str, str]:
    """The mode of a query, and what is looked for in it."""
    if query.startswith(THEME):
        return THEME, query[len(THEME) :]
    return (query[0], query[1:].strip()) if query[:1] in PREFIXES and query else ("", query)


def things(snapshot: Snapshot, open_uris: Sequence[str]) -> list[Choice]:
    """Tabs that can be opened; what is open already comes first."""
    found: list[Choice] = []
    for name, project in snapshot.projects.items():
        found += [
            Choice(f"{name} project.toml", "project", uri=f"project:{name}"),
            Choice(f"{name} data", "data", uri=f"data:{name}"),
            Choice(f"{name} runs", "compare runs", uri=f"runs:{name}"),
            Choice(f"{name} evaluation", "evaluation", uri=f"eval:{name}"),
            Choice(f"{name} adapters", "adapters", uri=f"adapters:{name}"),
        ]
        found += [Choice(r.label, f"run, {r.state}", uri=f"run:{r.label}") for r in reversed(project.runs)]
    found += [Choice(file, "file", uri=f"file:{file}") for file in snapshot.data]
    known = {c.uri: c for c in found}
    opened = [known.get(uri) or Choice(uri.replace(":", " ", 1).strip(), uri=uri) for uri in open_uris]
    return _unique([*(replace(c, detail="open") for c in opened), *found])


def runs(snapshot: Snapshot) -> list[Choice]:
    found = []
    for run in snapshot.runs:
        loss = f", loss {run.loss:.3g}" if run.loss is not None else ""
        found.append(Choice(run.label, f"{run.state}{loss}", uri=f"run:{run.label}"))
        if run.adapter:
            found.append(Choice(f"{run.label} adapter", "adapter", uri=f"adapters:{run.project}"))
    return found


def commands(applicable: frozenset[str], keys: dict[str, str]) -> list[Choice]:
    """Commands that apply now, then the others, dimmed by their detail."""
    listed = sorted(actions.registry().values(), key=lambda a: a.id not in applicable)
    return [
        Choice(a.name, keys.get(a.id, "") if a.id in applicable else "not here", act=a.id)
        for a in listed
        if a.id not in ("app.commands", "app.menu", "focus.leave")
    ]


def toml_keys(project: str, places: dict[tuple[str, ...], tuple[int, int]]) -> list[Choice]:
    """Keys of a project file with their lines."""
    return [
        Choice(".".join(path), f"line {line}", uri=f"project:{project}", place=(line, column))
        for path, (line, column) in places.items()
    ]


def line(text: str, uri: str) -> list[Choice]:
    if not text.isdecimal() or not int(text) or not uri:
        return []
    return [Choice(f"Go to line {int(text)}", uri=uri, place=(int(text), 1))]


def prefixes() -> list[Choice]:
    return [Choice(f"{p or '(a name)'}  {about}", type=p) for p, about in PREFIXES.items() if p != "?"]


def themes(names: Iterable[str], current: str) -> list[Choice]:
    return [Choice(name, "current" if name == current else "", theme=name) for name in sorted(names)]


def _unique(choices: list[Choice]) -> list[Choice]:
    return list({c.uri: c for c in reversed(choices)}.values())[::-1]
