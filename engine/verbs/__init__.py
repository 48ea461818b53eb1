"""What the verbs of the command line do, a module each, imported when it is needed; and what they have in common.

A verb's `run` takes a workspace, plain values and a `Console`, speaks through the console, and returns the document
that --json prints. `working` around it turns errors into messages and exit codes.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from engine.console import Console
from engine.errors import EngineError, Stopped, WorkFailed

INTERRUPTED = 130


@contextlib.contextmanager
def working(*, json_document: bool = False, json_lines: bool = False) -> Iterator[Console]:
    """A console for one verb.

    Raises:
        SystemExit: after a failure, told on the console: 2 for bad input, 1 for failed work, 130 for a stop.
    """
    with _stdout(alone=json_document or json_lines) as stream, _library_warnings():
        console = Console(stream, json_document=json_document, json_lines=json_lines)
        try:
            yield console
        except EngineError as error:
            console.error(error)
            raise SystemExit(error.exit_code) from error
        except KeyboardInterrupt as error:
            if console.failed is None:
                console.error(Stopped("interrupted"))
            raise SystemExit(INTERRUPTED) from error
        except Exception as error:
            if console.failed is None or console.failed.trace is None:
                console.error(_bug(error))
            raise SystemExit(1) from error
        finally:
            console.close()


@contextlib.contextmanager
def _stdout(*, alone: bool) -> Iterator[TextIO | None]:
    """stdout; `alone`: for us alone, in UTF-8, and what libraries print meanwhile goes to stderr."""
    stream = sys.stdout
    if not alone or stream is None:
        yield stream
        return
    with contextlib.redirect_stdout(sys.stderr):
        try:
            number, other = stream.fileno(), sys.stderr.fileno()
            kept, ours = os.dup(number), os.dup(number)
        except (AttributeError, io.UnsupportedOperation, OSError, ValueError):  # not files: a test's, or closed
            yield stream
            return
        stream.flush()
        os.dup2(other, number)
        try:
            with os.fdopen(ours, "w", encoding="utf-8", newline="") as alone_stream:
                yield alone_stream
        finally:
            os.dup2(kept, number)
            os.close(kept)


@contextlib.contextmanager
def _library_warnings() -> Iterator[None]:
    """What libraries warn of is meant for programmers: it goes where their output does while a run works, to the run's
    log, and never to the screen. Python's -W and PYTHONWARNINGS show it."""
    screen = sys.stderr

    def log(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        if sys.stderr is not None and sys.stderr is not screen:
            sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.showwarning = log  # type: ignore[assignment]
        yield


def _bug(error: Exception) -> WorkFailed:
    """An exception that nobody foresaw: its traceback goes to a file."""
    import platformdirs

    trace = "".join(traceback.format_exception(error))
    folder = Path(platformdirs.user_state_path("loraworkbench"))
    path = folder / time.strftime(f"trace-%Y%m%d-%H%M%S-{os.getpid()}.txt")
    problem = f"unexpected {type(error).__name__}: {error}".split("\n")[0]
    remedy = "this is a mistake in the workbench: please report it with the file named here"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{' '.join(sys.argv)}\n\n{trace}", encoding="utf-8", errors="backslashreplace")
    except OSError:  # nowhere to write: better on the screen than nowhere
        return WorkFailed(f"{problem}\n{trace}", remedy=remedy)
    return WorkFailed(problem, where=str(path), remedy=remedy)
