"""A log keeps its end in sight until one scrolls up."""

from __future__ import annotations

from textual.app import App, ComposeResult

from tests.workbench.conftest import until
from workbench.widgets.find_log import FindLog


class Shown(App):
    def compose(self) -> ComposeResult:
        yield FindLog(500)

    @property
    def log_(self) -> FindLog:
        return self.query_one(FindLog)


def last_in_sight(log: FindLog) -> str:
    return log.lines[log.scroll_offset.y + log.scrollable_content_region.height - 1]


async def test_the_end_stays_in_sight_when_there_is_less_room() -> None:
    app = Shown()
    async with app.run_test(size=(40, 20)) as pilot:
        log = app.log_
        log.add(f"line {n}" for n in range(100))
        await pilot.pause()
        for height in (12, 9, 15):
            await pilot.resize_terminal(40, height)
            assert last_in_sight(log) == log.lines[-1]
            log.add([f"at {height}", "x" * 60])  # with the second one a horizontal scroll bar comes
            await until(pilot, lambda: last_in_sight(log) == log.lines[-1])
        log.styles.height = 5  # and more is said before it is laid out anew
        log.add(["one"])
        await pilot.pause()
        log.add(["two"])
        await pilot.pause()
        assert last_in_sight(log) == "two"


async def test_who_has_scrolled_up_stays_there_and_at_the_end_it_follows_again() -> None:
    app = Shown()
    async with app.run_test(size=(40, 10)) as pilot:
        log = app.log_
        log.add(f"line {n}" for n in range(100))
        await pilot.pause()
        log.focus()
        await pilot.press("up")
        await pilot.pause()
        top = log.scroll_offset.y
        log.add(["more"])
        await pilot.resize_terminal(40, 8)
        log.add(["and more"])
        await pilot.pause()
        assert log.scroll_offset.y == top
        await pilot.press("G")
        await pilot.pause()
        log.add(["the last"])
        await pilot.pause()
        assert last_in_sight(log) == "the last"
