"""The README says of the keys what the registry says, and its pictures are there."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.docs import key_table

README = Path(__file__).parents[2] / "README.md"


def test_the_table_of_keys_is_the_registrys() -> None:
    assert key_table() in README.read_text(encoding="utf-8"), "put in what `python -m workbench.docs` prints"


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert len(pictures) == 5 and all((README.parent / p).is_file() for p in pictures)
