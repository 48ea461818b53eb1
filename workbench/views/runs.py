"""All runs of the workspace in the side bar, the newest first: state, how far, loss, age. Enter opens one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.text import age, cells, cut, one_line, pad
from workbench import actions
from workbench.commands.runs import runs
from workbench.models.outline import ASCII_MARKS, MARKS
from workbench.models.plot import number
from workbench.models.workspace import RunInfo, Snapshot
from workbench.widgets.list_keys import IN_LIST
from workbench.widgets.run_header import STATE_STYLES

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

AGES_SECONDS = 10.0
"""Between two looks at how old things are."""
USUAL_WIDTH = 27


class Runs(OptionList):
    """Two lines a run; commands are about the one under the cursor."""

    HELP = (
        "Enter opens the run; s stops it after its step, c resumes it, d moves it to the trash. All projects are here."
    )
    SCOPES: ClassVar = ("run-list",)
    DEFAULT_CSS = """
    Runs { height: 1fr; border: none; background: $surface; padding: 0; scrollbar-size-vertical: 1; }
    Runs:focus { border: none; }
    """
    BINDINGS: ClassVar = [*actions.bindings("run-list"), *IN_LIST]
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    def on_mount(self) -> None:
        self._runs: list[RunInfo] = []
        self._width = 0
        self.app.workspace_changed.subscribe(self, self.show)
        self.set_interval(AGES_SECONDS, self._again)
        self.set_interval(0.5, self._fit)
        self.show(self.app.snapshot)

    def on_resize(self) -> None:
        self._fit()

    def _fit(self) -> None:
        """Lines are made for a width; while the side bar is hidden there is none."""
        if self.content_size.width not in (0, self._width):
            self._again()

    def _again(self) -> None:
        self.show(self.app.snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Bring the list to what `snapshot` holds; the cursor stays on its run."""
        found = snapshot.runs
        chosen = self.chosen
        self._width = self.content_size.width or self._width
        width = self._width or USUAL_WIDTH
        now = time.time()
        texts = [lines(r, max(16, width - 1), self.app.ascii, now) for r in found]
        if found and [r.label for r in found] == [r.label for r in self._runs]:
            for index, text in enumerate(texts):
                self.replace_option_prompt_at_index(index, text)
            self._runs = found
            return
        self._runs = found
        self.clear_options()
        self.add_options([Option(text, id=f"run-{i}") for i, text in enumerate(texts)])
        if not found:
            self.add_option(Option(Content("No runs yet: F5 starts one."), disabled=True))
            return
        labels = [r.label for r in found]
        self.highlighted = labels.index(chosen.label) if chosen is not None and chosen.label in labels else 0

    @property
    def chosen(self) -> RunInfo | None:
        """The run under the cursor."""
        at = self.highlighted
        return self._runs[at] if at is not None and at < len(self._runs) else None

    def _label(self) -> str:
        if self.chosen is None:
            raise LookupError("there is no run here")
        return self.chosen.label

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Commands are about the project of the run under the cursor."""
        event.stop()
        if self.has_focus and self.chosen is not None and self.chosen.project in self.app.snapshot.projects:
            self.app.project = self.chosen.project

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self.chosen is not None:
            self.app.open(f"run:{self.chosen.label}")

    async def act_run_list_stop(self) -> None:
        await runs(self.app).stop(self._label())

    async def act_run_list_resume(self) -> None:
        await runs(self.app).resume(self._label())

    async def act_run_list_delete(self) -> None:
        await runs(self.app).delete(self._label())

    def may_run_stop(self) -> bool:
        return self.chosen is not None

    act_run_stop, act_run_resume, act_run_delete = act_run_list_stop, act_run_list_resume, act_run_list_delete
    may_run_resume = may_run_delete = may_run_stop


def lines(run: RunInfo, width: int, ascii_only: bool, now: float) -> Content:
    """ "▶ starter/0007       running" and, below it, "  41%  loss 0.913      5 min"."""
    mark = (ASCII_MARKS if ascii_only else MARKS).get(run.state, "?")
    left, right = f"{mark} {one_line(run.label)}", run.state
    room = width - cells(right) - 1
    first = pad(cut(left, room), room) + " "
    said = []
    if run.step is not None and run.steps:
        said.append(f"{100 * run.step // run.steps}%" if run.state == "running" else f"{run.step:,}/{run.steps:,}")
    if run.loss is not None:
        said.append(f"loss {number(run.loss)}")
    when = age(now - run.touched) if run.touched is not None and run.state != "running" else ""
    room = width - cells(when) - 1
    second = pad(cut("  " + "  ".join(said), room), room) + " " + when
    style = STATE_STYLES.get(run.state, "$text-muted")
    return Content.assemble(first, (right, style), "\n", (second, "$text-muted"))
