"""What is to be measured: base, which adapters, which rows. Gives the arguments of the engine's `eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Button, Input, Static

from engine.text import cut, one_line
from workbench.modals.ordering import Ordering
from workbench.models.evaluation_words import short
from workbench.widgets.checks import Box, Checks

if TYPE_CHECKING:
    from workbench.models.adapters import Entry

MOST_SHOWN = 200


def entry_text(entry: Entry) -> str:
    """An adapter in a list of boxes."""
    figure = f"  unseen ppl {short(entry.row.perplexity)}" if entry.row is not None else "  not measured"
    rank = "cannot be read" if entry.info is None else f"r {entry.info.rank}"
    return cut(one_line(f"{entry.label}  {rank}"), 40) + figure


class Evaluate(Ordering):
    """Returns arguments ["--adapter=starter/0001", ...], None after Escape."""

    DEFAULT_CSS = """
    Evaluate .label { color: $text-muted; height: 1; margin-top: 1; }
    Evaluate .fields { height: 1; }
    Evaluate .fields Static { width: 24; }
    Evaluate .fields Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $boost; }
    """

    def __init__(self, project: str, entries: list[Entry], chosen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.about = project
        self.entries = [e for e in entries if e.info is not None][:MOST_SHOWN]
        self.chosen = chosen or tuple(e.label for e in self.entries[:1])

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(f"Evaluate {one_line(self.about)} on the same rows", markup=False)
            yield Static("Models (space checks, Enter starts)", classes="label")
            boxes = [Box("", "base, without adapter: what the others are tested against", True)]
            boxes += [Box(e.label, entry_text(e), e.label in self.chosen) for e in self.entries]
            yield Checks(boxes, id="models")
            yield Static("Rows", classes="label")
            yield Checks([Box("test", "unseen rows", True), Box("train", "training rows", True)], id="splits")
            with Horizontal(classes="fields"):
                yield Static("at most, of each kind")
                yield Input(placeholder="as the project file says", id="rows", compact=True, restrict=r"[0-9]*")
            yield Static("", classes="wrong", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Evaluate", id="go", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        models = self.query_one("#models", Checks)
        models.focus()
        models.highlighted = 0

    def arguments(self) -> tuple[str, list[str]]:
        models = self.query_one("#models", Checks).selected
        splits = self.query_one("#splits", Checks).selected
        if not models or not splits:
            return f"Check at least one {'model' if not models else 'kind of rows'}.", []
        arguments = [f"--adapter={label}" for label in (e.label for e in self.entries) if label in models]
        arguments += [f"--split={s}" for s in ("test", "train") if s in splits]
        arguments.append("--base-only" if models == [""] else "--base" if "" in models else "--no-base")
        if rows := int(self.query_one("#rows", Input).value or 0):
            arguments += [f"--set=eval.{s}_rows={rows}" for s in ("test", "train") if s in splits]
        return "", arguments
