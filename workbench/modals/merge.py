"""How adapters are merged into their base. Gives the arguments of the engine's `merge`.

Several are first combined into one; what the methods do is said in `engine.merging.combine`, here in a sentence each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button, Input, Static

from engine.text import one_line
from workbench.modals.evaluate import entry_text
from workbench.modals.ordering import Ordering
from workbench.widgets.checks import Box, Checks
from workbench.widgets.cycle import Cycle

if TYPE_CHECKING:
    from workbench.models.adapters import Entry

METHODS = {
    "svd": "The best approximation of the weighted sum of the updates at the largest rank. Works for any ranks.",
    "cat": "The weighted sum of the updates exactly; the rank is the sum of the ranks.",
    "linear": "Weighted sums of the A and B matrices: cheap, but their product has cross terms. Needs equal ranks.",
    "ties": "Trims small values, elects a sign for each, averages what agrees: for adapters that disagree. Equal ranks.",
    "ties_svd": "TIES on the whole updates, then the best approximation at the largest rank. Any ranks.",
    "dare_linear": "Drops values at random, rescales the rest, then as linear. Equal ranks.",
    "dare_linear_svd": "The same on the whole updates. Any ranks.",
    "dare_ties": "Drops values at random, then elects signs as TIES does. Equal ranks.",
    "dare_ties_svd": "The same on the whole updates. Any ranks.",
    "magnitude_prune": "Trims small values, then as linear. Equal ranks.",
    "magnitude_prune_svd": "The same on the whole updates. Any ranks.",
}
WHOLE = ("svd", "cat", "linear")
"""Methods that keep all values and take no density."""

BASES = {
    "original": "Into the full-precision base: as a rule the better model, though the adapter was trained on the 4-bit one.",
    "nf4": "Into the base as 4 bits rounded it: follows what was trained most closely, and keeps the rounding's losses.",
}
REPLACE = {
    "no": "A folder that exists is left alone, and the merge fails.",
    "yes": "A model that is there is replaced, once the new one is complete and verified.",
}
VERIFY = {
    "yes": "Loads both and compares logits and perplexity before the model is put in its place.",
    "no": "Faster, and unproved.",
}


def numbers(text: str) -> list[float] | None:
    """Numbers between commas or spaces; None where one is none."""
    try:
        found = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None


class Merge(Ordering):
    """Returns arguments ["--adapter=...", ...], None after Escape."""

    DEFAULT_CSS = """
    Merge .dialog { height: 90%; max-height: 32; margin-top: 1; padding: 0 2; width: 84; }
    Merge VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
    Merge .field { height: auto; width: 1fr; }
    Merge .field > Static { width: 11; color: $text-muted; }
    Merge Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $boost; }
    Merge Checks { max-height: 5; width: 1fr; }
    """

    def __init__(self, root: Path, project: str, entries: list[Entry], chosen: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.root, self.about, self.entries = root, project, entries
        self.preselected = chosen or tuple(e.label for e in entries[:1])
        self._suggested = ""

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(f"Merge into one model: {one_line(self.about)}", markup=False)
            with VerticalScroll(can_focus=False):
                with Horizontal(classes="field"):
                    yield Static("Adapters")
                    boxes = [Box(e.label, entry_text(e), e.label in self.preselected) for e in self.entries]
                    yield Checks(boxes, id="adapters")
                with Horizontal(classes="field", id="weights-field"):
                    yield Static("Weights")
                    yield Input("", placeholder="1 each; in the order of the list: 1, 0.5", id="weights", compact=True)
                with Horizontal(classes="field", id="method-field"):
                    yield Static("Method")
                    yield Cycle(METHODS, id="method")
                with Horizontal(classes="field", id="density-field"):
                    yield Static("Density")
                    yield Input("0.5", placeholder="share of the values that is kept", id="density", compact=True)
                with Horizontal(classes="field"):
                    yield Static("Base")
                    yield Cycle(BASES, id="base")
                with Horizontal(classes="field"):
                    yield Static("Into")
                    yield Input("", id="out", compact=True)
                with Horizontal(classes="field"):
                    yield Static("Replace")
                    yield Cycle(REPLACE, id="replace")
                with Horizontal(classes="field"):
                    yield Static("Verify")
                    yield Cycle(VERIFY, id="verify")
            yield Static("", classes="wrong", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Merge", id="go", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    def on_mount(self) -> None:
        self._changed()
        boxes = self.query_one("#adapters", Checks)
        boxes.focus()
        boxes.highlighted = next((i for i, e in enumerate(self.entries) if e.label in self.preselected), 0)

    # --- what follows from what is chosen

    @property
    def chosen(self) -> list[Entry]:
        labels = self.query_one("#adapters", Checks).selected
        return [e for e in self.entries if e.label in labels]

    def _changed(self) -> None:
        chosen, method = self.chosen, self.query_one("#method", Cycle).value
        self.query_one("#method-field").display = len(chosen) > 1
        self.query_one("#density-field").display = len(chosen) > 1 and method not in WHOLE
        self.query_one("#weights-field").display = bool(chosen)
        out = self.query_one("#out", Input)
        if out.value == self._suggested:
            name = "+".join(e.name for e in chosen) or "model"
            name += "-nf4" if self.query_one("#base", Cycle).value == "nf4" else ""
            self._suggested = f"projects/{self.about}/merged/{name}"
            out.value = self._suggested
        self.query_one(".wrong", Static).update("")

    def on_checks_changed(self) -> None:
        self._changed()

    def on_cycle_changed(self) -> None:
        self._changed()

    # --- the end

    def arguments(self) -> tuple[str, list[str]]:
        chosen = self.chosen
        if not chosen:
            return "Check at least one adapter.", []
        weights = numbers(self.query_one("#weights", Input).value)
        if weights is None or (weights and len(weights) != len(chosen)):
            count = "one number" if len(chosen) == 1 else f"{len(chosen)} numbers"
            return f"Weights: {count}, or nothing for 1 each.", []
        given = self.query_one("#out", Input).value.strip()
        if not given:
            return "Into: name a folder.", []
        arguments = [f"--adapter={e.label}" for e in chosen] + [f"--weight={w:g}" for w in weights]
        if len(chosen) > 1:
            method = self.query_one("#method", Cycle).value
            arguments.append(f"--method={method}")
            if method not in WHOLE:
                density = numbers(self.query_one("#density", Input).value)
                if density is None or len(density) != 1 or not 0 < density[0] <= 1:
                    return "Density: a number above 0 and at most 1.", []
                arguments.append(f"--density={density[0]:g}")
        out = Path(given).expanduser()
        arguments += [f"--base-weights={self.query_one('#base', Cycle).value}"]
        arguments += [f"--out={out if out.is_absolute() else self.root / out}"]
        arguments += ["--replace"] if self.query_one("#replace", Cycle).value == "yes" else []
        return "", [*arguments, "--verify" if self.query_one("#verify", Cycle).value == "yes" else "--no-verify"]
