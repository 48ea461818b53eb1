"""The explorer: projects, their files, runs, adapters and checkpoints; data files."""

from __future__ import annotations

from textual.widgets import Tree


class Explorer(Tree[str]):
    def __init__(self) -> None:
        super().__init__("workspace")
