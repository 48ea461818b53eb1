"""Learn: a page about LoRA with the numbers of the project that is open, some of which can be changed by keys.

Comes from: `models.theory`, whose facts are read in a thread. It changes nothing in the project.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from workbench import actions
from workbench.editors.base import Editor
from workbench.models.theory import TOPICS, after
from workbench.models.theory.blocks import Block, Chart, Line, Note, lay
from workbench.models.theory.facts import Choice, Facts, gather

STYLES = {
    "heading": "bold $text-primary",
    "formula": "$text-accent",
    "header": "$text-muted underline",
    "own": "bold",
    "note": "$text-success",
    "source": "$text-muted",
    "link": "underline",
    "chosen": "bold reverse",
}


class Page(VerticalScroll, can_focus=True):
    """Scrolls; the keys are the view's."""

    DEFAULT_CSS = """
    Page { height: 1fr; width: 1fr; padding: 0 2; scrollbar-size: 1 1; scrollbar-gutter: stable; }
    Page > Static { height: auto; width: 1fr; }
    Page > LineChart { height: 14; max-width: 92; margin-bottom: 1; }
    """
    BINDINGS: ClassVar = actions.bindings("learn")


class LearnView(Editor):
    """One topic at a time; `go` shows another one in the same tab.

    Attributes:
        choice: what the reader has changed, on all pages that show it.
    """

    HELP = (
        "A page about LoRA, with the numbers of the project that is open. j and k scroll, d and u by pages, n and p go to the "
        "next and the previous topic; tab marks a link at the page's end, Enter follows it. On pages with shapes + and - "
        "change the rank, t the target modules, a and A alpha, s switches rsLoRA, 0 goes back to the project's own "
        "settings. Nothing here changes the project."
    )
    SCOPES: ClassVar = ("learn",)
    DEFAULT_CSS = "LearnView { layout: vertical; }"

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        if self.target not in TOPICS:
            self.uri = f"learn:{next(iter(TOPICS))}"
        self.choice = Choice()
        self.facts = Facts(problem="the project is being read")
        self.lines: list[Line] = []
        self._link = -1
        self._shown: tuple[object, ...] = ()
        self._laying = asyncio.Lock()

    @property
    def topic(self) -> str:
        return self.target

    def compose(self) -> ComposeResult:
        yield Page()

    def on_mount(self) -> None:
        self.heading = TOPICS[self.topic].title
        self.watch(self.app, "project", self._read, init=False)
        self.app.workspace_changed.subscribe(self, lambda snapshot: self._read())
        self._read()

    def on_show(self, event: events.Show) -> None:
        self._read()

    @property
    def page(self) -> Page:
        return self.query_one(Page)

    # --- reading

    def _read(self) -> None:
        """Read the facts again, in a thread."""
        machine = self.app.gauges.machine
        work = functools.partial(gather, self.app.root, self.app.project, TOPICS[self.topic].wants, bool(machine.gpus))
        self.run_worker(functools.partial(self._fetch, work), exit_on_error=False, exclusive=True, group="facts")

    async def _fetch(self, work) -> None:
        try:
            self.facts = await asyncio.to_thread(work)
        except Exception as error:  # a project folder that goes away while it is read
            self.facts = Facts(problem=f"{type(error).__name__}: {error}")
        await self._show()

    # --- showing

    def go(self, topic: str) -> None:
        """Show another topic in this tab, from its top."""
        if topic == self.topic:
            return
        other = self.app.workbench.editors.find(f"learn:{topic}")
        if other is not None and other is not self:
            self.app.open(other.uri)
            return
        self.uri = f"learn:{topic}"
        self._link = -1
        self.heading = TOPICS[topic].title
        self._tell()
        self.page.scroll_home(animate=False)
        self._read()

    def _blocks(self) -> Sequence[Block]:
        try:
            return TOPICS[self.topic].make(self.facts, self.choice)
        except Exception as error:  # a base of a kind that nobody foresaw: the page says so, the workbench goes on
            return [Note(f"This page cannot be worked out for {self.facts.project}: {type(error).__name__}: {error}")]

    async def _show(self) -> None:
        """Lay the page out: texts between charts, each in a widget of its own; one laying out after the other."""
        async with self._laying:
            if self.is_mounted:
                await self._lay_out()

    async def _lay_out(self) -> None:
        width = max(20, self.page.scrollable_content_region.width or self.size.width - 5)
        blocks = self._blocks()
        parts = self._parts(blocks, width)
        kinds = tuple(type(p) for p in parts)
        if kinds == self._shown:
            for widget, part in zip(self.page.children, parts, strict=True):
                self._fill(widget, part)
        else:
            from workbench.widgets.line_chart import LineChart

            self._shown = ()  # a cancelled one begins anew
            await self.page.remove_children()
            made = [
                LineChart(p.heading, p.unit, ascii=self.app.ascii) if isinstance(p, Chart) else Static(markup=False)
                for p in parts
            ]
            for chart in made:
                chart.can_focus = False
            await self.page.mount(*made)
            self._shown = kinds
            for widget, part in zip(made, parts, strict=True):
                self._fill(widget, part)
        self.told = f"{list(TOPICS).index(self.topic) + 1}/{len(TOPICS)}  n next  p previous"

    def _parts(self, blocks: Sequence[Block], width: int) -> list[list[Line] | Chart]:
        found: list[list[Line] | Chart] = []
        texts: list[Block] = []
        for block in [*blocks, None]:
            if block is None or isinstance(block, Chart):
                found.append(lay(texts, width))
                texts = []
            else:
                texts.append(block)
            if isinstance(block, Chart):
                found.append(block)
        title = [(TOPICS[self.topic].title, "heading"), ("", "")]
        first = found[0]
        assert isinstance(first, list)
        found[0] = [*title, *first]
        last = found[-1]
        assert isinstance(last, list)
        last += self._links()
        self.lines = [line for part in found if isinstance(part, list) for line in part]
        return found

    def _links(self) -> list[Line]:
        """The links at the end: what this page leads to, then the next topic."""
        lines: list[Line] = [("See also (tab marks, Enter follows)", "heading")]
        for place, topic in enumerate(self.links):
            mark = ">" if place == self._link else " "
            lines.append((f"{mark} {TOPICS[topic].title}: {TOPICS[topic].about}", "chosen" if mark == ">" else "link"))
        return lines

    @property
    def links(self) -> list[str]:
        return list(dict.fromkeys([*TOPICS[self.topic].links, after(self.topic, 1)]))

    def _fill(self, widget, part: list[Line] | Chart) -> None:
        if isinstance(part, Chart):
            from workbench.widgets.line_chart import Curve

            widget.show([Curve(part.series)])
            return
        texts = [Content.styled(text, STYLES[kind]) if kind in STYLES else Content(text) for text, kind in part]
        widget.update(Content("\n").join(texts))

    def on_resize(self) -> None:
        self._again()

    def _again(self) -> None:
        self.run_worker(self._show, exit_on_error=False, group="layout")

    # --- keys

    def act_learn_down(self) -> None:
        self.page.scroll_relative(y=1, animate=False)

    def act_learn_up(self) -> None:
        self.page.scroll_relative(y=-1, animate=False)

    def act_learn_page_down(self) -> None:
        self.page.scroll_relative(y=max(1, self.page.size.height - 2), animate=False)

    def act_learn_page_up(self) -> None:
        self.page.scroll_relative(y=-max(1, self.page.size.height - 2), animate=False)

    def act_learn_top(self) -> None:
        self.page.scroll_home(animate=False)

    def act_learn_end(self) -> None:
        self.page.scroll_end(animate=False)

    def act_learn_next(self) -> None:
        self.go(after(self.topic, 1))

    def act_learn_previous(self) -> None:
        self.go(after(self.topic, -1))

    def act_learn_link(self) -> None:
        self._mark(1)

    def act_learn_link_back(self) -> None:
        self._mark(-1)

    def _mark(self, by: int) -> None:
        count = len(self.links)
        self._link = (0 if by > 0 else count - 1) if self._link < 0 else (self._link + by) % count
        self._again()
        self.page.scroll_end(animate=False)

    def may_learn_follow(self) -> bool:
        return self._link >= 0

    def act_learn_follow(self) -> None:
        self.go(self.links[self._link])

    def on_click(self, event: events.Click) -> None:
        """A click on a link follows it."""
        last = self.page.children[-1] if self.page.children else None
        if last is None or event.widget is not last:
            return
        text = event.get_content_offset(last)
        first = last.size.height - len(self.links)
        if text is not None and text.y >= first:
            self.go(self.links[text.y - first])

    # --- what the reader changes

    def _may_change(self) -> bool:
        return TOPICS[self.topic].changes

    may_learn_more_rank = may_learn_less_rank = may_learn_targets = _may_change
    may_learn_more_alpha = may_learn_less_alpha = may_learn_rslora = may_learn_reset = _may_change

    def _change(self, choice: Choice) -> None:
        """Lay out anew, with the place that changes in sight."""
        self.choice = choice
        self._again()
        own = next((y for y, (text, kind) in enumerate(self.lines) if kind == "note"), 0)
        top, height = self.page.scroll_offset.y, self.page.size.height
        if not top <= own < top + max(1, height - 12):
            self.page.scroll_to(y=max(0, own - 1), animate=False)

    def act_learn_more_rank(self) -> None:
        self._change(self.choice.other_rank(self.facts, 1))

    def act_learn_less_rank(self) -> None:
        self._change(self.choice.other_rank(self.facts, -1))

    def act_learn_targets(self) -> None:
        self._change(self.choice.other_targets())

    def act_learn_more_alpha(self) -> None:
        self._change(self.choice.other_alpha(self.facts, 1))

    def act_learn_less_alpha(self) -> None:
        self._change(self.choice.other_alpha(self.facts, -1))

    def act_learn_rslora(self) -> None:
        self._change(replace(self.choice, rslora=not self.choice.lora(self.facts).rslora))

    def act_learn_reset(self) -> None:
        self._change(Choice())
