"""bitsandbytes without waiting for torch.compile, whose machinery its decorators load (over a second) for functions that
stand in for a missing kernel and are seldom called.

Comes from: `loading.load`, before transformers or PEFT import it. Goes to: everyone who imports bitsandbytes after that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch


def prepare() -> None:
    """Import it; what it wants compiled is compiled when it is called first."""
    if "bitsandbytes" in sys.modules:
        return
    at_once = torch.compile

    def later(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
        if function is None:
            return lambda wrapped: later(wrapped, **options)
        compiled: list[Callable[..., Any]] = []

        def call(*arguments: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(at_once(function, **options))
            return compiled[0](*arguments, **named)

        return call

    torch.compile = later
    try:
        import bitsandbytes  # noqa: F401
    finally:
        torch.compile = at_once
