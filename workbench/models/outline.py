"""What the explorer shows, as a tree of plain nodes made from a snapshot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.text import age, one_line
from workbench.models.workspace import ProjectInfo, RunInfo, Snapshot

Kind = Literal["project", "file", "data", "runs", "run", "adapter", "checkpoint", "folder", "action"]

MARKS = {"running": "▶", "done": "✓", "stopped": "■", "failed": "✗", "killed": "✗", "empty": "·"}
ASCII_MARKS = {"running": ">", "done": "+", "stopped": "=", "failed": "!", "killed": "!", "empty": "."}


@dataclass(frozen=True, slots=True)
class Node:
    """One line.

    Attributes:
        key: unique, and the same for the same thing in the next snapshot.
        uri: the tab that it opens, "" where it only unfolds.
        path: the file or folder that it stands for; None where there is none.
        open: whether it is unfolded when first seen.
    """

    key: str
    kind: Kind
    label: str
    uri: str = ""
    path: Path | None = None
    children: tuple[Node, ...] = ()
    open: bool = False


def outline(snapshot: Snapshot, *, ascii: bool = False, now: float | None = None) -> tuple[Node, ...]:
    """The workspace's projects, then its data files."""
    now = time.time() if now is None else now
    projects = tuple(_project(p, ascii, now) for p in snapshot.projects.values())
    if not projects:
        projects = (Node("none", "action", "New project…"),)
    files = tuple(
        Node(f"data/{f}", "file", one_line(f.removeprefix("data/")), f"file:{f}", snapshot.root / f)
        for f in snapshot.data
    )
    return (*projects, Node("data", "folder", "data", children=files)) if files else projects


def _project(project: ProjectInfo, ascii: bool, now: float) -> Node:
    name = project.name
    runs = tuple(_run(r, ascii, now) for r in reversed(project.runs))
    children = [
        Node(f"{name}/toml", "file", "project.toml", f"project:{name}", project.file),
        Node(f"{name}/data", "data", "data", f"data:{name}"),
        Node(
            f"{name}/runs", "runs", f"runs {len(runs)}" if runs else "runs (none yet)", f"runs:{name}", None, runs, True
        ),
    ]
    if any(r.adapter for r in project.runs):
        children.append(Node(f"{name}/adapters", "folder", "adapters", f"adapters:{name}"))
    if any(r.evaluated for r in project.runs):
        children.append(Node(f"{name}/eval", "folder", "evaluation", f"eval:{name}"))
    return Node(name, "project", one_line(name), f"project:{name}", project.path, tuple(children))


def _run(run: RunInfo, ascii: bool, now: float) -> Node:
    children = [Node(f"{run.label}/adapter", "adapter", "adapter", f"adapters:{run.project}")] if run.adapter else []
    children += [
        Node(f"{run.label}/{step}", "checkpoint", f"checkpoint {step}", f"run:{run.label}")
        for step in reversed(run.checkpoints)
    ]
    return Node(run.label, "run", run_line(run, ascii, now), f"run:{run.label}", run.path, tuple(children))


def run_line(run: RunInfo, ascii: bool, now: float) -> str:
    """ "✓ 0006 loss 0.91  3 h": a run's state, how far it is, and when it last said something."""
    words = [(ASCII_MARKS if ascii else MARKS).get(run.state, "?"), run.number]
    if run.state == "running" and run.step and run.steps:
        words.append(f"{100 * run.step // run.steps}%")
    elif run.state != "done":
        words.append(run.state)
    if run.loss is not None:
        words.append(f"loss {run.loss:.3g}")
    if run.touched is not None and run.state != "running":
        words.append(age(now - run.touched))
    return " ".join(words)
