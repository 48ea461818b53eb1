"""The comparisons that were made with a project: found by words, read, asked again, written out as Markdown."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from engine.text import cut, one_line, printable

if TYPE_CHECKING:
    from engine.transcripts import Entry
    from workbench.app import WorkbenchApp

MOST_SHOWN = 200
LONGEST = 4000


class Transcripts(ModalScreen["Entry | None"]):
    """Returns the entry whose prompt is to be asked again, None after Escape."""

    BINDINGS: ClassVar = [("escape", "dismiss(None)", "Back")]
    DEFAULT_CSS = """
    Transcripts .dialog { width: 110; max-width: 98%; height: 90%; margin-top: 1; }
    Transcripts OptionList { height: 40%; border: none; background: $surface; padding: 0; scrollbar-size: 1 1; }
    Transcripts VerticalScroll { height: 1fr; border-top: solid $panel-lighten-2; scrollbar-size: 1 1; }
    Transcripts #entry { height: auto; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Found(Message):
        """What was looked for; `more`: there are further ones."""

        def __init__(self, words: str, entries: list[Entry], more: bool) -> None:
            super().__init__()
            self.words, self.entries, self.more = words, entries, more

    def __init__(self, root: Path, project: str) -> None:
        super().__init__()
        self.root, self.about = root, project
        self.entries: list[Entry] = []

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(f"Comparisons with {one_line(self.about)}", id="what", markup=False)
            yield Input(placeholder="words to find in prompts, answers and models", compact=True)
            yield OptionList()
            with VerticalScroll():
                yield Static(id="entry", markup=False)
            with Horizontal(classes="buttons"):
                yield Button("Ask again (Enter)", id="again", compact=True)
                yield Button("Write these as Markdown…", id="export", compact=True)
                yield Button("Back (Esc)", id="back", compact=True)

    def on_mount(self) -> None:
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self._look("")

    def _look(self, words: str) -> None:
        folder = self.root / "projects" / self.about

        def work() -> None:
            from engine import transcripts

            found = list(islice(transcripts.search(transcripts.path_of(folder), words), MOST_SHOWN + 1))
            self.post_message(self.Found(words, found[:MOST_SHOWN], len(found) > MOST_SHOWN))

        self.run_worker(work, thread=True, exit_on_error=False, group="find", exclusive=True)

    def on_input_changed(self, event: Input.Changed) -> None:
        self._look(event.value)

    def on_transcripts_found(self, event: Found) -> None:
        if event.words != self.query_one(Input).value:
            return
        self.entries = event.entries
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(Content(_line(e))) for e in self.entries])
        options.highlighted = 0 if self.entries else None
        count = f"the newest {MOST_SHOWN}" if event.more else f"{len(self.entries)}"
        self.query_one("#what", Static).update(f"Comparisons with {one_line(self.about)}: {count}")
        if not self.entries:
            self.query_one("#entry", Static).update("none yet" if not event.words else "none with these words")

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index < len(self.entries):
            self.query_one("#entry", Static).update(_whole(self.entries[event.option_index]))
            self.query_one(VerticalScroll).scroll_home(animate=False)

    @property
    def chosen(self) -> Entry | None:
        at = self.query_one(OptionList).highlighted
        return self.entries[at] if at is not None and at < len(self.entries) else None

    def on_key(self, event: events.Key) -> None:
        options = self.query_one(OptionList)
        if isinstance(self.focused, Input) and event.key in ("up", "down", "pageup", "pagedown"):
            event.stop()
            {"up": options.action_cursor_up, "down": options.action_cursor_down,
             "pageup": options.action_page_up, "pagedown": options.action_page_down}[event.key]()  # fmt: skip

    def on_input_submitted(self) -> None:
        if self.chosen is not None:
            self.dismiss(self.chosen)

    def on_option_list_option_selected(self) -> None:
        self.on_input_submitted()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "export":
            self.run_worker(self._export(), exit_on_error=False)
        elif event.button.id == "again":
            self.on_input_submitted()
        else:
            self.dismiss(None)

    async def _export(self) -> None:
        """Write what is listed, the oldest first."""
        import asyncio

        from engine.errors import EngineError
        from engine.files import write_atomic
        from engine.transcripts import as_markdown
        from workbench.modals.confirm import AskLine

        entries, root = list(reversed(self.entries)), self.root
        if not entries:
            return
        question = f"Write {len(entries)} comparisons to (relative to the workspace)"
        given = await self.app.push_screen_wait(
            AskLine(question, free_name(root, f"projects/{self.about}/comparisons"), lambda t: taken(root, t))
        )
        if given is None:
            return
        try:
            await asyncio.to_thread(lambda: write_atomic(root / given, as_markdown(entries)))
        except (EngineError, OSError) as error:
            self.app.show_error(error)
        else:
            self.app.notify(f"{len(entries)} comparisons are in {given}", timeout=5, markup=False)


def free_name(root: Path, stem: str) -> str:
    """ "STEM.md", with a number where that is there already."""
    number = 1
    while (root / (name := f"{stem}{'' if number == 1 else f'-{number}'}.md")).exists():
        number += 1
    return name


def taken(root: Path, name: str) -> str | None:
    if not name.strip():
        return "a name is needed"
    return "there is such a file already" if (root / name).exists() else None


def _line(entry: Entry) -> str:
    when = time.strftime("%m-%d %H:%M", time.localtime(entry.t))
    models = ", ".join(one_line(a.model) for a in entry.answers)
    return f"{when}  {cut(one_line(entry.prompt), 60)}  ({cut(models, 36)})"


def _whole(entry: Entry) -> Content:
    """An entry to be read."""
    parts: list = [(_shown(entry.prompt), "bold")]
    for answer in entry.answers:
        name = one_line(answer.model) + (f" {answer.sha256[:8]}" if answer.sha256 else "")
        name += f" at step {answer.step:,}" if answer.step is not None else ""
        parts += ["\n\n", (name, "$text-primary"), "\n", _shown(answer.text)]
        if answer.changed is False:
            parts += ["\n", ("this adapter changed nothing", "$text-error")]
        elif answer.kl is not None:
            far = f"from base: logits up to {answer.largest_logit_difference or 0.0:.3g}, KL {answer.kl:.3g} nats"
            parts += ["\n", (far, "$text-muted")]
    return Content.assemble(*parts)


def _shown(text: str) -> str:
    more = f"… ({len(text) - LONGEST:,} more characters)" if len(text) > LONGEST else ""
    return printable(text[:LONGEST]).expandtabs(4) + more
