"""What stands over a run: its state in words, how far it is, its newest numbers, what is going on or how it ended."""

from __future__ import annotations

import time

from textual.content import Content

from engine.console import memory_words
from engine.text import cells, cut, duration, one_line, size
from workbench.models.machine import bar
from workbench.models.outline import ASCII_MARKS, MARKS
from workbench.models.plot import number
from workbench.models.run import RunModel

STATE_STYLES = {"running": "$text-accent", "done": "$text-success", "failed": "$text-error", "killed": "$text-error"}
MOST_LINES = 3
"""Lines of how it ended."""


def header(run: RunModel, width: int, ascii_only: bool = False, now: float | None = None) -> list[Content]:
    """Lines of at most `width` cells."""
    now = time.time() if now is None else now
    return [_first(run, width, ascii_only, now), _numbers(run, width, now), *_third(run, width, now)]


def _first(run: RunModel, width: int, ascii_only: bool, now: float) -> Content:
    state = run.state
    mark = (ASCII_MARKS if ascii_only else MARKS).get(state, "?")
    words = {"empty": "not started yet" if run.reading >= 1.0 else "reading…"}.get(state, state)
    parts: list[tuple[str, str]] = [(f"{mark} {words}", f"bold {STATE_STYLES.get(state, '')}".strip())]
    if run.gone:
        parts = [("its folder was deleted", "bold $text-error")]
    if run.step is not None:
        parts.append((f"step {run.step.step:,} of {run.step.steps:,}", ""))
    tail: list[str] = []
    if run.share is not None:
        tail.append(f"{100 * run.share:.0f}%")
    eta = run.eta(now)
    if eta is not None:
        tail.append(f"{duration(eta)} left")
    if run.reading < 1.0:
        tail.append(f"reading the log {100 * run.reading:.0f}%")
    used = sum(cells(t) + 2 for t, _ in parts) + sum(cells(t) + 2 for t in tail)
    room = min(40, width - used)
    if run.share is not None and room >= 8:
        parts.append((bar(run.share, room, ascii_only), STATE_STYLES.get(state, "$text-muted")))
    parts += [(t, "") for t in tail]
    return _joined(parts, width)


def _numbers(run: RunModel, width: int, now: float) -> Content:
    """The newest step's numbers; those that matter least go first where it is narrow."""
    said: list[tuple[str, str]] = []
    step = run.step
    if step is not None:
        said.append(("loss", number(step.loss)))
    unseen = run.curves["unseen"]
    if len(unseen):
        said.append(("unseen", f"{number(unseen.y[-1])} at {round(unseen.x[-1]):,}"))
    if step is not None:
        rate = number(step.tokens_per_second)
        said += [("", f"{rate} tok/s"), ("mem", size(step.memory_bytes))]
    elapsed = run.elapsed(now)
    if elapsed is not None:
        said.append(("took" if run.state != "running" else "for", duration(elapsed)))
    if step is not None:
        said += [
            ("lr", number(step.learning_rate)),
            ("grad", number(step.gradient_norm)),
            ("epoch", f"{step.epoch:.2f}"),
        ]
    if run.started is not None:
        said.append(("on", one_line(run.started.device)))
    line, used = Content(""), 0
    for name, value in said:
        text = f"{name} {value}".strip()
        if used + len(text) + 2 > width:
            break
        gap = "  " if used else ""
        line += Content(gap) + (Content.styled(f"{name} ", "$text-muted") if name else Content("")) + Content(value)
        used += cells(text) + len(gap)
    return line


def _third(run: RunModel, width: int, now: float) -> list[Content]:
    """The stage that is going on, or how it ended and what to do; and what the reader should not overlook."""
    found: list[tuple[str, str]] = []
    ending = run.ending()
    if ending is not None:
        style = STATE_STYLES.get(run.state, "")
        if run.state in ("failed", "killed"):
            found.append((" ".join(p for p in (ending.where + ":" if ending.where else "", ending.text) if p), style))
        else:
            found.append((ending.text, style))
        if ending.remedy:
            found.append((ending.remedy, ""))
    elif run.state == "empty" and run.reading >= 1.0:
        found.append(("waiting for its first word; what libraries print is in the log (o)", "$text-muted"))
    elif run.stage is not None:
        found.append((run.stage.progress(now), ""))
    quiet = run.quiet(now)
    if quiet is not None:
        found.append((f"it has said nothing for {duration(quiet)}; its process lives", "$text-warning"))
    if run.gaps.places:
        found.append((run.gaps.text(), "$text-warning"))
    lines: list[Content] = []
    for text, style in found:
        lines += [Content.styled(line, style) if style else Content(line) for line in wrapped(text, width)]
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """A sentence in at most `MOST_LINES` lines."""
    from engine.text import wrap

    lines = wrap(one_line(text), max(2, width))
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], cut(" ".join(lines[MOST_LINES - 1 :]), width)]
    return lines


def _joined(parts: list[tuple[str, str]], width: int) -> Content:
    line, used = Content(""), 0
    for text, style in parts:
        gap = "  " if used else ""
        if used + len(gap) + cells(text) > width:
            break
        line += Content(gap) + (Content.styled(text, style) if style else Content(text))
        used += len(gap) + cells(text)
    return line


def facts(run: RunModel) -> Content:
    """What the inspector shows of a run."""
    started = run.started
    rows: list[tuple[str, str]] = [("run", run.label), ("state", run.state)]
    if started is not None:
        rows.append(("began", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.begun or started.t))))
        if run.starts > 1:
            rows.append(("resumed", f"{run.starts - 1} times" if run.starts > 2 else "once"))
        rows += [("process", str(started.pid)), ("device", started.device)]
    if run.step is not None:
        rows.append(("supervised", f"{run.step.supervised_tokens:,} of {run.step.tokens:,} tokens in the newest step"))
        rows.append(("a step", duration(run.step.seconds)))
    if run.memory is not None:
        rows.append(("memory", memory_words(run.memory)))
    if run.scored is not None:
        rows.append(
            ("perplexity", f"{run.scored.perplexity:,.3f} on {run.scored.split} rows at step {run.scored.step}")
        )
    if run.checkpoint is not None:
        rows.append(("checkpoint", f"step {run.checkpoint:,}"))
    if run.adapter:
        rows.append(("adapter", run.adapter))
    if run.repeated:
        rows.append(("repeated", f"{run.repeated:,} steps, after a kill"))
    if run.gaps.places:
        rows.append(("gaps", run.gaps.text()))
    if started is not None:
        rows += [(name, version) for name, version in started.versions.items()]
    lines = [Content.styled("RUN", "bold $text-muted")]
    lines += [Content.styled(f"{name} ", "$text-muted") + Content(one_line(value)) for name, value in rows]
    return Content("\n").join(lines)
