"""The Learn section."""

from workbench.actions import Action

ACTIONS = [
    Action("learn.open", "Open Learn", "Learn", menu="l", about="What LoRA does, with the open project's numbers."),
]
