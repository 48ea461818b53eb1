"""The application: wiring only. Services (threads in `jobs`) post messages here; from here signals go to whoever shows
them. What the commands do is in `commands`, how the screen is laid out in `screen`.
"""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import events
from textual.app import App
from textual.binding import Binding
from textual.css.query import NoMatches
from textual.reactive import reactive
from textual.signal import Signal

from workbench import actions, keymap, themes
from workbench.actions import Action
from workbench.commands import command_objects
from workbench.jobs.gauges import Gauges
from workbench.jobs.messages import MachineChanged, Notice, RunChanged, WorkspaceChanged
from workbench.jobs.preload import preload
from workbench.jobs.watch import WorkspaceWatch
from workbench.keys import Gone, Keys, takes_text
from workbench.models.problems import Problems
from workbench.models.workspace import Snapshot
from workbench.regions.status_bar import StatusBar
from workbench.screen import WorkbenchScreen
from workbench.settings import Settings, State

if TYPE_CHECKING:
    from workbench.jobs.tail import RunTails
    from workbench.models.run import RunModel


class WorkbenchApp(App[int]):
    """The workbench on one workspace.

    Attributes:
        root: the workspace's folder.
        snapshot: what is in it (projects, runs, data files), renewed by a thread.
        project: the name of the project that commands are about: that of the tab in front.
        problems: mistakes in project files, by file.
        workspace_changed, run_changed, machine_changed, problems_changed: signals; subscribe in `on_mount`.
        run_changed publishes the run's label ("starter/0007"); `runs` holds the models of watched ones.
    """

    CSS_PATH = "workbench.tcss"
    DEFAULT_CSS = """
    ModalScreen { align: center top; background: $background 60%; }
    .dialog { width: 76; max-width: 95%; height: auto; max-height: 90%; margin-top: 2; padding: 1 2; background: $surface;
              border: round $primary; }
    .dialog .buttons { height: auto; margin-top: 1; }
    .dialog .buttons Button { margin-right: 2; }
    .dialog .wrong { color: $text-error; height: auto; }
    """
    TITLE = "LoRA Workbench"
    ENABLE_COMMAND_PALETTE = False
    PAUSE_GC_ON_SCROLL = True
    BINDINGS = actions.bindings(actions.GLOBAL)

    project: reactive[str] = reactive("", init=False)

    def __init__(self, root: Path, settings: Settings | None = None, state_folder: Path | None = None) -> None:
        super().__init__()
        self.root = root
        self.settings = settings or Settings()
        self.ascii = self.settings.ascii
        self.state = State(root, state_folder)
        self.snapshot = Snapshot(root)
        self.problems = Problems()
        self.workspace_changed: Signal[Snapshot] = Signal(self, "workspace")
        self.run_changed: Signal[str] = Signal(self, "run")
        self.machine_changed: Signal[Any] = Signal(self, "machine")
        self.problems_changed: Signal[Problems] = Signal(self, "problems")
        self.watch_workspace = WorkspaceWatch(root, self.post_message)
        self.gauges = Gauges(self.post_message)
        self.runs: dict[str, RunModel] = {}
        self.commands = command_objects(self)
        self._keys = Keys(self, super().on_event)
        self._restored = False

    # --- start and end

    def get_default_screen(self) -> WorkbenchScreen:
        return WorkbenchScreen()

    @property
    def workbench(self) -> WorkbenchScreen:
        """The workbench's screen, whatever dialog lies over it."""
        return next(s for s in self.screen_stack if isinstance(s, WorkbenchScreen))

    def on_mount(self) -> None:
        for theme in themes.THEMES:
            self.register_theme(theme)
        wanted = self.state.get("theme", self.settings.theme)
        self.theme = wanted if wanted in self.available_themes else "workbench-dark"
        self.set_keymap(self.settings.keys)
        self.call_after_refresh(self._begin)

    async def _begin(self) -> None:
        """What can wait until the first paint."""
        self.watch_workspace.start()
        self.gauges.start()
        self.workbench.restore(self.state.get("layout", {}))
        await self.workbench.editors.restore(self.state.get("tabs", []))
        self._restored = True
        if not self.workbench.editors.all:
            await self.workbench.editors.open("welcome:")
        for problem in [*self.settings.problems, *keymap.problems(self.settings.keys)]:
            self.notify(problem, title="Settings", severity="warning", markup=False)
        self.set_interval(2.0, self.remember)
        self.run_worker(self._preload, thread=True, exit_on_error=False, group="preload")

    def _preload(self) -> None:
        preload()
        if not self.is_headless:  # there, many applications live in one process, one after the other
            gc.freeze()  # what is there now stays: collections that look through it hold up a key by 50 ms

    def remember(self) -> None:
        """Write the layout and the open tabs, if they have changed."""
        if not self._restored or not any(screen.query(StatusBar) for screen in self.screen_stack):
            return  # not there yet, or going
        screen = self.workbench
        values = {"layout": screen.remembered(), "tabs": screen.editors.remembered(), "theme": self.theme}
        problem = self.state.save({**values, "project": self.project})
        if problem:
            self.notify(problem, title="Layout not saved", severity="warning", markup=False)

    def on_unmount(self) -> None:
        self.watch_workspace.stop()
        if "tails" in self.__dict__:
            self.tails.stop()
        self.gauges.stop()

    @functools.cached_property
    def tails(self) -> RunTails:
        """Follows the runs that something watches."""
        from workbench.jobs.tail import RunTails

        return RunTails(self.root, self.post_message)

    def keep_unsaved(self) -> None:
        """Keep the unsaved text of all tabs now: the process is about to end."""
        for editor in self.workbench.editors.all:
            editor.keep_now()

    # --- actions

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not event.is_forwarded:
            await self._keys.take(event)
        else:
            await super().on_event(event)

    def on_gone(self, event: Gone) -> None:
        self._keys.gone(event)

    def targets(self) -> Iterator[Any]:
        """Who may do an action, the nearest first."""
        if self.focused is not None:
            yield from self.focused.ancestors_with_self
        screen = self.screen
        if isinstance(screen, WorkbenchScreen):
            if screen.editors.front is not None and screen.editors.front.is_mounted:
                yield screen.editors.front
            yield from self.commands

    def handler(self, action: Action) -> Callable[[], Any] | None:
        """What does an action now, or None where nothing can."""
        for target in self.targets():
            method = getattr(target, f"act_{action.method}", None)
            if method is not None:
                may = getattr(target, f"may_{action.method}", None)
                try:
                    return method if may is None or may() else None
                except NoMatches:  # a tab just opened, what is in it being made
                    return None
        return None

    def do(self, id: str) -> None:
        """Do an action by id; nothing where it does not apply now."""
        action = actions.registry()[id]
        handler = self.handler(action)
        if handler is None:
            self.notify(f"{action.name}: not here", severity="warning", timeout=2, markup=False)
            return
        try:
            result = handler()
        except Exception as error:
            self.show_error(error)
            return
        if inspect.isawaitable(result):  # in a worker, where it may wait for dialogs
            self.run_worker(self._perform(result), exit_on_error=False, group="actions")

    async def _perform(self, work: Awaitable[Any]) -> None:
        """Await a handler's work; what it raises is shown, and ends nothing."""
        try:
            await work
        except Exception as error:
            self.show_error(error)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let a key pass on to what is focused: a space into a text field, and what means nothing in a dialog."""
        if action == "do" and parameters:
            if parameters[0] == "app.menu":
                return isinstance(self.screen, WorkbenchScreen) and not takes_text(self.focused)
            leaves = parameters[0] == "focus.leave"  # nothing is said where there is nothing to leave
            if leaves or not isinstance(self.screen, WorkbenchScreen):
                return self.handler(actions.registry()[str(parameters[0])]) is not None
        return super().check_action(action, parameters)

    def action_do(self, id: str) -> None:
        self.do(id)

    async def action_quit(self) -> None:
        self.do("app.quit")

    def handle_bindings_clash(self, clashed_bindings: set[Binding], node: Any) -> None:
        self._clashes.update(b.id for b in clashed_bindings if b.id)

    @functools.cached_property
    def _clashes(self) -> set[str]:
        return set()

    def open(self, uri: str, *, place: Any = None, focus: bool = True) -> None:
        """Bring a tab to the front (see `editors`), from anywhere."""
        work = self.workbench.editors.open(uri, place=place, focus=focus)
        if focus:
            self.workbench.uncover()
        self.run_worker(self._perform(work), exit_on_error=False, group="opening")

    # --- what threads tell

    def _status(self, **values: Any) -> None:
        """Give the status bar new values; what a thread says while the workbench is going finds none."""
        for bar in (bar for screen in self.screen_stack for bar in screen.query(StatusBar)):
            for name, value in values.items():
                setattr(bar, name, value)

    def on_workspace_changed(self, message: WorkspaceChanged) -> None:
        self.snapshot = message.snapshot
        if not self.project or self.project not in self.snapshot.projects:
            remembered = self.state.get("project", "")
            self.project = remembered if remembered in self.snapshot.projects else self.snapshot.first_project()
        self._status(running=self.snapshot.running_summary())
        self.workspace_changed.publish(self.snapshot)

    def on_run_changed(self, message: RunChanged) -> None:
        model = self.tails.model(message.label)
        if model is None:
            self.runs.pop(message.label, None)
        else:
            self.runs[message.label] = model
        self.run_changed.publish(message.label)

    def on_machine_changed(self, message: MachineChanged) -> None:
        self._status(machine=message.machine.short)
        self.machine_changed.publish(message.machine)

    def on_notice(self, message: Notice) -> None:
        self.notify(message.text, title=message.title, severity=message.severity, markup=False)

    def tell_problems(self) -> None:
        """Publish `problems` after a change."""
        self._status(problems=len(self.problems))
        self.problems_changed.publish(self.problems)

    def watch_project(self, project: str) -> None:
        self._status(project=project)

    # --- failures

    def show_error(self, error: BaseException) -> None:
        """Say what went wrong, in the engine's words where it is the engine's."""
        problem = getattr(error, "problem", None)
        if problem is not None:
            where, remedy = getattr(error, "where", None), getattr(error, "remedy", None)
            text = "\n".join(p for p in (where, problem, remedy) if p)
        else:
            text = str(error) if type(error) is LookupError else f"{type(error).__name__}: {error}"
            self.log.error(text)
        self.notify(text, severity="error", timeout=10, markup=False)
