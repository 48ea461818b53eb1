"""The data view."""

from workbench.actions import Action

ACTIONS = [
    Action("data.open", "Open the project's data", "Data", menu="d", about="Rows, ledger, lengths and overlap."),
]
