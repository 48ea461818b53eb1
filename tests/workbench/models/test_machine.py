"""What is said of a machine, as text of a given width."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import cells
from workbench.models.machine import Gpu, GpuProcess, Machine, bar, pair, spark
from workbench.widgets.machine_section import lines

GB = 10**9
GPU = Gpu(
    0, "NVIDIA H100 80GB HBM3", 71 * GB, 85 * GB, 37, 61, 412.3, 700.0,
    (GpuProcess(1, "python", 60 * GB), GpuProcess(2, "[red]x[/]\x1b[31m", None)), None, (0.1, 0.5, 0.9),
)  # fmt: skip


def test_short_is_honest_about_what_is_not_known() -> None:
    assert Machine().short == "CPU  RAM n/a"
    assert Machine(ram_used=3 * GB, ram_total=23 * GB).short == "CPU  RAM 3.0/23.0 GB"
    assert Machine((replace(GPU, used=None),)).short == "VRAM n/a/85.0 GB"
    assert pair(GB, None) == "1.0/n/a"


def test_what_looks_the_same_is_the_same() -> None:
    now = Machine((GPU,), 10 * GB, 20 * GB, 12.2, 2)
    later = Machine((replace(GPU, used=GPU.used + 10**7, history=(1.0,)),), 10 * GB + 10**7, 20 * GB, 12.4, 2)  # type: ignore[operator]
    assert now.visible() == later.visible()
    assert now.visible() != replace(later, cpu=13.0).visible()
    assert now.visible() != replace(later, chosen=1).visible()


@pytest.mark.parametrize("width", [22, 37, 88])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_section_fits_and_says_everything(width: int, ascii_only: bool) -> None:
    split = Gpu(1, "H100", slice=3)
    machine = Machine((GPU, split), 10 * GB, 20 * GB, 12.0, 2, ram_history=(0.5,))
    found = lines(machine, (("demo/0001\x1b[2J", GB),), width, ascii_only)
    text = "\n".join(t for t, _, _ in found)
    assert max(cells(t) for t, _, _ in found) <= width
    assert "\x1b" not in text
    assert "GPU 1 MIG 3" in text
    assert "60.0 GB" in text and "n/a" in text
    if width == 22:
        assert ("~" if ascii_only else "…") in text
    if ascii_only:
        assert text.isascii()
    if width > 30:
        assert "37 % busy" in text
        assert "412/700 W" in text
        assert "71.0/85.0 GB" in text
        assert "[red]x[/]" in text
        assert "demo/0001" in text


def test_a_click_finds_its_card() -> None:
    found = lines(Machine((GPU, replace(GPU, index=1))), (), 40)
    places = {text: place for text, _, place in found if text.lstrip("▸ ").startswith("GPU")}
    assert sorted(places.values()) == [0, 1]  # type: ignore[type-var]
    assert next(t for t, p in places.items() if p == 0).startswith("▸")


def test_without_a_gpu_it_says_why() -> None:
    machine = Machine((), 10 * GB, 20 * GB, 50.0, 2, "no NVIDIA driver", ram_history=(0.5, 0.6))
    text = "\n".join(t for t, _, _ in lines(machine, (), 37))
    assert "No GPU: no NVIDIA driver" in text
    assert "50 % of 2 cores" in text
    assert "▅" in text
    assert "measuring" in "\n".join(t for t, _, _ in lines(Machine(), (), 37))


@given(st.lists(st.floats(-1, 2)), st.integers(0, 50), st.booleans())
def test_bars_and_sparks_are_as_wide_as_they_should(values: list[float], width: int, ascii_only: bool) -> None:
    assert len(spark(tuple(values), width, ascii_only)) == min(len(values), width)
    for value in [*values, None]:
        drawn = bar(value, width, ascii_only)
        assert len(drawn) == width
        if value is not None and value >= 1:
            assert set(drawn) <= {"#", "█"}
