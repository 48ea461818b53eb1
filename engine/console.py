"""The command line's output: events, texts and tables for people, or JSON and nothing else.

Comes from: the verbs, and the events of the jobs they run (a Console's `emit` is an `Emit`). Goes to: stdout; failures
also to stderr. On a terminal, progress is one line that is rewritten in place; on a pipe, a line every few seconds.
Text of models and datasets never acts on the terminal, and a closed stdout never stops the work.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from engine import events
from engine.errors import EngineError, Stopped
from engine.progress import LiveLine, Pipe, StageProgress
from engine.text import amount, cells, columns, duration, one_line, printable, size, table, wrap

__all__ = ["Console", "amount", "columns", "duration", "one_line", "printable", "size", "table"]

QUIET_SECONDS = 0.3
"""A stage that is over by then is only told when it ends."""
TICK_SECONDS = 0.2


class Console:
    """Where a verb speaks.

    Args:
        stream: stdout; None where there is none.
        json_lines: print every event as a line of JSON, and nothing else (train, watch).
        json_document: print one JSON document, and nothing else.
        errors: stderr.

    Attributes:
        human: neither kind of JSON: say things in words.
        tty: the stream is a terminal that can rewrite a line.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        json_lines: bool = False,
        json_document: bool = False,
        errors: TextIO | None = None,
    ) -> None:
        self.out, self.err = Pipe(stream), Pipe(sys.stderr if errors is None else errors)
        self.json_lines, self.json_document = json_lines, json_document
        self.human = not (json_lines or json_document)
        self.tty = self.human and self.out.is_terminal()
        self.colour = self.tty and not os.environ.get("NO_COLOR")
        self.failed: events.Failed | None = None
        self._lock = threading.RLock()
        self._live = LiveLine(self.out, self.tty)
        self._stage: StageProgress | None = None
        self._ticker: threading.Thread | None = None
        self._step_seconds: float | None = None
        self._seq, self._ended, self._documented = -1, False, False

    @property
    def width(self) -> int:
        """Cells of a line."""
        return shutil.get_terminal_size().columns

    # --- events

    def emit(self, event: events.Event) -> None:
        """Tell an event."""
        if self.json_lines:
            self.line(events.encode(event))
        else:
            self._note_end(event)
            if self.human:
                with self._lock:
                    self._tell(event)

    def line(self, line: bytes) -> events.AnyEvent | None:
        """Tell an event as it stands in a log; returns it, or None where this version does not know it."""
        event = events.decode(line)
        if self.json_lines:
            if event is not None:
                self._note_end(event)
            if event is not None or _is_object(line):  # what a killed job left half-written is no line of JSON
                self.out.write(line.decode("utf-8").rstrip("\n") + "\n")
        elif event is not None:
            self.emit(event)
        return event

    def _note_end(self, event: events.Event) -> None:
        self._seq = max(self._seq, event.seq)
        self._ended = isinstance(event, events.Finished | events.Failed)

    def _tell(self, event: events.Event) -> None:
        at = event.t or time.time()
        if isinstance(event, events.Stage):
            self._tell_stage(event, at)
        elif isinstance(event, events.Step):
            self._tell_step(event)
        elif isinstance(event, events.Failed):
            self.failed = event
            self._fail("error", event.problem, event.where, event.remedy)
        elif lines := told(event):
            self._settle()
            for line in lines:
                self.out.write(self._warning(self._fitted(line)) + "\n")

    def _fitted(self, line: str) -> str:
        """On a terminal, a line that is too long for it as several, broken between words."""
        return "\n  ".join(wrap(line, self.width - 2)) if self.tty and cells(line) > self.width else line

    def _warning(self, line: str) -> str:
        return self.style(line, "33") if line.startswith("warning:") else line

    # --- stages

    def _tell_stage(self, event: events.Stage, at: float) -> None:
        if self._stage is not None and self._stage.name != event.name:
            self._end_stage(at)
        if self._stage is None:
            self._live.forget()
            self._stage = StageProgress(event.name, at, time.monotonic())
        stage = self._stage
        stage.done, stage.total, stage.unit = event.done, event.total, event.unit
        if event.total is not None and event.done >= event.total:
            self._end_stage(at)
        else:
            self._draw_stage()
            if self._ticker is None:
                self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self._ticker.start()

    def _tick(self) -> None:
        """Show that time passes, also while a stage has nothing to say; ends with the stage."""
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                if self._stage is None:
                    self._ticker = None
                    return
                self._draw_stage()

    def _draw_stage(self) -> None:
        stage = self._stage
        if stage is not None and (self.tty or time.monotonic() - stage.shown >= QUIET_SECONDS):
            self._live.show(stage.progress(time.time()))

    def _end_stage(self, at: float) -> None:
        if self._stage is not None:
            self._live.erase()
            self.out.write(one_line(self._stage.end(at)) + "\n")
            self._stage = None

    # --- steps

    def _tell_step(self, event: events.Step) -> None:
        if self._stage is not None:  # the progress within this step
            self._stage = None
            self._live.erase()
        before = self._step_seconds
        self._step_seconds = event.seconds if before is None else 0.8 * before + 0.2 * event.seconds
        last = event.step >= event.steps
        text = step_line(event, None if last else self._step_seconds * (event.steps - event.step))
        while self.tty and cells(text) >= self.width and "  " in text:
            text = text[: text.rindex("  ")]  # rather no figure than half of one
        self._live.show(text, now=last)
        if last:
            self._live.keep()

    def _settle(self) -> None:
        """Make room for a line that stays: a progress line of steps is kept, one of a stage goes."""
        if self._stage is None:
            self._live.keep()
        else:
            self._live.erase()

    # --- words

    def say(self, text: str = "", *, raw: bool = False) -> None:
        """A text that stays, made `printable`; `raw`: it is made of printable text and `style` already."""
        if self.human:
            with self._lock:
                self._settle()
                self.out.write((text if raw else printable(text)) + "\n")

    def warn(self, text: str) -> None:
        """A warning."""
        if self.human:
            lines = printable(f"warning: {text}").split("\n")
            self.say(self._warning("\n".join(map(self._fitted, lines))), raw=True)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> None:
        """See `text.table`."""
        self.say(table(headers, rows, align))

    def style(self, text: str, code: str) -> str:
        """`text` in an SGR style ("1" bold, "4" underlined, "33" yellow) where colours are wanted, else as it is."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text

    def document(self, value: Any) -> None:
        """The one JSON document, where JSON is asked for. NaN and infinity, which JSON has not, become null."""
        if self.json_document and not self._documented:
            self._documented = True
            self.out.write(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def error(self, error: EngineError) -> None:
        """Tell a failure on stderr, once; as JSON, also end stdout with it."""
        label = "stopped" if isinstance(error, Stopped) else "error"
        with self._lock:
            if self.failed is None or self.failed.problem != error.problem:
                self._fail(label, error.problem, error.where, error.remedy)
        self.document({"error": {"problem": error.problem, "where": error.where, "remedy": error.remedy}})
        if self.json_lines and not self._ended:
            failed = events.Failed(problem=error.problem, where=error.where, remedy=error.remedy)
            failed.seq, failed.t = self._seq + 1, time.time()
            self.emit(failed)

    def _fail(self, label: str, problem: str, where: str | None, remedy: str | None) -> None:
        self._settle()
        self._stage = None
        several = from_here(problem).split("\n")
        place = f" {one_line(from_here(where))}:" if where else ""
        lines = [f"{label}:{place} {several[0]}"] if len(several) == 1 else [f"{label}:{place}", *several]
        if remedy:
            lines += remedy.split("\n")
        terminal = self.err.is_terminal()
        parts = (
            part
            for line in lines
            for part in (wrap(printable(line), self.width - 2) if terminal else [printable(line)])
        )
        body = "\n  ".join(parts)
        self.err.write((self.style(label, "31") + body[len(label) :] if terminal else body) + "\n")

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        with self._lock:
            self._settle()
            self._stage = None


# --- events in words


def step_line(event: events.Step, left: float | None) -> str:
    """A step in one line, what matters most first; `left` are the seconds to the last one."""
    parts = [
        f"step {event.step}/{event.steps}",
        f"loss {event.loss:.3f}",
        f"{duration(event.seconds)} a step" if left is None else f"ETA {duration(left)}",
        f"{event.tokens_per_second:,.0f} tok/s",
        f"mem {size(event.memory_bytes)}",
        f"lr {event.learning_rate:.1e}",
        f"grad {event.gradient_norm:.2g}",
    ]
    return "  ".join(parts)


def told(event: events.Event) -> list[str]:
    """What an event says in lines that stay; control characters of its texts are spelled out."""
    step: int | None = getattr(event, "step", None)
    at = "" if step is None else f"step {step}, "
    if isinstance(event, events.Started):
        again = "" if event.resumed_from_step is None else f", going on after step {event.resumed_from_step}"
        return [one_line(f"{event.verb} {event.project} on {event.device}{again}")]
    if isinstance(event, events.Scored):
        match = "" if event.exact_match is None else f", exact match {event.exact_match:.1%}"
        rows = {"train": "training rows", "test": "unseen rows"}.get(event.split, f"{event.split} rows")
        what = f"{at}{event.model} on {rows} ({event.scope})"
        return [one_line(f"{what}: perplexity {amount(event.perplexity, ',.3f')} over {event.tokens:,} tokens{match}")]
    if isinstance(event, events.Sample):
        prompt, answer = (printable(t).split("\n") for t in (event.prompt, event.text))
        head = one_line(f"{at}{event.model} was asked:")
        return [head, *(f"  > {line}" for line in prompt), *(f"    {line}" for line in answer)]
    if isinstance(event, events.Saved):
        return [one_line(f"{at}{event.what} saved: {shown_path(event.path)} ({size(event.bytes)})")]
    if isinstance(event, events.Memory):
        return [memory_words(event)]
    if isinstance(event, events.Note):
        return printable(f"warning: {event.text}" if event.level == "warning" else event.text).split("\n")
    if isinstance(event, events.Finished):
        words = {"early stopping": "ended early: the unseen loss no longer falls"}
        return [one_line(f"{words.get(event.reason, event.reason)} after {duration(event.seconds)}")]
    return []


def memory_words(event: events.Memory) -> str:
    """What a run takes, as measured and as estimated."""
    guess, real = event.estimated_bytes, event.measured_bytes
    estimated = "" if guess is None else f"estimated {size(guess)}"
    if real is None:
        parts = f"{event.tokens:,} tokens at once do not fit; smaller micro-batches will be tried", estimated
    else:
        off = "" if not guess else f" ({guess / real - 1:+.0%})"
        parts = f"peak memory {size(real)}, measured with {event.tokens:,} tokens at once", estimated + off
    return "; ".join(filter(None, parts))


def shown_path(path: str | Path) -> str:
    """A path as it is shortest from here."""
    with contextlib.suppress(ValueError, OSError):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


def from_here(text: str) -> str:
    """A text with the paths in it that lead through the current folder shortened to what follows it."""
    with contextlib.suppress(OSError):  # it is gone
        here = os.path.join(os.getcwd(), "")
        return text.replace(here, "") if len(here) > 1 else text
    return text


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, Path) else value
