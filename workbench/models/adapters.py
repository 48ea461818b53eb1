"""The adapters of a workspace's runs, what was measured of them, how their settings differ, and what was merged of them.

Comes from: adapter folders (`engine.adapters.inspect`), evaluations, the resolved project.toml of each run, merge.json of
merged models. Goes to: the adapters view, its dialogs. Reading is for threads.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.text import one_line, size
from workbench.models import evaluation
from workbench.models.evaluation import Row

if TYPE_CHECKING:
    from engine.adapters import AdapterInfo

Known = dict[Path, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """An adapter of a run.

    Attributes:
        label: the run's. when: when its weights were written, seconds since the epoch.
        info: None where it cannot be read; `problem` says why.
        row, base: figures of the adapter and of base for completions of unseen rows, from the newest evaluation.
    """

    label: str
    path: Path
    when: float
    info: AdapterInfo | None
    problem: str = ""
    row: Row | None = None
    base: Row | None = None

    @property
    def project(self) -> str:
        return self.label.split("/")[0]

    @property
    def name(self) -> str:
        """How evaluations call it."""
        return self.label.replace("/", "-")


def scan(root: Path, project: str, known: Known, *, digest: bool = False) -> list[Entry]:
    """The adapters of a project's runs ("": of all), the newest first.

    Args:
        known: what earlier scans found; changed. digest: hash the weights, too (their whole length is read).
    """
    from engine.adapters import CONFIG, WEIGHTS
    from engine.store import Workspace

    found: list[Entry] = []
    for folder in Workspace(root).projects():
        if project and folder.name != project:
            continue
        sources = evaluation.scan(folder.path, known.setdefault(folder.path, {}))
        for run in folder.runs():
            config, weights = run.adapter / CONFIG, run.adapter / WEIGHTS
            if not config.exists():
                continue
            name = run.label.replace("/", "-")
            source = next((s for s in sources if any(x.row.model == name for x in s.lines)), None)
            line = source and next((x for x in source.lines if x.key == (name, "test", "completion")), None)
            base = source.base(line) if source is not None and line is not None else None
            when = max(_mtime(config), _mtime(weights))
            info, problem = _inspect(run.adapter, known, digest)
            found.append(Entry(run.label, run.adapter, when, info, problem, line.row if line else None, base))
    return sorted(found, key=lambda e: (-e.when, e.label))


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def inspected(path: Path, known: Known) -> tuple[AdapterInfo | None, str]:
    """What an adapter's folder holds, its weights hashed; None and why where it cannot be read. `known` as in `scan`."""
    return _inspect(path, known, digest=True)


def _inspect(path: Path, known: Known, digest: bool) -> tuple[AdapterInfo | None, str]:
    from engine import adapters
    from engine.errors import EngineError

    mark = tuple(_mtime(path / name) for name in (adapters.CONFIG, adapters.WEIGHTS))
    before = known.get(path)
    if before is not None and before[0] == mark and (not digest or before[1] is None or before[1].sha256):
        return before[1], before[2]
    try:
        made: tuple[AdapterInfo | None, str] = adapters.inspect(path, digest=digest), ""
    except (EngineError, OSError) as error:
        made = None, getattr(error, "problem", str(error))
    known[path] = (mark, *made)
    return made


# --- settings compared


def settings(entry: Entry) -> dict[str, str]:
    """What an adapter is and how its run was set up, by name, in words."""
    info, found = entry.info, {}
    if info is not None:
        found = {
            "base": info.base + (f" at {info.revision}" if info.revision else ""),
            "rank": ", ".join(map(str, info.ranks)) or str(info.rank),
            "alpha": f"{info.alpha:g}",
            "scaling": f"{info.scaling:g}" + (" (rsLoRA)" if info.rslora else ""),
            "DoRA": "yes" if info.dora else "no",
            "targets": ", ".join(info.targets),
            "modules": str(info.modules),
            "stored whole": ", ".join(info.modules_to_save) or "-",
            "variants": ", ".join(info.variants) or "-",
            "parameters": f"{info.parameters:,}",
            "size": size(info.bytes),
            "dtype": info.dtype,
        }
    return found | _toml(entry.path.parent / "project.toml")


def _toml(path: Path) -> dict[str, str]:
    """The keys of a project file, flat: {"train.steps": "30"}."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        f"{table}.{key}": json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
        for table, keys in tables.items()
        if isinstance(keys, dict)
        for key, value in keys.items()
    }


def differing(entries: Sequence[Entry]) -> list[tuple[str, list[str]]]:
    """(name, value of each) of the settings that are not the same for all; "-" where one has none."""
    all_settings = [settings(e) for e in entries]
    names = list(dict.fromkeys(name for s in all_settings for name in s))
    rows = [(name, [s.get(name, "-") for s in all_settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


# --- merged models


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model; `report` is its merge.json (see `engine.merging.merge.MergeReport`, `verify.Verification`)."""

    path: Path
    when: float
    report: Mapping[str, Any]

    @property
    def proof(self) -> Mapping[str, Any]:
        """What was proved, empty where nothing was."""
        found = self.report.get("verification")
        return found if isinstance(found, Mapping) else {}

    @property
    def verdict(self) -> str:
        if not self.proof:
            return "not verified"
        return "holds" if self.proof.get("holds") is True else "does not hold"

    @property
    def adapters(self) -> str:
        """What was merged, in words."""
        source = Path(str(self.report.get("adapter") or "?"))
        return f"{source.parents[2].name}/{source.parent.name}" if source.name == "adapter" else source.name


def merged(root: Path, project: str) -> list[Merged]:
    """Merged models of a project ("": of all), the newest first; those written elsewhere as long as they are there."""
    from engine.store import Workspace

    files: dict[Path, None] = {}
    for folder in Workspace(root).projects():
        if project and folder.name != project:
            continue
        files |= dict.fromkeys(p.resolve() for p in folder.path.glob("merged/*/merge.json"))
        for result in folder.path.glob("jobs/*/result.json"):
            out = _json(result).get("out")
            if isinstance(out, str) and (file := Path(out) / "merge.json").is_file():
                files[file.resolve()] = None
    found = [Merged(p.parent, _mtime(p), _json(p)) for p in files]
    return sorted((m for m in found if m.report), key=lambda m: (-m.when, str(m.path)))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size < 1 << 26 else {}
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _figure(value: Any, pattern: str) -> str:
    return format(value, pattern) if isinstance(value, int | float) and not isinstance(value, bool) else "-"


def report(made: Merged) -> list[tuple[str, str]]:
    """A merge's report: (title, text) pairs; a title of "" goes on with the one before, an empty pair parts blocks."""
    r, proof = made.report, made.proof
    lines: list[tuple[str, str]] = [
        ("model", str(made.path)),
        ("adapter", str(r.get("adapter", "-"))),
        ("base", f"{r.get('base', '-')} ({r.get('base_weights', '-')} weights)"),
        ("tensors", f"{_figure(r.get('merged'), ',')} of {_figure(r.get('tensors'), ',')} with an update, "
                    f"{_figure(r.get('changed'), ',')} of them changed"),
        ("largest change", f"{_figure(r.get('largest_change'), '.2%')} of a tensor's norm: {r.get('largest_change_in', '-')}"),
        ("written", f"{size(r['bytes']) if isinstance(r.get('bytes'), int) else '-'} in {_figure(r.get('seconds'), '.1f')} s"),
        ("", ""),
    ]  # fmt: skip
    if proof:
        verdict = "yes" if proof.get("holds") is True else "NO: it is not base + adapter"
        lines += [
            ("verified", f"{verdict}; against {proof.get('reference', '-')}"),
            ("KL", f"{_figure(proof.get('kl'), '.2e')} nats from base + adapter, on {_figure(proof.get('prompts'), ',')} "
                   f"prompts (the adapter's own effect: {_figure(proof.get('adapter_kl'), '.2e')})"),
            ("perplexity", f"merged {_figure(proof.get('perplexity_merged'), ',.4f')}, base + adapter "
                           f"{_figure(proof.get('perplexity_adapter'), ',.4f')} ({_figure(proof.get('tokens'), ',')} tokens)"),
            ("logits", f"largest difference {_figure(proof.get('largest_logit_difference'), '.3g')}; same likeliest token "
                       f"after {_figure(proof.get('same_next_token'), '.0%')} of the prompts"),
        ]  # fmt: skip
    else:
        lines.append(("verified", "no: the merge was started without verification"))
    digests = r.get("sha256")
    if isinstance(digests, dict):
        lines.append(("", ""))
        lines += [
            ("files" if not at else "", f"{n}  sha256 {str(d)[:16]}…") for at, (n, d) in enumerate(digests.items())
        ]
    notes = r.get("notes")
    lines += [("note", str(n)) for n in notes] if isinstance(notes, list) else []
    return [(title, one_line(text)) for title, text in lines]
