"""A column's text: drawn as Textual would draw it, and its scroll bar comes after it."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult
from textual.filter import Monochrome
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tests.workbench.conftest import until
from workbench.models.compare_text import Run
from workbench.widgets.answer_pane import AnswerText

RUNS: list[Run] = [("plain ", ""), ("prompt", "prompt"), (" wide 日本語 ", "differs"), ("end", "note")]


class Shown(App):
    def compose(self) -> ComposeResult:
        yield AnswerText()

    @property
    def area(self) -> AnswerText:
        return self.query_one(AnswerText)

    def say(self, lines: int) -> None:
        runs = [run for number in range(lines) for run in ((f"{number} ", ""), *RUNS, ("\n", ""))]
        self.area.show([(lines, lambda: runs, False)])


def drawn(strips: list[Strip]) -> list[list[tuple[str, str]]]:
    """Text and colours, cell by cell: how they are cut into pieces does not count, nor does the ink of a space."""
    return [
        [(char, str(s.style if char != " " else s.style and s.style.bgcolor)) for s in strip for char in s.text]
        for strip in strips
    ]


@pytest.mark.parametrize("lines", [0, 1, 5, 60])
@pytest.mark.parametrize("colours", [True, False])
async def test_it_is_drawn_as_textual_draws_it(lines: int, colours: bool) -> None:
    app = Shown()
    async with app.run_test(size=(40, 12)) as pilot:
        if not colours:
            app._filters.append(Monochrome())
        app.say(lines)
        await pilot.pause()
        region = Region(0, 0, app.area.scrollable_content_region.width + 1, 12)
        for crop in (region, Region(3, 2, 10, 4)):
            assert drawn(app.area.render_lines(crop)) == drawn(ScrollView.render_lines(app.area, crop))


async def test_the_scroll_bar_is_where_the_text_is_a_moment_after_it_has_grown() -> None:
    app = Shown()
    async with app.run_test(size=(40, 12)) as pilot:
        for lines in range(20, 60):
            app.say(lines)
            await pilot.pause()
        area, bar = app.area, app.area.vertical_scrollbar
        assert area.scroll_offset.y == len(area.text.split("\n")) - area.size.height
        await until(pilot, lambda: area._bar_timer is None)
        assert bar.position == area.scroll_y and bar.window_virtual_size == area.virtual_size.height
        await pilot.press("home")
        await until(pilot, lambda: bar.position == 0)
