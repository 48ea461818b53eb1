"""How a comparison asks: chat or raw text, which history, system prompt, sampling. Empty fields: as the project says."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from workbench.models.compare import HISTORIES, Sampling
from workbench.widgets.cycle import Cycle

FIELDS = {
    "temperature": ("temperature", "0: always the likeliest token", float),
    "top_p": ("top p", "1: all tokens", float),
    "top_k": ("top k", "0: all tokens", int),
    "max_new_tokens": ("longest answer", "tokens", int),
    "seed": ("seed", "the same one gives the same text", int),
}
WAYS = {"chat": "a message, in the tokenizer's template", "raw": "the text is continued as it is"}


def bounds(name: str, value: float) -> str:
    """What is wrong with a value, "" where nothing is; as the [generate] table says."""
    if name == "top_p":
        return "" if 0 < value <= 1 else "top p is above 0 and at most 1"
    if name == "max_new_tokens":
        return "" if value >= 1 else "the longest answer has at least 1 token"
    return "" if 0 <= value < 2**63 else f"{FIELDS[name][0]} is 0 or more"


class SamplingForm(ModalScreen[Sampling | None]):
    """Returns the settings, None after Escape."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Cancel")]
    DEFAULT_CSS = """
    SamplingForm VerticalScroll { height: auto; max-height: 18; }
    SamplingForm .fields { height: auto; }
    SamplingForm .fields > .name { width: 16; }
    SamplingForm .fields Input { width: 1fr; height: 1; border: none; padding: 0 1; background: $boost; }
    """

    def __init__(self, sampling: Sampling) -> None:
        super().__init__()
        self.sampling = sampling

    def compose(self) -> ComposeResult:
        now = self.sampling
        with Vertical(classes="dialog"):
            with VerticalScroll(can_focus=False):
                with Horizontal(classes="fields"):
                    yield Static("prompts are", classes="name")
                    yield Cycle(WAYS, "raw" if now.raw else "chat", id="way")
                with Horizontal(classes="fields"):
                    yield Static("history", classes="name")
                    yield Cycle(HISTORIES, now.history, id="history")
                yield from self._field("system", "system prompt", now.system, "as the project says")
                for name, (title, about, _) in FIELDS.items():
                    value = getattr(now, name)
                    yield from self._field(
                        name, title, "" if value is None else f"{value:g}", f"{about}; empty: as the project says"
                    )
            yield Static("", classes="wrong", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Take", id="take", compact=True)
                yield Button("Cancel", id="cancel", compact=True)

    def _field(self, name: str, title: str, value: str, placeholder: str) -> ComposeResult:
        with Horizontal(classes="fields"):
            yield Static(title, classes="name")
            yield Input(value, placeholder=placeholder, id=name, compact=True)

    def on_mount(self) -> None:
        self.query_one("#way").focus()

    def on_input_submitted(self) -> None:
        self._take()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "take":
            self._take()
        else:
            self.dismiss(None)

    def _take(self) -> None:
        values: dict[str, float | int | None] = {}
        for name, (title, _, kind) in FIELDS.items():
            text = self.query_one(f"#{name}", Input).value.strip()
            try:
                values[name] = kind(text) if text else None
            except ValueError:
                self._wrong(f"{title} is a {'whole ' if kind is int else ''}number, not {text}")
                return
            value = values[name]
            if value is not None and (wrong := bounds(name, value)):
                self._wrong(wrong)
                return
        way, history = self.query_one("#way", Cycle).value, self.query_one("#history", Cycle).value
        system = self.query_one("#system", Input).value
        self.dismiss(replace(self.sampling, raw=way == "raw", history=history, system=system, **values))  # type: ignore[arg-type]

    def _wrong(self, text: str) -> None:
        self.query_one(".wrong", Static).update(text)
