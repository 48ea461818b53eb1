"""The Output list of the panel: what jobs of this workspace say."""

from __future__ import annotations

from textual.widgets import Log


class OutputView(Log):
    DEFAULT_CSS = "OutputView { height: 1fr; background: $surface; }"
