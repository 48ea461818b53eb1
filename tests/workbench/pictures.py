"""The README's pictures: the running workbench on a real workspace, as SVG.

    python tests/workbench/pictures.py WORKSPACE workbench/pictures

WORKSPACE has the project `starter` with a finished run and its evaluation (`loraworkbench quickstart` makes one).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from workbench.app import WorkbenchApp  # noqa: E402


async def take(workspace: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as state:
        app = WorkbenchApp(workspace, state_folder=Path(state))
        async with app.run_test(size=(120, 36)) as pilot:

            async def picture(name: str, uri: str, *keys: str, seconds: float = 4.0) -> None:
                await app.workbench.editors.open(uri)
                await pilot.pause()
                await pilot.press(*keys)
                await asyncio.sleep(seconds)
                await pilot.pause()
                (folder / f"{name}.svg").write_text(app.export_screenshot(title="loraworkbench"), encoding="utf-8")

            await asyncio.sleep(3)
            newest = app.snapshot.projects["starter"].runs[-1].label
            app.workbench.toggle("panel")
            await picture("run", f"run:{newest}")
            await picture("project", "project:starter")
            await picture("data", "data:starter", seconds=8.0)
            await picture("evaluation", "eval:starter")
            await picture("menu", f"run:{newest}", "escape", "space", seconds=1.0)


if __name__ == "__main__":
    target = Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(take(Path(sys.argv[1]).resolve(), target))
