"""`loraworkbench [WORKSPACE]` opens the workbench; `loraworkbench VERB ...` is the engine's command line.

Only what is needed for the one asked for is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import engine

OPTIONS = ("-h", "--help", "--workspace")


def is_verb(word: str) -> bool:
    """Whether a word is one of the engine's verbs, each a module of `engine.verbs`."""
    return word.isidentifier() and (Path(engine.__file__).parent / "verbs" / f"{word}.py").is_file()


def opens_workbench(arguments: list[str]) -> bool:
    """Nothing given, or one word that is a folder and no verb."""
    if not arguments:
        return True
    return len(arguments) == 1 and not is_verb(arguments[0]) and Path(arguments[0]).is_dir()


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (default: this process's)."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        print(f"loraworkbench {engine.__version__}")
        return
    if opens_workbench(given) and sys.stdin.isatty() and sys.stdout.isatty():
        open_workbench(Path(given[0]) if given else None)
        return
    from engine.__main__ import main as command_line

    command_line(given)


def open_workbench(given: Path | None) -> None:
    """Open the workbench on a workspace, and leave with its exit code.

    Raises:
        SystemExit: 2 where there is no workspace.
    """
    from workbench.settings import Settings, find_workspace

    root = find_workspace(given)
    if root is None:
        where = given or Path.cwd()
        print(f"loraworkbench: {where}: not a workspace (a folder with projects/)", file=sys.stderr)
        print("make one here with `loraworkbench new NAME`, or give its folder", file=sys.stderr)
        raise SystemExit(2)
    settings = Settings.load()
    settings.apply_to(os.environ)  # before Textual reads them
    from workbench.app import WorkbenchApp
    from workbench.jobs.hang_up import before_the_end
    from workbench.keys import use_prefix_parser

    use_prefix_parser()
    app = WorkbenchApp(root, settings)
    before_the_end(app.keep_unsaved)
    sys.exit(app.run() or 0)


if __name__ == "__main__":
    main()
