"""`loraworkbench adapters`: the adapters of all runs, with what was measured of them. No torch."""

from __future__ import annotations

import json
from typing import Any

from engine import adapters
from engine.adapters import AdapterInfo
from engine.console import Console, amount, size
from engine.errors import InputError
from engine.store import ProjectFolder, Run, Workspace
from engine.verbs.runs import chosen


def run(workspace: Workspace, project_name: str | None, console: Console) -> dict[str, Any]:
    """Print the adapters of one project's runs or of all.

    Returns:
        {"adapters": [{name, run, path, base, r, alpha, targets, parameters, bytes, variants, test_perplexity,
        exact_match}], "broken": [{where, problem}]}; the two measures are of unseen rows, null where there are none.

    Raises:
        InputError: there is no such project.
    """
    listed: list[dict[str, Any]] = []
    broken: list[InputError] = []
    for folder in chosen(workspace, project_name):
        measured = _measured(folder)
        for each in folder.runs():
            name = each.label.replace("/", "-")
            try:
                if (each.adapter / adapters.CONFIG).is_file():
                    info = adapters.inspect(each.adapter, digest=False)
                    listed.append(_document(name, each, info, measured.get(name, {})))
            except InputError as error:
                broken.append(error)
    if listed:
        headers = ["adapter", "base", "r", "alpha", "targets", "parameters", "size", "test ppl", "exact match"]
        console.table(headers, [_row(entry) for entry in listed], "<<>><>>>>")
    else:
        console.say("no adapters yet; `loraworkbench train PROJECT` makes one")
    for error in broken:
        console.warn(str(error))
    return {"adapters": listed, "broken": [{"where": e.where, "problem": e.problem} for e in broken]}


def _document(name: str, run: Run, info: AdapterInfo, measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "run": run.label,
        "path": info.path,
        "base": info.base,
        "r": info.rank,
        "alpha": info.alpha,
        "targets": list(info.targets),
        "parameters": info.parameters,
        "bytes": info.bytes,
        "variants": list(info.variants),
        "test_perplexity": measured.get("perplexity"),
        "exact_match": measured.get("exact_match"),
    }


def _measured(folder: ProjectFolder) -> dict[str, dict[str, Any]]:
    """Adapter -> its row for completions of unseen rows, out of the newest evaluation that has one."""
    found: dict[str, dict[str, Any]] = {}
    files = [*folder.runs_folder.glob("evaluation.json"), *folder.runs_folder.glob("*/evaluation.json")]
    for file in sorted(files, key=lambda f: f.stat().st_mtime):
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
            found |= {r["model"]: r for r in rows if r["split"] == "test" and r["scope"] == "completion"}
        except (OSError, ValueError, KeyError, TypeError):  # not of this version, or not of ours
            continue
    return found


def _row(entry: dict[str, Any]) -> list[str]:
    return [
        entry["name"],
        entry["base"],
        str(entry["r"]),
        f"{entry['alpha']:g}",
        " ".join(entry["targets"]),
        f"{entry['parameters']:,}",
        size(entry["bytes"]),
        amount(entry["test_perplexity"], ",.3f"),
        amount(entry["exact_match"], ".1%"),
    ]
