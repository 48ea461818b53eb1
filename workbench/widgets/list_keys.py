"""The letters that move in a list, beside the arrows."""

from __future__ import annotations

from typing import Any

from textual.binding import Binding

IN_LIST: list[Any] = [
    Binding("j", "cursor_down", show=False), Binding("k", "cursor_up", show=False),
    Binding("g", "first", show=False), Binding("G", "last", show=False), Binding("l", "select", show=False),
]  # fmt: skip
"""Of an `OptionList`."""
