"""Adapters for the screen: columns and cells of their list, one in full, a comparison, merged models.

Comes from: `models.adapters`. Goes to: `editors.adapters_view`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from textual.content import Content

from engine.text import age, amount, cells, cut, one_line, pad, size, wrap
from workbench.models.adapters import Entry, Merged, differing, report
from workbench.models.evaluation_words import short
from workbench.widgets.eval_shown import titled, when
from workbench.widgets.sortable_table import Cell, Column

LIST = [
    Column("mark", "", most=2),
    Column("adapter", "adapter", most=40, grows=True),
    Column("rank", "r", ">", most=10),
    Column("alpha", "alpha", ">", most=7, rank=3),
    Column("scaling", "scaling", ">", most=9, rank=5),
    Column("targets", "targets", most=40, rank=4),
    Column("parameters", "parameters", ">", most=14, rank=7),
    Column("size", "size", ">", most=9, rank=2),
    Column("perplexity", "unseen ppl", ">", most=12),
    Column("base_ppl", "base ppl", ">", most=10, rank=6),
    Column("exact", "exact", ">", most=7, rank=1),
    Column("hash", "sha256", most=8, rank=9),
    Column("base", "base", most=40, rank=8),
    Column("age", "made", ">", most=9, rank=2),
]


def list_cells(entry: Entry, marked: bool, ascii_only: bool, now: float) -> list[Cell]:
    """In the order of LIST; `now` in seconds since the epoch."""
    info, row, base, made = entry.info, entry.row, entry.base, age(now - entry.when)
    mark = ("*" if ascii_only else "●") if marked else ""
    if info is None:
        return [mark, (f"{entry.label}: {entry.problem}", "bad"), *[""] * (len(LIST) - 3), made]
    better = row is not None and base is not None and (row.perplexity or 0) < (base.perplexity or 0)
    return [
        mark, entry.label, ", ".join(map(str, info.ranks)) or str(info.rank), f"{info.alpha:g}",
        f"{info.scaling:.4g}", " ".join(info.targets), f"{info.parameters:,}", size(info.bytes),
        ("not measured", "dim") if row is None else (short(row.perplexity), "good" if better else ""),
        short(base.perplexity) if base is not None else "", amount(row.exact_match, ".1%") if row is not None else "",
        info.sha256[:8] or "…", Path(info.base).name if "/" in info.base else info.base, made,
    ]  # fmt: skip


_SORT: dict[str, Callable[[Entry], Any]] = {
    "adapter": lambda e: e.label,
    "rank": lambda e: e.info and e.info.rank,
    "alpha": lambda e: e.info and e.info.alpha,
    "scaling": lambda e: e.info and e.info.scaling,
    "targets": lambda e: e.info and " ".join(e.info.targets),
    "parameters": lambda e: e.info and e.info.parameters,
    "size": lambda e: e.info and e.info.bytes,
    "perplexity": lambda e: e.row and e.row.perplexity,
    "base_ppl": lambda e: e.base and e.base.perplexity,
    "exact": lambda e: e.row and e.row.exact_match,
    "hash": lambda e: e.info and (e.info.sha256 or None),
    "base": lambda e: e.info and e.info.base,
    "age": lambda e: -e.when,
}
SORTABLE = ["", *_SORT]


def sorted_entries(entries: Sequence[Entry], key: str, descending: bool) -> list[Entry]:
    """By a column of LIST, those without a value last; "" as they are (the newest first)."""
    if key not in _SORT:
        return list(entries)
    get = _SORT[key]
    have = [e for e in entries if get(e) is not None]
    return sorted(have, key=get, reverse=descending) + [e for e in entries if get(e) is None]


def details(entry: Entry, root: Path) -> Content:
    """An adapter in full; its folder as seen from the workspace `root`."""
    info = entry.info
    if info is None:
        return Content.assemble((f"{one_line(entry.label)}\n\n", "bold"), (one_line(entry.problem), "$text-error"))
    folder = entry.path.relative_to(root) if entry.path.is_relative_to(root) else entry.path
    kind = " + ".join(n for n, on in (("rsLoRA", info.rslora), ("DoRA", info.dora)) if on) or "LoRA"
    pairs = [
        ("adapter", entry.label), ("kind", " + ".join([kind, *info.variants])),
        ("base", info.base + (f" at {info.revision}" if info.revision else "")),
        ("rank", ", ".join(map(str, info.ranks))), ("alpha", f"{info.alpha:g}"),
        ("scaling", f"{info.scaling:g} ({'alpha / sqrt(r)' if info.rslora else 'alpha / r'})"),
        ("targets", f"{', '.join(info.targets)} ({info.modules:,} modules)"),
        *([("stored", f"{', '.join(info.modules_to_save)} in full")] if info.modules_to_save else []),
        ("parameters", f"{info.parameters:,} {info.dtype} in {info.tensors:,} tensors"), ("size", size(info.bytes)),
        ("made", when(entry.when)), ("sha256", info.sha256 or "hashing…"), ("folder", str(folder)),
    ]  # fmt: skip
    if entry.row is not None:
        base = f" (base {short(entry.base.perplexity)})" if entry.base is not None else ""
        pairs.append(("unseen ppl", short(entry.row.perplexity) + base))
        if entry.row.exact_match is not None:
            pairs.append(("exact", amount(entry.row.exact_match, ".2%")))
    else:
        pairs.append(("unseen ppl", "not measured: e evaluates it"))
    return titled(pairs)


def compared(entries: Sequence[Entry], width: int) -> Content:
    """The settings in which adapters differ, side by side."""
    rows = differing(entries)
    figures = [
        ("unseen ppl", [short(e.row.perplexity) if e.row is not None else "-" for e in entries]),
        ("exact match", [amount(e.row.exact_match if e.row is not None else None, ".1%") for e in entries]),
    ]
    first = max(cells(name) for name, _ in [*rows, *figures]) if rows else 12
    each = max(12, (width - first) // max(1, len(entries)) - 2)

    def line(name: str, values: Sequence[str]) -> str:
        return pad(cut(one_line(name), first), first) + "".join(
            "  " + pad(cut(one_line(v), each), each) for v in values
        )

    lines = [Content.styled(line("", [e.label for e in entries]).rstrip(), "bold")]
    lines += [Content(line(*row).rstrip()) for row in figures]
    lines.append(Content(""))
    lines += [Content(line(*row).rstrip()) for row in rows]
    lines += [] if rows else [Content("Their settings are the same.")]
    return Content("\n").join(lines)


MERGED = [
    Column("model", "merged model", most=60, grows=True),
    Column("adapter", "adapter", most=30),
    Column("weights", "base", most=10),
    Column("verdict", "verified", most=16),
    Column("kl", "KL", ">", most=9, rank=3),
    Column("merged_ppl", "merged ppl", ">", most=12, rank=2),
    Column("adapter_ppl", "base+adapter", ">", most=14, rank=2),
    Column("size", "size", ">", most=9, rank=1),
    Column("made", "made", ">", most=14, rank=4),
]


def merged_cells(made: Merged, root: Path) -> list[Cell]:
    """In the order of MERGED."""
    r, proof = made.report, made.proof
    try:
        place = str(made.path.relative_to(root))
    except ValueError:
        place = str(made.path)
    look = {"holds": "good", "does not hold": "bad"}.get(made.verdict, "dim")
    kl, bytes_ = proof.get("kl"), r.get("bytes")
    return [
        place.removeprefix("projects/"), made.adapters, str(r.get("base_weights", "-")), (made.verdict, look),
        f"{kl:.1e}" if isinstance(kl, float) else "-", _short(proof.get("perplexity_merged")),
        _short(proof.get("perplexity_adapter")), size(bytes_) if isinstance(bytes_, int) else "-", when(made.when),
    ]  # fmt: skip


def _short(value: Any) -> str:
    return short(value) if isinstance(value, int | float) else "-"


def report_text(made: Merged, width: int) -> Content:
    """The verification report of a merged model, in lines of at most `width` cells."""
    first = 16 if width >= 60 else 0
    lines: list[Content] = []
    for title, text in report(made):
        style = "bold $text-error" if text.startswith("NO:") else ""
        if not first and title:
            lines.append(Content.styled(title, "$text-muted"))
        for at, part in enumerate(wrap(text, max(10, width - first)) if text else [""]):
            head = pad(title if first and not at else "", first)
            lines.append(Content.assemble((head, "$text-muted"), (part, style)))
    return Content("\n").join(lines)
