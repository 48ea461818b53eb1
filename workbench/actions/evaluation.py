"""Measuring base and adapters."""

from workbench.actions import Action

ACTIONS = [
    Action("eval.open", "Open the evaluation", "Evaluation", menu="ee"),
    Action("eval.start", "Evaluate base and adapters", "Evaluation", menu="er"),
]
