"""What the columns of a comparison show, as lines of (text, look): wrapped, compared word by word, token by token.

All text of models and datasets comes out of here safe to show. Looks are names that `widgets.answer_pane` has styles for.
"""

from __future__ import annotations

import difflib
import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from engine.protocol import Loaded
from engine.text import cells, cut, duration, one_line, pad, printable
from workbench.models.compare import BASE, Answer, Choice, Turn

Run = tuple[str, str]
Line = list[Run]

LONGEST = 100_000
"""Characters of an answer that are shown."""
PROMPT_CHARACTERS = 600
MODES = {
    "text": "the answers",
    "diff": "words that the other column has not are underlined",
    "tokens": "colour: how much likelier a token is here than under the other model",
    "numbers": "each token's probability here and under the other model",
}
WORDS = re.compile(r"\w+ ?|[^\w\s] ?|\s+")
MOST_WORDS = 2000
"""Words of two answers together, above which they are not compared."""


# --- wrapping


def safe(text: str) -> str:
    return printable(text).expandtabs(4)


def spans(text: str, width: int, start: int = 0) -> list[tuple[int, int]]:
    """Where the lines of `text` are from `start`, where one begins: at most `width` cells each, broken at spaces where
    there are some."""
    found, window = [], 4 * width + 64
    while True:
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        at = start
        while True:
            piece = text[at : min(end, at + window)]
            fits = _fitting(piece, width)
            if fits == len(piece) and at + fits == end:
                found.append((at, end))
                break
            fits = max(1, fits)
            space = fits if fits < len(piece) and piece[fits] == " " else piece.rfind(" ", 0, fits)
            if space < 1 or not piece[:space].strip():
                space = fits
            found.append((at, at + space))
            at += space
            while at < end and text[at] == " ":
                at += 1
        if end == len(text):
            return found
        start = end + 1


def _fitting(text: str, width: int) -> int:
    if text.isascii():
        return min(len(text), width)
    used = 0
    for index, character in enumerate(text):
        used += cells(character)
        if used > width:
            return index
    return len(text)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """Runs as lines; `parts`: the runs, made safe, of which line i begins at character `starts[i]`."""

    parts: list[Run]
    starts: list[int]
    lines: list[Line]


def wrapped(runs: Iterable[Run], width: int, before: Wrapped | None = None) -> Wrapped:
    """Runs as lines of at most `width` cells; they are made safe here.

    Args:
        before: what came of runs of which these may be the continuation, at the same width: its lines are kept up to
            where the text differs.
    """
    parts = [(safe(text), look) for text, look in runs if text]
    whole = "".join(text for text, _ in parts)
    keep = 0
    if before is not None:
        # Where a line is broken depends on the next one, too: as far as that is the same, the line is.
        keep = max(0, bisect_right(before.starts, _same(before.parts, parts)) - 2)
    starts, lines = (before.starts[:keep], before.lines[:keep]) if before is not None else ([], [])
    at, number = 0, 0  # where part `number` begins
    for start, end in spans(whole, max(2, width), before.starts[keep] if before is not None and keep else 0):
        line: Line = []
        while number < len(parts) and at + len(parts[number][0]) <= start:
            at += len(parts[number][0])
            number += 1
        here, place = number, at
        while here < len(parts) and place < end:
            text, look = parts[here]
            piece = text[max(0, start - place) : end - place]
            if piece:
                line.append((piece, look))
            place += len(text)
            here += 1
        starts.append(start)
        lines.append(line)
    return Wrapped(parts, starts, lines)


def _same(old: list[Run], new: list[Run]) -> int:
    """Of how many characters at their beginning both are known to be the same."""
    common = 0
    for (text, look), (other, another) in zip(old, new, strict=False):
        if look != another or not other.startswith(text):
            break
        common += len(text)
        if len(other) > len(text):
            break
    return common


# --- answers


@lru_cache(maxsize=64)
def differing(text: str, other: str) -> tuple[Run, ...]:
    """`text` in runs; words that `other` has not there look "differs". Not for texts that still grow."""
    mine, theirs = WORDS.findall(text), WORDS.findall(other)
    if len(mine) + len(theirs) > MOST_WORDS:
        return ((text, ""), ("\n(too long to be compared word by word)", "note"))
    found: list[Run] = []
    same = [w.rstrip(" ") for w in mine], [w.rstrip(" ") for w in theirs]
    for kind, i, j, _, _ in difflib.SequenceMatcher(
        None, *same
    ).get_opcodes():  # autojunk: else cubic in repeated words
        if i < j:
            found.append(("".join(mine[i:j]), "" if kind == "equal" else "differs"))
    return tuple(found)


def prompt_runs(turn: Turn, ascii: bool) -> list[Run]:
    """A prompt, cut where it is long."""
    more = "..." if ascii else "…"
    text = turn.prompt if len(turn.prompt) <= PROMPT_CHARACTERS else turn.prompt[: PROMPT_CHARACTERS // 2] + (
        f" {more} ({len(turn.prompt) - PROMPT_CHARACTERS:,} more characters) {more} " + turn.prompt[-PROMPT_CHARACTERS // 2 :]
    )  # fmt: skip
    return [("> " + text.rstrip("\n"), "prompt")]


def answer_runs(answer: Answer | None, mode: str, other: Answer | None, rival: str, ascii: bool) -> list[Run]:
    """An answer as runs.

    Args:
        mode: of `MODES`. other: what it is compared with word by word. rival: the name of the model whose
            probabilities are beside its own.
    """
    if answer is None:
        return [("not asked yet: r asks", "note")]
    cursor = "_" if ascii else "▏"
    if not answer.text:
        words = {
            "waiting": "waiting for its turn",
            "loading": "loading the adapter from disk first",
            "failed": "",
            "cut": "stopped before the first word",
            "writing": cursor,
            "done": "an empty answer",
        }
        runs: list[Run] = [(words[answer.state], "note")] if words[answer.state] else []
    elif mode == "diff" and other is not None and other.text and answer.over and other.over:
        runs = list(differing(answer.text[:LONGEST], other.text[:LONGEST]))
    elif mode in ("tokens", "numbers"):
        runs = token_runs(answer, rival, numbers=mode == "numbers", ascii=ascii)
    else:
        runs = [(answer.text[:LONGEST], "")]
    if answer.text and len(answer.text) > LONGEST:
        runs.append((f"\n({len(answer.text) - LONGEST:,} more characters)", "note"))
    if answer.text and answer.state == "writing" and mode != "numbers":
        runs.append((cursor, "note"))
    if answer.state == "failed":
        runs += [("\n" if answer.text else "", ""), (answer.problem, "wrong")]
    return runs


def token_runs(answer: Answer, rival: str, *, numbers: bool, ascii: bool) -> list[Run]:
    """An answer's tokens in colours of how much likelier each is under its own model than under `rival`."""
    own, theirs = answer.scores.get(answer.choice.name), answer.scores.get(rival)
    if own is None or theirs is None:
        rows = [(text, logprob, math.nan) for text, logprob in answer.tokens]
    else:
        rows = list(zip(answer.scored, own, theirs, strict=False))
    if not numbers:
        return [(text, look_of(mine, other)) for text, mine, other in rows]
    head = f"{'here':>7} {cut(short_name(rival), 8):>8} {'nats':>6}  token\n"
    return [(head, "note"), *(run for row in rows for run in _number_line(*row, ascii))]


def _number_line(text: str, mine: float, other: float, ascii: bool) -> list[Run]:
    known = not math.isnan(other)
    change = f"{mine - other:+.2f}" if known else "-"
    figures = f"{percent(mine):>7} {percent(other) if known else '-':>8} {change:>6}  "
    return [(figures, "number"), (visible(text, ascii) + "\n", look_of(mine, other))]


def short_name(name: str) -> str:
    """ "starter-0002" -> "0002", "starter-0002-step-40" -> "0002@40"; other names as they are."""
    found = re.fullmatch(r".+?-(\d+)(?:-step-(\d+))?", name)
    return one_line(name) if found is None else found[1] + (f"@{found[2]}" if found[2] else "")


def visible(text: str, ascii: bool) -> str:
    """A token on one line, its spaces at the ends seen."""
    if ascii:
        return repr(text) if text != text.strip() or not text.isascii() else text
    shown = one_line(text)
    left, right = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    if left == len(shown):
        return "·" * left
    return "·" * left + shown.strip(" ") + "·" * right


def percent(logprob: float) -> str:
    """A log-probability as a share: "97.2%", "0.03%", "1e-07"."""
    share = math.exp(min(0.0, logprob))
    return f"{share:.1%}" if share >= 0.001 else f"{share:.2%}" if share >= 0.00005 else f"{share:.0e}"


def look_of(mine: float, other: float) -> str:
    """ "more3" where a token is far likelier here, "less3" where it is far less likely; without another: by itself."""
    if math.isnan(other):
        return "less2" if mine < math.log(0.1) else "less1" if mine < math.log(0.5) else ""
    change = mine - other
    size = sum(abs(change) >= edge for edge in (0.3, 1.0, 3.0))
    return f"{'more' if change > 0 else 'less'}{size}" if size else ""


def reference_runs(turn: Turn, name: str, ascii: bool, *, numbers: bool) -> list[Run]:
    """The reference answer, each token coloured by how much likelier the adapter `name` finds it than base does."""
    base, mine = turn.reference_scores.get(BASE), turn.reference_scores.get(name)
    if base is None:
        return [(turn.reference, ""), ("\n\nits tokens are measured when a session is there", "note")]
    compared = mine if mine is not None and name != BASE else None
    runs: list[Run] = []
    if numbers:
        runs.append(
            (
                f"{'base':>7} {cut(short_name(name), 8) if compared else '':>8} {'change':>6}  nats of each token\n",
                "note",
            )
        )
        for at, text in enumerate(turn.reference_tokens[: len(base)]):
            own = f"{-compared[at]:.2f}" if compared else ""
            change = f"{base[at] - compared[at]:+.2f}" if compared else ""
            look = look_of(compared[at], base[at]) if compared else look_of(base[at], math.nan)
            runs += [(f"{-base[at]:>7.2f} {own:>8} {change:>6}  ", "number"), (visible(text, ascii) + "\n", look)]
    else:
        for at, text in enumerate(turn.reference_tokens[: len(base)]):
            runs.append((text, look_of(compared[at], base[at]) if compared else look_of(base[at], math.nan)))
    runs.append(("\n", ""))
    for who, values in ((BASE, base), (name, compared)):
        if values:
            mean = -sum(values) / len(values)
            told = f"\n{one_line(who)}: {mean:.3f} nats/token, perplexity {math.exp(min(mean, 700)):.2f}"
            runs.append((told, "note"))
    return runs


# --- titles and proofs


def title(digit: str, choice: Choice, held: Loaded | None, answer: Answer | None, state: str, width: int) -> str:
    """ "1 starter/0003 3f9a21bc  (loading)"; `state`: words about whether it can answer."""
    digest = held.sha256 if held is not None and held.sha256 else answer.said.sha256 if answer and answer.said else ""
    end = f" {digest[:8]}" if digest else ""
    end += f" ({state})" if state else ""
    room = max(6, width - len(end) - len(digit) - 1)
    return cut(f"{digit} {cut(one_line(choice.label), room)}{end}", width)


def proof(answer: Answer | None, ascii: bool) -> list[Run]:
    """Whose answer it is, and how far its next-token distribution was from base's on this prompt."""
    if answer is None or answer.said is None:
        return []
    said = answer.said
    runs: list[Run] = []
    if said.model is None:
        runs.append(
            (BASE if not said.changed else "base, but changed: this should not be", "" if not said.changed else "wrong")
        )
    else:
        name = one_line(said.model) + (f" {said.sha256[:8]}" if said.sha256 else "")
        if said.step is not None:
            name += f" at step {said.step:,}"
        runs.append((name, ""))
        if said.changed:
            far = f", from base: logits up to {said.largest_logit_difference:.3g}, KL {said.kl:.3g} nats"
            runs.append((far, ""))
        else:
            runs.append((": this adapter changed nothing", "wrong"))
    ends = {"cut": ", stopped"}.get(answer.state, "")
    if not ends and not said.stopped:
        ends = ", the context is full" if said.full else ", cut off: c goes on"
    dot = " - " if ascii else " · "
    speed = f"{dot}{said.tokens:,} tokens in {duration(said.seconds)}"
    return [*runs, (speed + ends, "note")]


def table(rows: Sequence[tuple[str, str]], width: int) -> str:
    """Names and values in two columns."""
    room = max((cells(name) for name, _ in rows), default=0)
    return "\n".join(f"{pad(name, room)}  {cut(value, max(8, width - room - 2))}" for name, value in rows)
