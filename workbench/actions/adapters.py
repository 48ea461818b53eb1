"""Adapters: the list, merging, export."""

from workbench.actions import Action

ACTIONS = [
    Action("adapters.open", "Open the adapters", "Adapters", menu="aa"),
    Action("adapters.merge", "Merge…", "Adapters", menu="am", about="Base and adapter as one model, verified."),
]
