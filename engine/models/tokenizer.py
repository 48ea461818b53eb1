"""Where a base model is, and its tokenizer. No torch here: what needs no more than these never waits for it.

Comes from: the [model] table. Goes to: `loading`, and the verbs that look at data (`check`, `rows`, `browse`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from engine import network
from engine.errors import InputError
from engine.store import Workspace, shipped
from engine.tables import ModelTable, Project


def quiet() -> None:
    """Keep the libraries' notices off the screen: what matters is said in our own words."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(peft|bitsandbytes|transformers)\b.*")


def base_location(table: ModelTable, workspace: Workspace) -> str:
    """Where the base is: a folder's path, or a Hub id.

    Raises:
        InputError: it is written like a path and there is no such folder.
    """
    if table.base == "starter":
        return str(shipped("data/starter"))
    folder = workspace.resolve(table.base)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError("this folder holds no model: config.json is missing", where=str(folder))
        return str(folder)
    if table.base.startswith((".", "/", "~")) or table.base.count("/") > 1:
        raise InputError("no such folder for model.base", where=str(folder), remedy="give a folder or a Hub id")
    return table.base


def tokenizer_of(project: Project, workspace: Workspace) -> tuple[str, Any]:
    """Where a project's base is, and its tokenizer.

    Raises:
        InputError: see `base_location` and `load_tokenizer`.
    """
    if project.launch.offline:
        network.settle(offline=True)
    location = base_location(project.model, workspace)
    return location, load_tokenizer(location, project.model)


def load_tokenizer(location: str, table: ModelTable) -> Any:
    """The base's fast tokenizer.

    Raises:
        InputError: there is none (only tokenizers with character offsets are supported).
    """
    from transformers import AutoTokenizer

    with hub_errors(location):
        tokenizer = AutoTokenizer.from_pretrained(
            location, revision=table.revision, trust_remote_code=table.trust_remote_code
        )
    if not tokenizer.is_fast:
        raise InputError("this model has no fast tokenizer (tokenizer.json)", where=location)
    return tokenizer


@contextlib.contextmanager
def hub_errors(location: str) -> Iterator[None]:
    """What the libraries raise while the base at `location` is looked for, in words."""
    offline = "" if os.path.isdir(location) else network.settle()
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        if offline:
            first = f"it is not in the Hub's cache here, and the Hub is out of reach ({offline})"
        raise InputError(
            f"cannot load the base model: {first}",
            where=location,
            remedy="check model.base and model.revision; offline, give a folder or a model that is in the Hub cache",
        ) from error
