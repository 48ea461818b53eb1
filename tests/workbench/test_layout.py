"""The screen: what is shown at which size, toggled, focused, resized, zoomed, and remembered."""

from __future__ import annotations

import pytest

from tests.workbench.conftest import Start, text_of


@pytest.mark.parametrize(
    ("size", "shown"),
    [((80, 24), {"editor"}), ((120, 40), {"sidebar", "editor", "panel"}),
     ((200, 50), {"sidebar", "editor", "panel", "inspector"})],
)  # fmt: skip
async def test_regions_follow_the_size_of_the_terminal(start: Start, size, shown) -> None:
    async with start(size) as pilot:
        screen = pilot.app.workbench
        assert {n for n in ("sidebar", "editor", "panel", "inspector") if screen.region_widget(n).display} == shown
        assert "LoRA Workbench" in text_of(pilot)
