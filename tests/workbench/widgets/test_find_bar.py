"""The find bar over something that is no editor: counts, steps, case, a count that comes later, replacing."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Static

from workbench.widgets.find_bar import Chip, FindBar, Finding


class Lines:
    """A target with lines; remembers where it was told to go."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.found, self.went, self.asked = list(lines), [], [], ("", False)

    def matches(self, text: str, case: bool) -> int:
        self.asked = (text, case)
        fold = (lambda s: s) if case else str.casefold
        self.found = [i for i, line in enumerate(self.lines) if text and fold(text) in fold(line)]
        return len(self.found)

    def nearest(self) -> int:
        return 0

    def go(self, number: int) -> None:
        self.went.append(self.found[number])


class Changeable(Lines):
    def replace_match(self, number: int, text: str) -> None:
        line = self.found[number]
        self.lines[line] = self.lines[line].replace(self.asked[0], text)

    def replace_all(self, text: str) -> int:
        for number in range(len(self.found)):
            self.replace_match(number, text)
        return len(self.found)


class Bench(App, Finding):
    ascii = False

    def __init__(self, target) -> None:
        super().__init__()
        self.target = target

    def compose(self) -> ComposeResult:
        yield Static("text")
        yield FindBar(self.target)


def count(app: App) -> str:
    return str(app.query_one("#count", Static).content)


async def test_counts_goes_round_and_says_which() -> None:
    target = Lines("Loss", "rank", "loss again", "LOSS")
    app = Bench(target)
    async with app.run_test(size=(80, 10)) as pilot:
        app.act_edit_find()
        await pilot.press(*"loss")
        await pilot.pause()
        assert count(app) == "1 of 3"
        assert target.went[-1] == 0
        await pilot.press("enter", "down")
        assert count(app) == "3 of 3" and target.went[-1] == 3
        await pilot.press("enter")
        assert count(app) == "1 of 3"
        await pilot.press("up")
        assert count(app) == "3 of 3"
        await pilot.press("escape")
        assert not app.find_bar.shown
        assert target.asked[0] == ""


async def test_case_counts_when_it_is_switched_on() -> None:
    app = Bench(Lines("Loss", "loss"))
    async with app.run_test(size=(80, 10)) as pilot:
        app.act_edit_find()
        await pilot.press(*"loss")
        await pilot.press("tab", "space")  # the button
        await pilot.pause()
        assert app.query_one("#case", Chip).has_class("-on")
        assert count(app) == "1 of 1"


async def test_nothing_found_and_hostile_text() -> None:
    app = Bench(Lines("a"))
    async with app.run_test(size=(80, 10)) as pilot:
        app.find_bar.begin("[red]x[/]")
        await pilot.pause()
        assert count(app) == "none"
        app.act_edit_find_next()
        app.find_bar.begin("\x1b[31m‮")
        await pilot.pause()
        assert count(app) == "none"


async def test_a_count_that_comes_later() -> None:
    class Slow(Lines):
        def matches(self, text: str, case: bool) -> None:
            super().matches(text, case)

    target = Slow("x", "y", "x")
    app = Bench(target)
    async with app.run_test(size=(80, 10)) as pilot:
        app.find_bar.begin("x")
        await pilot.pause()
        assert count(app) == "looking…"
        app.find_bar.tell(1, whole=False)
        assert count(app) == "1 of 1+" and target.went == [0]
        app.find_bar.tell(2)
        assert count(app) == "1 of 2" and target.went == [0]


async def test_replaces_one_and_all_only_where_that_can_be() -> None:
    app = Bench(Lines("x"))
    async with app.run_test(size=(80, 10)):
        assert not app.may_edit_replace()
    target = Changeable("x", "x", "x")
    app = Bench(target)
    async with app.run_test(size=(80, 10)) as pilot:
        assert app.may_edit_replace()
        app.act_edit_replace()
        await pilot.press("x", "tab", "y", "enter")
        assert target.lines == ["y", "x", "x"] and count(app) == "1 of 2"
        await pilot.click("#all")
        await pilot.pause()
        assert target.lines == ["y", "y", "y"] and count(app) == "none"
