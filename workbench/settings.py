"""What the user chose (a TOML file in the config folder), and what the workbench remembers (JSON in the state folder).

    ~/.config/loraworkbench/config.toml       [ui] theme, max_fps, ascii; [keys] action.id = "ctrl+x,f7"
    ~/.local/state/loraworkbench/HASH.json    layout, open tabs and last run of one workspace

Nothing of it is in the project. No pydantic here: this is read before the first paint.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKSPACE_VARIABLE = "LORAWORKBENCH_WORKSPACE"
FPS_OVER_SSH = 30


def find_workspace(given: Path | None) -> Path | None:
    """`given`, $LORAWORKBENCH_WORKSPACE, or the nearest folder upward that has projects/; as `Workspace.find`."""
    chosen = given or (Path(os.environ[WORKSPACE_VARIABLE]) if os.environ.get(WORKSPACE_VARIABLE) else None)
    if chosen is not None:
        return chosen.resolve() if (chosen / "projects").is_dir() else None
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents) if (folder / "projects").is_dir()), None)


def config_file() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_path("loraworkbench")) / "config.toml"


@dataclass
class Settings:
    """The user's config.

    Attributes:
        theme: a theme's name.
        max_fps: frames a second; 0: 60, or 30 over SSH.
        ascii: only ASCII where a mark would be a symbol.
        keys: action id -> keys, comma-separated.
        problems: what is wrong with the file, to be shown once.
    """

    theme: str = "workbench-dark"
    max_fps: int = 0
    ascii: bool = False
    keys: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path | None = None) -> Settings:
        """The config file's settings; what is wrong in it is told in `problems`, and the defaults stand."""
        path = path or config_file()
        found = cls()
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return found
        except (OSError, ValueError) as error:
            found.problems.append(f"{path}: {error}")
            return found
        for table, values in raw.items():
            if table not in ("ui", "keys") or not isinstance(values, dict):
                found.problems.append(f"{path}: unknown table [{table}]; there are [ui] and [keys]")
                continue
            for name, value in values.items():
                found._take(path, table, name, value)
        return found

    def _take(self, path: Path, table: str, name: str, value: Any) -> None:
        if table == "keys":
            for full, keys in _flat(name, value):
                if isinstance(keys, str):
                    self.keys[full] = keys
                else:
                    self.problems.append(f'{path}: keys.{full}: write keys as text, for example "ctrl+x,f7"')
        elif name not in ("theme", "max_fps", "ascii"):
            self.problems.append(f"{path}: unknown key ui.{name}; there are theme, max_fps, ascii")
        elif type(value) is not type(getattr(self, name)):
            self.problems.append(f"{path}: ui.{name} is to be a {type(getattr(self, name)).__name__}")
        else:
            setattr(self, name, value)

    def apply_to(self, environment: MutableMapping[str, str]) -> None:
        """Set what Textual reads from the environment when it is imported; what the user set there stands."""
        over_ssh = bool(environment.get("SSH_CONNECTION"))
        fps = self.max_fps or (FPS_OVER_SSH if over_ssh else 0)
        if fps:
            environment.setdefault("TEXTUAL_FPS", str(fps))
        if over_ssh:
            environment.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
        environment.setdefault("TEXTUAL_ANIMATIONS", "none")


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """`run.start = "f5"` is a table in TOML: its entries under their full names."""
    if isinstance(value, dict):
        return [pair for inner, v in value.items() for pair in _flat(f"{name}.{inner}", v)]
    return [(name, value)]


class State:
    """What is remembered of one workspace between two starts.

    `values` is a plain dictionary ("layout", "tabs", "view", "run", "theme"); a damaged file counts as none.
    """

    def __init__(self, workspace: Path, folder: Path | None = None) -> None:
        if folder is None:
            import platformdirs

            folder = Path(platformdirs.user_state_path("loraworkbench"))
        self.folder = folder / hashlib.sha256(str(workspace).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        self.path = self.folder.with_suffix(".json")
        self.values: dict[str, Any] = {}
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
            self.values = read if isinstance(read, dict) else {}
        except (OSError, ValueError):
            pass

    def get(self, name: str, default: Any) -> Any:
        """What is remembered under `name`, where it is of `default`'s type."""
        value = self.values.get(name, default)
        return value if isinstance(value, type(default)) else default

    def save(self, values: dict[str, Any]) -> str | None:
        """Write `values`; returns what went wrong, or None. Nothing is written where nothing changed."""
        if values == self.values:
            return None
        self.values = values
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_suffix(f".{os.getpid()}.part")
            beside.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
            beside.replace(self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return None
