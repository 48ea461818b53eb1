"""The parts of the data view beside the table: a row as the model sees it, the ledger, lengths, rows on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from engine.text import cut, one_line
from workbench.models.data import Progress, ShownRow
from workbench.models.data_reports import ASCII_BARS, adds_up, histogram_lines, ledger_lines, lengths_summary
from workbench.models.data_seen import ASCII, Marks, counts, fields, seen
from workbench.widgets.list_keys import IN_LIST

if TYPE_CHECKING:
    from workbench.app import WorkbenchApp

SCROLLING: list = [
    Binding("j", "scroll_down", show=False), Binding("k", "scroll_up", show=False),
    Binding("g", "scroll_home", show=False), Binding("G", "scroll_end", show=False),
]  # fmt: skip


class Pane(Vertical):
    """A title line and what is below it."""

    DEFAULT_CSS = """
    Pane { height: 1fr; width: 1fr; }
    Pane > .title { height: 1; padding: 0 1; background: $panel; color: $text-muted; text-style: bold; }
    Pane:focus-within > .title { color: $text; background: $primary-muted; }
    Pane Static { height: auto; }
    Pane .body { padding: 0 1; }
    Pane OptionList { height: 1fr; border: none; background: $background; padding: 0; scrollbar-size: 1 1; }
    Pane OptionList:focus { border: none; }
    Pane VerticalScroll { height: 1fr; scrollbar-size: 1 1; }
    """
    if TYPE_CHECKING:

        @property
        def app(self) -> WorkbenchApp: ...

    class Opened(Message):
        """A place was chosen: "data/faq.jsonl:12"; `row`: its number, where that is known, in `split`."""

        def __init__(self, where: str, split: str = "", row: int | None = None) -> None:
            super().__init__()
            self.where, self.split, self.row = where, split, row

    def entitle(self, text: str) -> None:
        """Set the title line."""
        self.query_one(".title", Static).update(
            cut(one_line(text), max(10, self.size.width - 2)) if self.size.width else text
        )

    def say(self, content: Content | str) -> None:
        """Set the text below the title."""
        self.query_one(".body", Static).update(content)


class SeenPane(Pane):
    """The row under the cursor as the model will see it, or as it lies there.

    Attributes: ends: every token's end is marked. raw: as it lies there.
    """

    HELP = (
        "The row as the model will see it. What is learned from stands between ⟦ and ⟧, underlined; the rest is only "
        "read. The count says how many of its tokens are supervised. b marks where each token ends, v shows the row as "
        "it lies in the file."
    )
    SCOPES: ClassVar = ("data",)

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.ends = self.raw = False
        self.document: dict[str, Any] | None = None
        self.row: ShownRow | None = None
        self.problem = ""

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        with Scrolled():
            yield Static(classes="body", markup=False)

    def show_row(self, row: ShownRow | None, document: dict[str, Any] | None, problem: str = "") -> None:
        """Show a row; `document` is the engine's answer, None while it is waited for, `problem` why there is none."""
        if row is None or self.row is None or row.number != self.row.number:
            self.query_one(Scrolled).scroll_home(animate=False)
        self.row, self.document, self.problem = row, document, problem
        self.render_row()

    def render_row(self) -> None:
        """Draw again, after `ends` or `raw` has changed."""
        row, document = self.row, self.document
        if row is None:
            self.entitle("as the model sees it")
            self.say("")
            return
        name = f"row {row.number:,}"
        if document is None or self.raw or document.get("refused") is not None:
            self._show_raw(name, row, document)
            return
        marks = ASCII if self.app.ascii else Marks()
        whole = [(s["text"], s["weight"]) for s in document["segments"]]
        listed = document["pieces"]
        pieces = [(text, weight) for text, weight, _ in listed] if self.ends and listed is not None else whole
        self.entitle(f"{name}: {counts(document)}")
        self.say(seen(pieces, marks, ends=self.ends and listed is not None))

    def _show_raw(self, name: str, row: ShownRow, document: dict[str, Any] | None) -> None:
        refused = (document or {}).get("refused") or row.refused
        if refused:
            self.entitle(f"{name}: refused")
        elif self.problem:
            self.entitle(f"{name} as it lies there")
        elif document is None:
            self.entitle(
                f"{name}: waiting for the tokenizer…" if not self.app.ascii else f"{name}: waiting for the tokenizer"
            )
        else:
            self.entitle(f"{name} as it lies there: {counts(document)}")
        why = f"refused: {refused}" if refused else self.problem
        head = Content.styled(f"{one_line(why)}\n\n", "$text-error") if why else Content("")
        self.say(Content("").join([head, fields(row)]))


class Scrolled(VerticalScroll):
    """A text that scrolls with j, k, g and G, too."""

    BINDINGS: ClassVar = SCROLLING
    can_focus = True


class Places(OptionList):
    """A list of places that moves with j, k, g and G, too."""

    BINDINGS: ClassVar = IN_LIST


class LedgerPane(Pane):
    """What became of every row, and the refused ones by their places."""

    HELP = (
        "What became of every row: read = kept + cut + refused. Duplicates are used all the same. Below are the rows "
        "that cannot be used, with the reason; Enter opens the file at the row's line."
    )
    SCOPES: ClassVar = ("data",)
    DEFAULT_CSS = "LedgerPane .body { padding-bottom: 1; }"

    def compose(self) -> ComposeResult:
        yield Static("Ledger", classes="title", markup=False)
        yield Static(classes="body", markup=False)
        yield Places()

    def on_mount(self) -> None:
        self.listed: list[tuple[str, str, str]] = []

    def show_progress(self, progress: Progress) -> None:
        self.entitle(f"Ledger: {progress.words()}")
        if progress.sides:
            self.say("\n".join(ledger_lines(progress.sides)))

    def show_ledger(self, found: dict[str, Any]) -> None:
        sides = found["sides"]
        whole = sides.get("together") or sides["train"]
        sum_ok = all(adds_up(side) for side in sides.values())
        self.entitle("Ledger: the numbers add up" if sum_ok else "Ledger: THE NUMBERS DO NOT ADD UP (please report it)")
        parts = [Content("\n".join(ledger_lines(sides)))]
        for side in found["too_many_refused"]:
            text = f"{side}: more rows are refused than data.max_refused = {found['max_refused']:g}: `train` will stop"
            parts.append(Content.styled(text, "$text-error bold"))
        if found["stops"]:
            text = f"`train` will stop: {found['stops']['where']}: {found['stops']['problem']}"
            parts.append(Content.styled(one_line(text), "$text-error bold"))
        reasons = whole["reasons"]
        listing = [f"  {count:,} x {one_line(reason)}" for reason, count in reasons.items()]
        if listing:
            parts.append(Content("\n".join(["", "refused:", *listing])))
        self.say(Content("\n").join(parts))
        self._list(sides)

    def _list(self, sides: dict[str, Any]) -> None:
        self.listed = [
            (name, r["where"], "  ".join(one_line(r[k]) for k in ("where", "reason", "excerpt") if r[k]))
            for name, side in sides.items() if name != "together" for r in side["refusals"]
        ]  # fmt: skip
        options = self.query_one(Places)
        options.clear_options()
        sign = "x" if self.app.ascii else "✗"
        options.add_options([Option(Content(f"{sign} {cut(text, 300)}")) for *_, text in self.listed])
        refused = sum(side["refused"] for name, side in sides.items() if name != "together")
        if more := refused - len(self.listed):
            options.add_option(Option(Content(f"  and {more:,} more"), disabled=True))
        if not refused:
            options.add_option(Option(Content("  No row is refused."), disabled=True))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self.listed):
            split, where, _ = self.listed[event.option_index]
            self.post_message(self.Opened(where, split))


class LengthsPane(Pane):
    """How long the rows are, in tokens, against train.max_length."""

    HELP = "How many rows have how many tokens, before anything is cut, with a line where train.max_length is."
    SCOPES: ClassVar = ("data",)

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.found: dict[str, Any] | None = None
        self.split = "train"

    def compose(self) -> ComposeResult:
        yield Static("Lengths", classes="title", markup=False)
        with Scrolled():
            yield Static(classes="body", markup=False)

    def on_resize(self) -> None:
        self.draw()

    def show_lengths(self, found: dict[str, Any], progress: Progress | None = None) -> None:
        """Show them; with `progress` they are of the rows so far."""
        self.found = found
        self.entitle(
            f"Lengths so far: {progress.words()}" if progress else f"Lengths of the {self.split} rows, in tokens"
        )
        self.draw()

    def draw(self) -> None:
        if self.found is None:
            return
        side = self.found["sides"].get(self.split)
        if side is None:
            self.say("no unseen rows: set data.test or data.test_fraction")
            return
        limit, width = self.found["max_length"], max(30, self.size.width - 4)
        lines = [Content(line) for line in lengths_summary(side, limit)] + [Content("")]
        bars, rule = (ASCII_BARS, "-") if self.app.ascii else (None, "─")
        for line, over in histogram_lines(side, limit, self.found["overlong"], width, bars, rule):
            lines.append(Content.styled(line, "$text-warning") if over else Content(line))
        self.say(Content("\n").join(lines))


class OverlapPane(Pane):
    """Unseen rows that stand among the training rows, too."""

    HELP = (
        "Unseen rows whose prompt (or whole text) also stands among the training rows, after normalisation of case and "
        "white space. Measured on them, an adapter only shows what it remembers. Enter goes to the row."
    )
    SCOPES: ClassVar = ("data",)
    DEFAULT_CSS = "OverlapPane .body { padding-bottom: 1; }"

    def compose(self) -> ComposeResult:
        yield Static("Overlap", classes="title", markup=False)
        yield Static(classes="body", markup=False)
        yield Places()

    def on_mount(self) -> None:
        self.pairs: list[dict[str, Any]] = []

    def show_overlap(self, found: dict[str, Any]) -> None:
        count, unseen, self.pairs = found["count"], found["unseen"], found["pairs"]
        options = self.query_one(Places)
        options.clear_options()
        if unseen is None:
            self.entitle("Overlap")
            self.say("no unseen rows: set data.test or data.test_fraction")
            return
        self.entitle(f"Overlap: {count:,} of {unseen:,} unseen rows")
        if not count:
            self.say("No unseen row stands among the training rows.")
            return
        note = "measured on them, the adapter only shows what it remembers"
        self.say(Content.styled(f"{count:,} unseen rows stand among the training rows, too: {note}", "$text-warning"))
        for pair in self.pairs:
            text = f"{one_line(pair['test_where'])} = {one_line(pair['train_where'])}  {one_line(pair['text'])}"
            options.add_option(Option(Content(cut(text, 300))))
        if more := count - len(self.pairs):
            options.add_option(Option(Content(f"and {more:,} more"), disabled=True))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self.pairs):
            pair = self.pairs[event.option_index]
            self.post_message(self.Opened(pair["test_where"], "test", pair["test"]))
