"""`loraworkbench generate`: the same prompts answered by base and adapters, with proof of whose answer is whose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from engine import adapters as adapter_files
from engine.console import Console, columns
from engine.errors import InputError
from engine.jobs import work
from engine.store import ProjectFolder, Workspace
from engine.tables import Project
from engine.tokens import prompts
from engine.tokens.examples import Encoder

if TYPE_CHECKING:
    from engine.generation.together import Compared

BASE = "base"


def run(
    workspace: Workspace,
    project_name: str,
    overrides: list[str],
    asked: list[str],
    adapters: list[str],
    base: bool,
    console: Console,
) -> dict[str, Any]:
    """Answer prompts and print the answers side by side, or below each other on a narrow terminal.

    Args:
        asked: prompts; "-" stands for the lines of stdin; empty: the project's `generate.prompts`.
        adapters: runs or folders; empty: the project's newest, or none where it has none.
        base: let the base answer, too.

    Returns:
        {"prompts": [{prompt, answers: [{model, text, adapter_sha256, adapter_short, changed,
        largest_logit_difference, kl, proof, stopped}]}]}; `model` is "base" or the adapter's name, `proof` says the
        three before it in words, `stopped` whether the answer ended by itself.

    Raises:
        InputError: no prompt, no such adapter, nobody to answer, or an adapter that does not fit the base.
        WorkFailed: see `answering.complete`.
    """
    folder = workspace.project(project_name)
    project = folder.load(overrides)
    texts = _texts(asked, project, sys.stdin)
    chosen = _adapters(workspace, folder, adapters, base)
    from engine.generation import answering, together

    loaded = work.load_base(project, workspace, console.emit)
    names: dict[str | None, str] = {None: BASE}
    digests: dict[str, str] = {}
    for number, (name, path) in enumerate(chosen, 1):
        attached = f"adapter_{number}"  # torch allows no dots in a module's name; a folder's may have some
        loaded.load_adapter(attached, path)
        names[attached], digests[attached] = name, adapter_files.inspect(path).sha256
    template = prompts.template_for(project.data, loaded.tokenizer)
    encoder = Encoder(loaded.tokenizer)
    settings = answering.settings_from(project.generate, loaded, template.stop)
    models = [name for name in names if base or name is not None]
    document: list[dict[str, Any]] = []
    for text in texts:
        answers = together.compare(loaded, models, encoder.prompt(template.prompt(text)), settings, digests)
        document.append({"prompt": text, "answers": [_answer(names[a.model], a) for a in answers]})
        _tell(console, document[-1])
    return {"prompts": document}


def _texts(asked: list[str], project: Project, stdin: TextIO) -> list[str]:
    """The prompts, in order, nothing of them changed."""
    texts: list[str] = []
    for text in asked or project.generate.prompts:
        texts += stdin.read().splitlines() if text == "-" and asked else [text]
    if not texts:
        raise InputError(
            "no prompt", remedy="give one with --prompt TEXT, many with --prompt - on stdin, or set generate.prompts"
        )
    return texts


def _adapters(workspace: Workspace, folder: ProjectFolder, names: list[str], base: bool) -> list[tuple[str, Path]]:
    """The adapters that answer; without names the newest, where there is one or nobody else could answer."""
    if names:
        return [work.adapter_of(workspace, folder, name) for name in names]
    try:
        return [work.adapter_of(workspace, folder, None)]
    except InputError:
        if not base:
            raise
        return []


def _answer(name: str, compared: Compared) -> dict[str, Any]:
    return {
        "model": name,
        "text": compared.answer.text,
        "adapter_sha256": compared.digest or None,
        "adapter_short": compared.digest[:8] or None,
        "changed": compared.changed,
        "largest_logit_difference": compared.largest_logit_difference,
        "kl": compared.kl,
        "proof": _proof(compared),
        "stopped": compared.answer.stopped,
    }


def _proof(compared: Compared) -> str | None:
    """How far an adapter is from base on this prompt, in words."""
    if compared.model is None:
        return None
    if not compared.changed:
        return "this adapter changed nothing: its scores after this prompt are those of the base"
    return f"largest logit difference {compared.largest_logit_difference:.3g}, KL {compared.kl:.3g} nats, against base"


def _tell(console: Console, asked: dict[str, Any]) -> None:
    answers = asked["answers"]
    console.say(f"\n> {asked['prompt']}\n")
    titles = [a["model"] if a["model"] == BASE else f"{a['model']} ({a['adapter_short']})" for a in answers]
    console.say(columns(titles, [a["text"] for a in answers], console.width))
    for answer in answers:
        if answer["adapter_sha256"] is None:
            continue
        (console.say if answer["changed"] else console.warn)(f"{answer['model']}: {answer['proof']}")
        if not answer["stopped"]:
            console.say(f"{answer['model']} was cut off at generate.max_new_tokens")
