"""The terminal of an application that runs without one: what is sent to it, shown by a terminal's emulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyte
import pytest
from textual._compositor import CompositorUpdate
from textual.app import App
from textual.screen import Screen


class Mirror:
    """Attributes: sent: characters since it was made. updates: how often something was sent."""

    def __init__(self, app: App) -> None:
        self.app, self.sent, self.updates = app, 0, 0
        self.terminal = self._blank()

    def _blank(self) -> pyte.Screen:
        return pyte.Screen(*self.app.size)

    def show(self, update: CompositorUpdate) -> None:
        size = (self.terminal.columns, self.terminal.lines)
        if size != self.app.size:  # a terminal of another size is drawn anew
            self.terminal = self._blank()
        text = update.render_segments(self.app.console)
        self.sent, self.updates = self.sent + len(text), self.updates + bool(text)
        pyte.Stream(self.terminal).feed(text)

    @property
    def settled(self) -> bool:
        """Nothing is to be drawn."""
        screen = self.app.screen
        waits = screen._dirty_widgets or screen._compositor._dirty_regions or screen._layout_required
        return not (waits or screen._repaint_required or screen._scroll_required)

    def differences(self) -> list[str]:
        """Lines that differ from a screen that is drawn whole now, of a screen that is `settled`.

        Not those with wide and joined characters: emulators differ about half of one under another widget.
        """
        whole = self._blank()
        strips = self.app.screen._compositor.render_strips()
        text = "".join(f"\x1b[{y + 1};1H{strip.render(self.app.console)}" for y, strip in enumerate(strips))
        pyte.Stream(whole).feed(text)
        return [
            f"{y}: {mine!r} instead of {other!r}"
            for y, (mine, other) in enumerate(zip(self.terminal.display, whole.display, strict=True))
            if len(mine) == len(other) == sum(len(s.text) for s in strips[y])
            if mine != other or _cells(self.terminal, y) != _cells(whole, y)
        ]


def _cells(terminal: pyte.Screen, y: int) -> list[Any]:
    """Characters and colours; the ink of a space does not count."""
    line = (terminal.buffer[y][x] for x in range(terminal.columns))
    return [c if c.data.strip() else (c.data, c.bg if not c.reverse else c.fg) for c in line]


@contextmanager
def mirrored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Mirror]]:
    """All applications begun meanwhile have a `Mirror`, the last one at the end."""
    mirrors: list[Mirror] = []

    def display(app: App, screen: Screen, update: Any) -> None:
        if isinstance(update, CompositorUpdate) and not app._batch_count:
            if not mirrors or mirrors[-1].app is not app:
                mirrors.append(Mirror(app))
            mirrors[-1].show(update)
        app.post_display_hook()

    with monkeypatch.context() as patch:
        patch.setattr(App, "_display", display)
        yield mirrors
