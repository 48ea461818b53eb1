"""The data view."""

from workbench.actions import Action

ACTIONS = [
    Action("data.open", "Open the project's data", "Data", menu="d", about="Rows, ledger, lengths and overlap."),
    Action("data.rows", "Rows as they lie in the file", "Data", keys="r", scope="data"),
    Action("data.seen", "Row as the model sees it", "Data", keys="s", scope="data"),
    Action("data.ledger", "Ledger", "Data", keys="e", scope="data", about="Kept, cut and refused rows, with reasons."),
    Action("data.lengths", "Lengths in tokens", "Data", keys="i", scope="data"),
    Action("data.overlap", "Rows on both sides", "Data", keys="o", scope="data"),
    Action("data.split", "Training rows or unseen rows", "Data", keys="t", scope="data"),
    Action("data.tokens", "Mark the ends of tokens", "Data", keys="b", scope="data"),
    Action("data.raw", "Row as it lies in the file, or as the model sees it", "Data", keys="v", scope="data"),
    Action("data.wide", "Columns as wide as their texts, or fitted", "Data", keys="w", scope="data"),
    Action("data.place", "Open the row's file at its line", "Data", keys="f", scope="data"),
    Action("data.next", "Next row found", "Data", keys="n", scope="data"),
    Action("data.previous", "Previous row found", "Data", keys="N", scope="data"),
    Action("data.reload", "Read the data again", "Data", keys="R", scope="data"),
]
