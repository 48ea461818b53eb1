"""What every tab's content is: it has a URI, a title, may hold unsaved text, and says things to status bar and inspector.

An editor opens no file: it asks a thread worker (`self.run_worker(..., thread=True, exit_on_error=False)`) that posts a
message back, or subscribes to one of the app's signals in `on_mount`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp


class Editor(Container):
    """A tab's content.

    Attributes:
        uri: "scheme:target".
        heading: the tab's title. dirty: it holds unsaved changes.
        told: what the status bar shows at the right while this is in front ("Ln 2, Col 8").
        inspected: what the inspector shows while this is in front.
        HELP: what F1 shows, plain text of a few paragraphs; the keys are added from the registry.
        SCOPES: scopes of the registry whose keys are listed there.
    """

    HELP: ClassVar[str] = ""
    SCOPES: ClassVar[tuple[str, ...]] = ()
    DEFAULT_CSS = "Editor { height: 1fr; width: 1fr; }"

    heading: reactive[str] = reactive("")
    dirty: reactive[bool] = reactive(False)
    told: reactive[str] = reactive("")
    inspected: reactive[Content | None] = reactive(None)

    class Changed(Message):
        """Heading, dirt, or what is told has changed."""

        def __init__(self, editor: Editor) -> None:
            super().__init__()
            self.editor = editor

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, Editor.Changed) and message.editor is self.editor

    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self.set_reactive(Editor.heading, self.target or uri)

    @property
    def target(self) -> str:
        """What stands after the scheme."""
        return self.uri.partition(":")[2]

    @property
    def project(self) -> str:
        """The project that this is about, "" where it is about none."""
        scheme = self.uri.partition(":")[0]
        return "" if scheme in ("learn", "file", "welcome") else self.target.split("/")[0]

    def watch_heading(self) -> None:
        self._tell()

    def watch_dirty(self) -> None:
        self._tell()

    def watch_told(self) -> None:
        self._tell()

    def watch_inspected(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self.is_mounted:
            self.post_message(self.Changed(self))

    def focus_first(self) -> None:
        """Give the focus to what the user wants to work with; by default the first that takes it."""
        for widget in self.query("*"):
            if widget.can_focus and widget.display:
                widget.focus()
                return

    def reveal(self, place: Any) -> None:
        """Show a place: (line, column) from 1 in a text, a row's number, a step; others ignore it."""

    def keep_now(self) -> None:
        """The process is about to end: put what is not saved where it will be found. Called anywhere in the main thread."""

    def handed_over(self) -> Any:
        """What the same tab elsewhere needs to go on as this one is, which is then closed without a question."""
        return None

    def take_over(self, handed: Any) -> None:
        """Go on as another editor was; called before this one is on the screen."""

    async def may_close(self) -> bool:
        """Whether the tab may be closed; one with unsaved changes asks first."""
        return True
