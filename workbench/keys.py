"""Keys on their way from the terminal to the widgets: one after the other, whole.

Textual hands a key to the focused widget, whence it goes up from queue to queue, and takes the next one meanwhile. So
Escape and a letter typed within milliseconds would reach the text before Escape has left it, and ctrl+s the file before
the letter in front of it. Here a key waits until the one before has gone all the way:

A terminal sends Escape as the byte that also begins its sequences: what comes within the delay (`ESCDELAY`, 100 ms) is
read as Alt and the character. `PrefixParser` reads it so for every printable character, `Keys` makes two keys of it.

    key -> App.on_event -> Keys.take -> forwarded to the focused widget -> ... -> App
                                        Gone, behind it in the same queues, twice  -> Keys.gone -> next key
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import XTermParser
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

PATIENCE_SECONDS = 0.3
"""After this time a key whose way was cut off (its widget was removed) holds up the next one no longer."""


def takes_text(widget: Widget | None) -> bool:
    """Whether printable keys are text for this widget."""
    return is_text(widget) and not getattr(widget, "read_only", False)


def is_text(widget: Widget | None) -> bool:
    """Whether this is a text field or a text area."""
    if widget is None or isinstance(widget, Input):
        return widget is not None
    from textual.widgets import TextArea  # not before the first paint

    return isinstance(widget, TextArea)


class PrefixParser(XTermParser):
    """Textual's reads "\x1b:" as a colon, as if there had been no Escape, and "\x1b1" as "¡"."""

    def _sequence_to_key_events(self, sequence: str, alt: bool = False) -> Iterable[events.Key]:
        if len(sequence) == 2 and isinstance(ANSI_SEQUENCES_KEYS.get(sequence), str):
            return  # after the delay it comes again, as the character with `alt`
        for key in super()._sequence_to_key_events(sequence, alt):
            if alt and key.is_printable and not key.key.startswith("alt+"):
                key = events.Key(f"alt+{key.key}", key.character)
            yield key


def use_prefix_parser() -> None:
    """Let the driver of this process's terminal read with `PrefixParser`; to be called before the application runs."""
    from textual.drivers import linux_driver

    linux_driver.XTermParser = PrefixParser


class Gone(Message):
    """Key number `number` has gone before this through the queues from `target` up.

    In the second lap what the key made its widget say (`Input.Submitted`) has gone before this as well.
    """

    def __init__(self, number: int, target: Widget, lap: int = 1) -> None:
        super().__init__()
        self.number, self.target, self.lap = number, target, lap


class Keys:
    """Keys of an application, in order.

    Args:
        handle: what Textual does with one.
    """

    def __init__(self, app: WorkbenchApp, handle: Callable[[events.Event], Awaitable[None]]) -> None:
        self.app, self.handle = app, handle
        self._waiting: deque[events.Key] = deque()
        self._under_way: int | None = None
        self._number, self._since = 0, 0.0

    @property
    def on_their_way(self) -> bool:
        """Whether a key has not been worked off yet."""
        return self._under_way is not None or bool(self._waiting)

    async def take(self, key: events.Key) -> None:
        """A key has come."""
        self._waiting.extend(self._told_apart(key))
        if self._under_way is not None and time.monotonic() - self._since > PATIENCE_SECONDS:
            self._under_way = None
        await self._go_on()

    def gone(self, gone: Gone) -> None:
        """A key has gone its way. What it asked the application for, the focus above all, is first."""
        if gone.lap == 1 and gone.target.post_message(Gone(gone.number, gone.target, lap=2)):
            return
        self.app.call_later(self._over, gone.number)

    async def _over(self, number: int) -> None:
        if number == self._under_way:
            self._under_way = None
            await self._go_on()

    async def _go_on(self) -> None:
        while self._waiting and self._under_way is None:
            key, target = self._waiting.popleft(), self.app.focused or self.app.screen
            self._number += 1
            self._under_way, self._since = self._number, time.monotonic()
            await self.handle(key)
            if not (key.is_forwarded and target.post_message(Gone(self._number, target))):
                self._under_way = None  # the application itself has taken it
        if self._waiting:
            self.app.set_timer(PATIENCE_SECONDS, partial(self._over, self._number))

    def _told_apart(self, key: events.Key) -> list[events.Key]:
        """Escape and a character that came within its delay are read as Alt and the character: two keys, unless that is
        bound. (A terminal that has the kitty protocol tells Alt without a character.)"""
        name = key.key.removeprefix("alt+").removeprefix("shift+")
        if (
            not key.key.startswith("alt+")
            or not key.character
            or not key.is_printable
            or getattr(self.app.screen, "RAW_KEYS", False)
        ):
            return [key]
        if key.key in self.app.screen.active_bindings:
            return [key]
        return [
            events.Key("escape", "\x1b"),
            events.Key(key.character if key.character.isalnum() else name, key.character),
        ]
