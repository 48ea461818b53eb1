"""What goes wrong, said to a person: where, what, and what to do about it. Nothing here imports anything.

Every failure that a user can meet is an `EngineError`; the command line prints it without a traceback and exits with
its `exit_code`. Anything else that escapes is a bug of ours and is shown with its traceback.
"""

from __future__ import annotations


class EngineError(Exception):
    """A failure told to the user.

    Args:
        problem: what is wrong, one sentence without a full stop.
        where: the place, "file:line" or "file:line:column" or a path; None where there is no place.
        remedy: what to do, one sentence; None where nothing can be advised.
    """

    exit_code = 1

    def __init__(self, problem: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.where, self.remedy = problem, where, remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.problem}" + (f"\n  {self.remedy}" if self.remedy else "")


class InputError(EngineError):
    """The input is wrong (project file, dataset, arguments): exit code 2. Nothing has been changed."""

    exit_code = 2


class WorkFailed(EngineError):
    """The work itself failed (NaN, no memory, a full disk, a merge that does not verify): exit code 1."""


class Stopped(EngineError):
    """The user asked to stop; what was done is kept: exit code 130."""

    exit_code = 130
