"""Two themes of our own; Textual's built-in ones, the ANSI ones among them, are there as well."""

from textual.theme import Theme

THEMES = [
    Theme(
        name="workbench-dark", primary="#3b82c4", secondary="#8b7cc8", accent="#d9a441", warning="#d9a441",
        error="#d9534f", success="#5aa469", foreground="#d8dce3", background="#14171c", surface="#1a1e25",
        panel="#232934", dark=True,
    ),
    Theme(
        name="workbench-light", primary="#2f6fb0", secondary="#6a5aa8", accent="#9a6a00", warning="#9a6a00",
        error="#b3261e", success="#2e7d4f", foreground="#1b1f24", background="#fbfbfa", surface="#f3f3f1",
        panel="#e6e6e2", dark=False,
    ),
]  # fmt: skip
