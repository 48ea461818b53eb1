"""The part of the compare view that has to do with its session: looking for one, starting one, losing it.

    look -> find (a thread) -> Looked -> Link -> SessionSaid -> `talk` -> `changed`
    wake -> start (a thread) -> Starting, Looked                SessionGone -> words, and a way to start again

A session is started only where the user asks for one, or asks something: it takes memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

from engine.protocol import Text
from engine.text import one_line
from workbench.jobs import session_client
from workbench.jobs.session_client import Found, Link, SessionGone, SessionSaid
from workbench.models.compare import Choice, Comparison
from workbench.models.talk import Talk

if TYPE_CHECKING:
    from workbench.editors.base import Editor as _Base
else:
    _Base = object


class SessionTalk(_Base):
    """Mixed into an editor.

    Attributes:
        talk: what is asked and answered. link: the connection, None while there is none.
        words: how it stands with the session, "" where it answers. lost: those words are about a session that failed.
        starting: a session is being started.
    """

    class Looked(Message):
        """A session was found (or started), or none."""

        def __init__(self, found: Found | None, problem: str = "") -> None:
            super().__init__()
            self.found, self.problem = found, problem

    class Starting(Message):
        """How far a session is that was started."""

        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, SessionTalk.Starting)

    class Hashed(Message):
        """The hashes of adapters' files, by folder."""

        def __init__(self, digests: dict[str, str]) -> None:
            super().__init__()
            self.digests = digests

    def begin(self, comparison: Comparison) -> None:
        """Called once, before anything else here."""
        self.talk = Talk(comparison)
        self.link: Link | None = None
        self.words, self.lost, self.prefer = "", False, ""
        self._looking = self.starting = self._over = False
        self._known: dict = {}

    def changed(self) -> None:
        """Something that is shown is different; the editor overrides it."""

    def grew(self) -> None:
        """Nothing is different but that answers have more text; the editor overrides it."""

    def training_changed(self) -> None:
        """The session that we speak with is another, or trains another run than before; the editor overrides it."""

    def finished(self) -> None:
        """All that was asked has been answered; the editor overrides it."""

    # --- finding and starting

    def look(self, prefer: str = "") -> None:
        """Look for a session in a thread, and connect to it."""
        if self._looking or self.starting:
            return
        self._looking, root, project = True, self.app.root, self.target
        self.prefer = prefer or self.prefer
        wanted = self.prefer
        self.run_worker(
            lambda: self.post_message(self.Looked(session_client.find(root, project, wanted))),
            thread=True, exit_on_error=False, group="look",
        )  # fmt: skip

    def wake(self) -> None:
        """Start a session where none is there or being started."""
        if self.starting or self.link is not None:
            return
        self.starting, self.lost, root, project = True, False, self.app.root, self.target
        wanted = self.prefer
        self.words = "looking for a session"

        def work() -> None:
            from engine.errors import EngineError

            tell = lambda words: self.post_message(self.Starting(words))  # noqa: E731
            try:
                found = session_client.find(root, project, wanted)
                found = found or session_client.start(root, project, tell, lambda: self._over)
            except EngineError as error:
                said = ": ".join(p for p in (error.where, error.problem) if p)
                self.post_message(self.Looked(None, said + (f" ({error.remedy})" if error.remedy else "")))
            except Exception as error:
                self.post_message(self.Looked(None, f"{type(error).__name__}: {error}"))
            else:
                self.post_message(self.Looked(found))

        self.run_worker(work, thread=True, exit_on_error=False, group="start")
        self.changed()

    def on_session_talk_starting(self, event: Starting) -> None:
        event.stop()
        if self.starting:
            self.words = event.words
            self.changed()

    def on_session_talk_looked(self, event: Looked) -> None:
        event.stop()
        started, self._looking, self.starting = self.starting, False, False
        if event.found is not None:
            self._join(event.found)
        elif event.problem:
            self.words, self.lost = event.problem, True
            self.talk.give_up(event.problem)
        elif started:
            self.words = ""
        self.changed()

    def _join(self, found: Found) -> None:
        if self.link is not None:
            if self.link.label == found.label:
                found.client.close()
                return
            self._leave("asked of another session")
        if self._over:
            found.client.close()
            return
        self.words, self.lost = "", False
        self.link = Link(found, self.post_message)
        self.talk.status = found.status
        self.training_changed()  # before what waits is asked: it may have a further column to ask
        self.talk.connect(self.link.send, found.status)
        self.refresh_digests()

    def _leave(self, words: str) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None
            self.talk.lost(words)

    def end(self) -> None:
        """The tab is closed: leave the session alone."""
        self._over = True
        self._leave("the tab was moved or closed while this was written")

    # --- what it says

    def on_session_said(self, event: SessionSaid) -> None:
        event.stop()
        if event.link is not self.link:
            return
        if all(isinstance(reply, Text) for reply in event.replies):
            self.talk.take(event.replies)
            self.grew()
            return
        busy, trained = self.talk.busy, self.training
        self.talk.take(event.replies)
        if self.training != trained:
            self.training_changed()
        if busy and not self.talk.busy:
            self.finished()
        self.changed()

    def on_session_gone(self, event: SessionGone) -> None:
        event.stop()
        if event.link is not self.link:
            return
        what = f"{'session' if '/jobs/' in event.link.label else 'run'} {event.link.label} has ended"
        self.link = None
        self.words, self.lost = f"{what}: {one_line(event.words)}", not event.orderly
        self.prefer = ""
        self.talk.lost(self.words)
        self.app.watch_workspace.now()
        self.changed()

    @property
    def training(self) -> str | None:
        """The label of the run that trains in the session, None where none does."""
        status = self.talk.status
        if status is None or status.run is None or self.link is None:
            return None
        snapshot = self.app.snapshot
        labels = [self.link.label, *(r.label for r in snapshot.runs)]
        return next((label for label in labels if label.replace("/", "-") == status.run), status.run)

    # --- commands

    def act_compare_session(self) -> None:
        """Start one, or change to a run that trains meanwhile."""
        info = self.app.snapshot.projects.get(self.target)
        trains = [r.label for r in info.runs if r.state == "running"] if info else []
        if self.link is None:
            self.prefer = trains[-1] if trains else ""
            self.wake()
        elif trains and (self.talk.status is None or self.talk.status.run is None):
            self.look(trains[-1])
        else:
            raise LookupError(f"{self.link.label} answers already")

    async def act_compare_end_session(self) -> None:
        from engine import protocol
        from workbench.modals.confirm import Confirm

        if self.link is None or self.talk.status is None:
            raise LookupError("there is no session to end")
        if self.talk.status.run is not None:
            raise LookupError("this session trains: stop the run first (shift+F5)")
        if await self.app.push_screen_wait(Confirm(f"End session {self.link.label} and free its memory?", yes="End")):
            self.link.send(protocol.Shutdown(10**9))

    # --- files whose weights may have changed under a name that the session knows

    def refresh_digests(self) -> None:
        """Hash the adapters that the columns show, in a thread; what has not changed is not read again."""
        known = self._known
        paths = [c.path for c in self.shown_choices() if c.path is not None]
        if not paths:
            return

        def work() -> None:
            from workbench.models.adapters import inspected

            found = {str(p): info.sha256 for p in paths if (info := inspected(p, known)[0]) is not None}
            self.post_message(self.Hashed(found))

        self.run_worker(work, thread=True, exit_on_error=False, group="hash")

    def shown_choices(self) -> list[Choice]:
        return self.talk.comparison.shown

    def on_session_talk_hashed(self, event: Hashed) -> None:
        event.stop()
        self.talk.digests |= event.digests
