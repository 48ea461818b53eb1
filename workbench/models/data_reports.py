"""What became of all rows, as lines of text: the ledger, and a histogram of their lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.models.data import fitted

LEDGER = (("read", "read"), ("kept", "kept whole"), ("cut", "cut"), ("refused", "refused"))
FURTHER = (("duplicates", "duplicates"), ("nothing_to_learn", "nothing to learn"))


def ledger_lines(sides: dict[str, dict[str, Any]]) -> list[str]:
    """The numbers of each side; read = kept + cut + refused, and of which: duplicates, nothing to learn."""
    names = [n for n in ("train", "test", "together") if n in sides]
    labels = [*(label for _, label in LEDGER), *(f"of which {label}" for _, label in FURTHER)]
    keys = [*(key for key, _ in LEDGER), *(key for key, _ in FURTHER)]
    wide = max(len(f"{sides[n][k]:,}") for n in names for k in keys) if names else 1
    wide = max(wide, *(len(n) for n in names)) if names else wide
    lines = [f"{'rows':<27}" + "".join(f"{n:>{wide + 2}}" for n in names)]
    signs = {"kept": "= ", "cut": "+ ", "refused": "+ "}
    for key, label in zip(keys, labels, strict=True):
        indent = "    " if label.startswith("of which") else signs.get(key, "  ")
        lines.append(f"{indent + label:<27}" + "".join(f"{sides[n][key]:>{wide + 2},}" for n in names))
    return lines


def adds_up(side: dict[str, Any]) -> bool:
    return side["read"] == side["kept"] + side["cut"] + side["refused"]


@dataclass(frozen=True, slots=True)
class Bars:
    """Parts of a bar, from nothing to a whole cell."""

    steps: str = " ▏▎▍▌▋▊▉█"

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` (0 to 1) of `width` cells; something, where the share is not 0."""
        steps = len(self.steps) - 1
        units = max(1 if share > 0 else 0, round(share * width * steps))
        whole, rest = divmod(units, steps)
        return self.steps[-1] * whole + (self.steps[rest] if rest else "")


ASCII_BARS = Bars(" #")


def histogram_lines(
    side: dict[str, Any], limit: int, overlong: str, width: int, bars: Bars | None = None, rule: str = "─"
) -> list[tuple[str, bool]]:
    """(line, whether it is too long) of a histogram of lengths, with a rule where train.max_length is."""
    bars = bars or Bars()
    found = [tuple(b) for b in side.get("bins", ())]
    while found and not found[0][2]:
        del found[0]
    if not found:
        return [("no row has been measured", False)]
    left = max(len(f"{b:,}") for _, b, _ in found)
    right = max(len(f"{n:,}") for *_, n in found)
    room = max(4, width - 2 * left - right - 7)
    most = max(n for *_, n in found)
    lines: list[tuple[str, bool]] = []
    what = {"cut": "longer rows are cut", "refuse": "longer rows are refused", "stop": "longer rows stop the run"}
    line = f"{rule * 2} train.max_length = {limit:,}: {what.get(overlong, '')} "
    line = fitted(line + rule * width, width, "")
    marked = False
    for first, last, rows in found:
        if first > limit and not marked:
            marked = True
            lines.append((line, False))
        bar = bars.bar(rows / most if most else 0.0, room)
        lines.append((f"{first:>{left},} - {last:>{left},}  {rows:>{right},}  {bar}", first > limit))
    if not marked:
        lines.append((line, False))
    return lines


def lengths_summary(side: dict[str, Any], limit: int) -> list[str]:
    """Percentiles, over-long rows, tokens in all."""
    if not side.get("rows"):
        return ["no rows"]
    share = 100 * side["over"] / side["rows"]
    over = f"{side['over']:,} of {side['rows']:,} rows ({share:.1f} %) longer than {limit:,}"
    return [
        f"shortest {side['min']:,}   median {side['median']:,}   mean {side['mean']:,}   95 % {side['p95']:,}   "
        f"longest {side['max']:,}",
        over if side["over"] else f"no row is longer than train.max_length = {limit:,}",
        f"{side['tokens']:,} tokens are used, {side['supervised']:,} of them supervised",
    ]
