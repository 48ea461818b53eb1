"""The blind view: nothing says who is who before the verdict, which is in the file first; it goes on after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from engine import blind as blind_files
from engine import protocol
from engine.blind import BlindTest
from engine.protocol import Answered, Done
from tests.workbench.conftest import Start, text_of, until
from tests.workbench.editors.test_compare_view import (  # noqa: F401  (fixtures)
    HOSTILE,
    Scripted,
    opened,
    script,
    scripted,
    session_job,
    sockets,
    with_adapter,
)
from workbench.editors.blind_view import BlindView


def two_voices(request: Any) -> list[Any]:
    """The base says one thing, an adapter another."""
    if not isinstance(request, protocol.Generate):
        return script(request)
    texts = ["said by the adapter" if c.model else "said by the base" for c in request.columns]
    found: list[Any] = [
        Answered(request.id, n, c.model, t, 4, "", 1.0, 0.5, c.model is not None, True)
        for n, (c, t) in enumerate(zip(request.columns, texts, strict=True))
    ]
    return [*found, Done(request.id)]


async def begun(pilot: Pilot, *prompts: str) -> BlindView:
    """A test of prompts that were typed in the comparison."""
    view = await opened(pilot, "demo/0001")
    await until(pilot, lambda: view.link is not None)
    for prompt in prompts:
        view.box.put(prompt)
        await pilot.press("enter")
        await until(pilot, lambda: view.comparison.turns and not view.talk.busy)
    await pilot.press("escape", "b")
    await until(pilot, lambda: "on which prompts?" in text_of(pilot))
    await pilot.press("t")
    app: Any = pilot.app
    await until(pilot, lambda: isinstance(app.workbench.editors.front, BlindView))
    blind = app.workbench.editors.front
    await until(pilot, lambda: "which is better?" in text_of(pilot))
    return blind


async def test_names_appear_after_the_verdict_which_is_kept_first(
    start: Start, workspace: Path, scripted: Any  # noqa: F811
) -> None:  # fmt: skip
    with_adapter(workspace)
    scripted(two_voices)
    run = workspace / "projects/demo/runs/0001"
    async with start((120, 40)) as pilot:
        blind = await begun(pilot, "apples", "pears", "plums")
        screen = text_of(pilot)
        assert "pair 1 of 3" in screen and "said by the base" in screen and "said by the adapter" in screen
        inside = "\n".join(line[blind.region.x :] for line in screen.split("\n")[blind.region.y :])
        assert "demo-0001" not in inside and "A: " not in inside
        await pilot.press("a")
        await until(pilot, lambda: "was better" in text_of(pilot))
        (path,) = blind_files.tests_of(run)
        judged = BlindTest.open(path).judged
        assert len(judged) == 1 and judged[0].verdict == "a"
        on_the_left = blind.trial.test.sides(0, ("said by the base", "said by the adapter"))[0]  # type: ignore[union-attr]
        assert judged[0].winner == ("base" if on_the_left == "said by the base" else "demo-0001")
        assert f"A: {judged[0].a}" in text_of(pilot) and "p = 1 (sign test" in text_of(pilot).replace("\n", " ")
        await pilot.press("b")
        assert len(BlindTest.open(path).judged) == 1
        await pilot.press("n", "equals_sign")
        await until(pilot, lambda: "as good. " in text_of(pilot))
        pilot.app.remember()  # type: ignore[attr-defined]
    async with start((80, 24)) as pilot:  # the tab comes back, and the test goes on
        app: Any = pilot.app
        await until(pilot, lambda: isinstance(app.workbench.editors.front, BlindView))
        await until(pilot, lambda: "pair 3 of 3: which is better?" in text_of(pilot))
        app.workbench.editors.front.focus_first()
        await pilot.press("b")
        await until(pilot, lambda: "was better" in text_of(pilot))
        await pilot.press("n")
        await until(pilot, lambda: "all 3 pairs are judged" in text_of(pilot))
        assert BlindTest.open(path).tally().judged == 3


async def test_hostile_text_is_only_text(start: Start, workspace: Path, scripted: Any) -> None:  # noqa: F811
    with_adapter(workspace)
    scripted(lambda request: script(request, HOSTILE))
    async with start((80, 24)) as pilot:
        await begun(pilot, HOSTILE)
        assert "the same, word for word" in text_of(pilot).replace("\n", " ")
        await pilot.press("a")
        await until(pilot, lambda: "was better" in text_of(pilot))
        text = text_of(pilot)
        assert not any(c in text for c in "\x1b\u202e\x07") and "[red]x[/]" in text


async def test_a_tab_that_came_back_starts_no_session(start: Start, workspace: Path, monkeypatch: Any) -> None:
    from workbench.jobs import detach

    asked: list[Any] = []
    monkeypatch.setattr(detach, "start", lambda *a: asked.append(a))
    with_adapter(workspace)
    BlindTest.create(workspace / "projects/demo/runs/0001", ("base", "demo-0001"), ["one"], 3)
    async with start((120, 40)) as pilot:
        pilot.app.open("blind:demo")  # type: ignore[attr-defined]
        await until(pilot, lambda: "n goes on with it" in text_of(pilot))
        assert asked == []
