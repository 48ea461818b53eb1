"""A dialog that ends in arguments for a verb of the engine, or in words about what is wrong with them."""

from __future__ import annotations

from typing import ClassVar

from textual.screen import ModalScreen
from textual.widgets import Button, Static


class Ordering(ModalScreen[list[str] | None]):
    """Enter in a field or in boxes, and the button `#go`, give `arguments`; Escape and other buttons None.

    What is wrong stands in the Static of class `wrong`.
    """

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Cancel")]

    def arguments(self) -> tuple[str, list[str]]:
        """What is wrong, "" where nothing is; what the engine is told."""
        raise NotImplementedError

    def on_checks_submitted(self) -> None:
        self._go()

    def on_input_submitted(self) -> None:
        self._go()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "go":
            self._go()
        else:
            self.dismiss(None)

    def _go(self) -> None:
        problem, arguments = self.arguments()
        if problem:
            self.query_one(".wrong", Static).update(problem)
        else:
            self.dismiss(arguments)
