"""What the threads tell the app. State-like ones replace an older one that is still waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from workbench.models.machine import Machine
    from workbench.models.workspace import Snapshot


class WorkspaceChanged(Message):
    """Something in the workspace is new, gone or different."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, WorkspaceChanged)


class RunChanged(Message):
    """The model of a run has new events in it."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.label = label

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, RunChanged) and message.label == self.label


class MachineChanged(Message):
    """New gauges."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, MachineChanged)


class Notice(Message):
    """Words for the user from a thread."""

    def __init__(
        self, text: str, title: str = "", severity: Literal["information", "warning", "error"] = "information"
    ) -> None:
        super().__init__()
        self.text, self.title, self.severity = text, title, severity
