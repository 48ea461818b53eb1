"""Pages of rows with a bound, fitted columns, and a row's tokens as text that can be read without colour."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from workbench.models import data, data_reports, data_seen
from workbench.models.data import PAGE, Pages, ShownRow
from workbench.models.data_seen import Marks

HOSTILE = [
    "[red]x[/]",
    "\x1b[31mred",
    "שלום",
    "\u202ereversed",
    "👩‍👩‍👧‍👦 🇩🇪",
    "tab\tline\nend",
    "\ud800",
    "x" * 1_000_000,
    "",
]


def rows(first: int, count: int, text: str = "x") -> list[ShownRow]:
    return [ShownRow(n, f"a:{n}", {"text": text}) for n in range(first, first + count)]


def test_pages_say_what_is_missing_and_keep_what_was_looked_at_last() -> None:
    pages = Pages()
    assert pages.missing(0, 10) == [0]
    pages.put(0, rows(1, PAGE))
    pages.known = 3 * PAGE + 5
    assert pages.missing(0, 2 * PAGE) == [1, 2]
    pages.put(3, rows(3 * PAGE + 1, 2))  # a page that was asked for while rows were counted
    assert pages.missing(3 * PAGE, 3 * PAGE + 4) == [3]
    pages.put(3, rows(3 * PAGE + 1, 5))
    pages.complete = True
    assert pages.missing(3 * PAGE, 3 * PAGE + 4) == []
    assert [getattr(pages.row(p), "number", None) for p in (0, PAGE - 1, PAGE, 3 * PAGE + 4)] == [1, 50, None, 155]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=120))
def test_memory_is_bounded_and_the_page_just_read_stays(asked: list[int]) -> None:
    pages = Pages()
    for page in asked:
        pages.put(page, rows(page * PAGE + 1, PAGE, "y" * 20_000))
        assert pages.row(page * PAGE) is not None
        held = sum(len(t) for row in pages.rows() for t in row.cells.values())
        assert held <= max(data.KEPT_CHARACTERS, 2 * PAGE * 20_000)


def test_marks_are_put_to_the_rows_that_are_here() -> None:
    pages = Pages()
    pages.put(0, rows(1, 3))
    assert pages.unmarked() == [1, 2, 3]
    pages.mark({1: [["kept", "shared"], 7], 2: None, 9: [["cut"], 3]})
    assert pages.unmarked() == [2, 3]
    row = pages.row(0)
    assert row is not None and (row.fate, row.tokens) == ("shared", 7)


@given(st.sampled_from(HOSTILE) | st.text(max_size=80), st.integers(1, 60))
def test_a_cell_fits_exactly_and_acts_on_nothing(text: str, width: int) -> None:
    shown = data.fitted(data.safe(text[:400]), width)
    assert cell_len(shown) == width
    assert not any(c in shown for c in "\x1b\x07\n\t\u202e")
    shown.encode("utf-8")


@given(st.lists(st.integers(0, 300), min_size=1, max_size=9), st.integers(10, 250))
def test_columns_fill_the_room_and_none_takes_what_it_does_not_need(needs: list[int], room: int) -> None:
    names = [f"c{i}" for i in range(len(needs))]
    row = ShownRow(1, "", {name: "z" * need for name, need in zip(names, needs, strict=True)})
    need = data.needs(names, [row], {})
    assert data.needs(names, [], need) == need
    widths = data.column_widths(need, room)
    assert list(widths) == names
    for name in names:
        assert data.LEAST_COLUMN <= widths[name] <= need[name] <= data.MOST_COLUMN
    whole = sum(widths.values()) + len(names) - 1
    assert whole <= max(room, len(names) * (data.LEAST_COLUMN + 1) - 1)
    if any(widths[n] < need[n] for n in names) and room > 9 * len(names):
        assert whole >= room - len(names)  # nothing is cut while there is room


def test_supervised_text_is_marked_without_colour() -> None:
    pieces = [("Q: [b]\x1b[1m", 0.0), ("yes", 1.0), ("\n", 0.0), ("half", 0.5), ("z", 1.0)]
    shown = data_seen.seen(pieces, Marks())
    assert shown.plain == "Q: [b]\\x1b[1m⟦yes⟧\n⟦half⟧x0.5⟦z⟧"
    assert sum("underline" in str(span.style) for span in shown.spans) == 3
    assert data_seen.seen(pieces, data_seen.ASCII).plain == "Q: [b]\\x1b[1m[[yes]]\n[[half]]x0.5[[z]]"
    ends = data_seen.seen([("a", 0.0), (" b\n", 0.0), ("c", 1.0)], Marks(), ends=True)
    assert ends.plain == "a│ b↵│\n⟦c│⟧"


@given(st.lists(st.tuples(st.text(alphabet="ab\n", max_size=4000), st.sampled_from([0.0, 1.0, 0.5])), max_size=12))
def test_a_long_text_keeps_its_beginning_and_its_end(pieces: list[tuple[str, float]]) -> None:
    whole = "".join(text for text, _ in pieces)
    shown = "".join(text for text, _ in data_seen._shortened(pieces))
    if len(whole) <= data_seen.HEAD + data_seen.TAIL:
        assert shown == whole
    else:
        assert shown.startswith(whole[: data_seen.HEAD]) and shown.endswith(whole[-data_seen.TAIL :])
        assert f"{len(whole) - data_seen.HEAD - data_seen.TAIL:,} characters are not shown" in shown


def test_the_ledger_adds_up_on_the_screen() -> None:
    side = {"read": 1200, "kept": 1000, "cut": 150, "refused": 50, "duplicates": 3, "nothing_to_learn": 20}
    assert data_reports.ledger_lines({"train": side}) == [
        "rows                         train",
        "  read                       1,200",
        "= kept whole                 1,000",
        "+ cut                          150",
        "+ refused                       50",
        "    of which duplicates          3",
        "    of which nothing to learn     20",
    ]
    assert data_reports.adds_up(side) and not data_reports.adds_up({**side, "cut": 1})


def test_a_histogram_has_its_rule_where_the_limit_is() -> None:
    side = {"rows": 30, "bins": [(1, 10, 0), (11, 20, 25), (21, 24, 4), (25, 30, 1)]}
    lines = data_reports.histogram_lines(side, 24, "refuse", 60)
    assert [line.split("  ")[0].strip() for line, _ in lines] == [
        "11 - 20", "21 - 24", lines[2][0], "25 - 30",
    ]  # fmt: skip
    assert "train.max_length = 24: longer rows are refused" in lines[2][0]
    assert [over for _, over in lines] == [False, False, False, True]
    assert all(cell_len(line) <= 60 for line, _ in lines)
    assert data_reports.histogram_lines({"bins": []}, 24, "cut", 60) == [("no row has been measured", False)]
    ascii_lines = data_reports.histogram_lines(side, 24, "cut", 60, data_reports.ASCII_BARS, "-")
    assert all(line.isascii() for line, _ in ascii_lines)


@given(st.floats(0, 1), st.integers(1, 80))
def test_a_bar_is_as_long_as_its_share(share: float, width: int) -> None:
    bar = data_reports.Bars().bar(share, width)
    assert cell_len(bar) <= width and bool(bar) == (share > 0)
    assert abs(cell_len(bar) - share * width) <= 1.01
