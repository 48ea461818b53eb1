"""Runs: starting, stopping, looking at them, comparing them."""

from workbench.actions import Action

ACTIONS = [
    Action("run.start", "Start training", "Run", keys="f5", menu="rr", about="Checks the project, then trains, detached."),
    Action("run.stop", "Stop the run", "Run", keys="shift+f5", menu="rs", about="Finishes the step and saves a checkpoint."),
    Action("run.resume", "Resume the run", "Run", menu="rc", about="Goes on from the newest checkpoint, exactly."),
    Action("run.delete", "Delete the run…", "Run", menu="rx"),
    Action("run.open", "Open the newest run", "Run", menu="ro"),
    Action("run.compare", "Compare runs", "Run", menu="rv", about="Curves overlaid, settings side by side, results."),
]  # fmt: skip
