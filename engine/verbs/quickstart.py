"""`loraworkbench quickstart`: the whole job on the starter project, watched from the first row to the merged model."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from engine import adapters as adapter_files
from engine import events
from engine.console import Console, columns, shown_path
from engine.control import stop_requests
from engine.errors import InputError
from engine.files import write_json
from engine.jobs import merging, record, work
from engine.store import ProjectFolder, Workspace, shipped
from engine.tables import Project
from engine.verbs import merge as merge_verb

PROJECT = "starter"
SHOWN = 3
"""Unseen problems that base and adapter answer side by side."""


def run(workspace: Workspace | None, console: Console) -> dict[str, Any]:
    """Check, load, measure the base, train, measure the adapter, compare, merge, verify.

    Args:
        workspace: where to work; None: the one around the current folder, or a new one in it.

    Returns:
        The document for --json: `rows` as of `eval`, `comparisons`, `merge`, and where everything is.
    """
    from engine.evaluation import matrix
    from engine.jobs.job import job, tell

    begun = time.monotonic()
    workspace = workspace or _workspace(console)
    folder = _project(workspace)
    project = folder.load()
    run = work.new_run(folder, project)
    name = run.label.replace("/", "-")
    document: dict[str, Any] = {"project": folder.name, "run": run.label, "folder": str(run.path)}

    _heading(console, 1, "check the project, read its rows, measure the base in 4 bits")
    with job("eval", folder.name, console.emit):
        data = work.dataset_of(project, workspace, console.emit)
        loaded = work.load_base(project, workspace, console.emit)
        stop = data.template.stop
        before = matrix.evaluate(loaded, data.splits, [None], project, stop=stop, emit=console.emit)
        del loaded

    _heading(console, 2, f"train a LoRA adapter on it  (run {run.label})")
    emit = tell(events.EventLog(run.events), console.emit)
    with run.lock(), stop_requests() as request, job("train", folder.name, emit, run) as ending:
        ending.reason = work.train(folder, run, project, emit, request).reason

    _heading(console, 3, "measure the adapter on the same rows, seen and unseen")
    with job("eval", folder.name, console.emit):
        loaded = work.load_base(project, workspace, console.emit)
        loaded.load_adapter(name, run.adapter)
        both = [None, name]  # the base is measured already
        evaluation = matrix.evaluate(loaded, data.splits, both, project, stop=stop, emit=console.emit, known=before)
        document |= evaluation.to_json()
        write_json(run.path / "evaluation.json", document)
        record.tell_card(run.adapter, document["rows"], name)

        _heading(console, 4, f"{SHOWN} unseen problems, answered by base and adapter")
        document["comparisons"] = _compare(console, loaded, project, data, name, run.adapter)
        del loaded

    _heading(console, 5, "merge the adapter into the base and prove the result")
    merged = folder.path / "merged" / name
    with job("merge", folder.name, console.emit):
        document["merge"] = merging.merge(folder, project, [(run.adapter, 1.0)], merged, console.emit, replace=True)
    for line in merge_verb.summary(document["merge"]):
        console.say(f"  {line}")

    document["seconds"] = round(time.monotonic() - begun, 1)
    _heading(console, 6, f"done in {document['seconds']:.0f} s")
    console.say(matrix.table(evaluation))
    _closing(console, folder, run.path, merged)
    return document


def _compare(
    console: Console, loaded: Any, project: Project, data: Any, name: str, adapter: Path
) -> list[dict[str, Any]]:
    """Ask base and adapter the same unseen prompts, show the answers side by side."""
    from engine.generation import answering, together

    digests = {name: adapter_files.inspect(adapter).sha256}
    settings = answering.settings_from(project.generate, loaded, data.template.stop)
    made = []
    for prompt, ids in work.watch_prompts(project, data, SHOWN):
        made.append(_comparison(prompt, together.compare(loaded, [None, name], ids, settings, digests)))
        _show(console, made[-1])
    return made


def _workspace(console: Console) -> Workspace:
    try:
        return Workspace.find()
    except InputError:
        made = Workspace(Path.cwd() / "loraworkbench")
        (made.root / "projects").mkdir(parents=True, exist_ok=True)
        console.say(f"no workspace here: made one in {made.root}")
        return made


def _project(workspace: Workspace) -> ProjectFolder:
    """The starter project, put into the workspace with its data where it is not there yet."""
    for part in ("projects/starter/project.toml", "data/word_problems"):
        target = workspace.root / part
        if not target.exists():
            source = shipped(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy2(source, target)
    return workspace.project(PROJECT)


def _heading(console: Console, number: int, text: str) -> None:
    console.say(console.style(f"\n[{number}/6] {text}", "1"), raw=True)


def _comparison(prompt: str, answers: list[Any]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [
            {
                "model": a.model or "base",
                "text": a.answer.text,
                "adapter_sha256": a.digest or None,
                "changed": a.changed,
                "largest_logit_difference": a.largest_logit_difference,
                "kl": a.kl,
            }
            for a in answers
        ],
    }


def _show(console: Console, comparison: dict[str, Any]) -> None:
    answers = comparison["answers"]
    titles = ["base"] + [f"{a['model']}  {a['adapter_sha256'][:8]}  KL {a['kl']:.2f}" for a in answers[1:]]
    console.say(f"\n{comparison['prompt']}")
    console.say(columns(titles, [a["text"] for a in answers], min(console.width, 100)))


def _closing(console: Console, folder: ProjectFolder, run: Path, merged: Path) -> None:
    places = {"run": run, "adapter": run / "adapter", "merged": merged}
    console.say("\nwritten:\n" + "\n".join(f"  {what:7}  {shown_path(path)}" for what, path in places.items()))
    name = folder.name
    following = {
        f"loraworkbench rows {name} --row 1": "a row as the model sees it",
        f"loraworkbench generate {name} --prompt '...'": "ask base and adapter yourself",
        f"loraworkbench train {name} --set lora.r=4": "another run; then `runs`",
        "loraworkbench new my-project --data my.jsonl": "your own data",
    }
    console.say("\nnext:" + (activation() or "") + "\n" + "\n".join(f"  {c:47}{why}" for c, why in following.items()))


def activation() -> str | None:
    """What makes the shell find `loraworkbench` where it does not yet."""
    script = Path(sys.prefix, "bin", "activate")
    if shutil.which("loraworkbench") or not script.is_file():
        return None
    return f"  (first `source {shown_path(script)}`, for this shell to find them)"
