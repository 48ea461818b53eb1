"""Measuring base and adapters."""

from workbench.actions import Action

ACTIONS = [
    Action("eval.open", "Open the evaluation", "Evaluation", menu="ee"),
    Action("eval.start", "Evaluate base and adapters…", "Evaluation", menu="er", about="In a process of its own."),
    Action("eval.again", "Evaluate…", "Evaluation", keys="e", scope="eval", hint=True),
    Action("eval.stop", "Stop the evaluation", "Evaluation", keys="s", scope="eval"),
    Action("eval.back", "Back", "Evaluation", keys="escape,backspace", scope="eval"),
    Action("eval.sort", "Sort by the next column", "Evaluation", keys="o", scope="eval"),
    Action("eval.reverse", "Reverse the order", "Evaluation", keys="O", scope="eval"),
    Action("eval.worst", "Worst rows first", "Evaluation", keys="w", scope="eval"),
    Action("eval.gain", "Largest gain against base first", "Evaluation", keys="plus", scope="eval"),
    Action("eval.loss", "Largest loss against base first", "Evaluation", keys="minus", scope="eval"),
    Action("eval.filter", "All rows, wrong answers, gained, lost", "Evaluation", keys="f", scope="eval"),
    Action("eval.next", "Next row", "Evaluation", keys="n,right,l", scope="eval-row"),
    Action("eval.previous", "Previous row", "Evaluation", keys="p,left,h", scope="eval-row"),
    Action("eval.history", "One evaluation, or the newest of all", "Evaluation", keys="v", scope="eval"),
]
