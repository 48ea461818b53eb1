"""Adapters: the list, merging, export."""

from workbench.actions import Action

ACTIONS = [
    Action("adapters.open", "Open the adapters", "Adapters", menu="aa"),
    Action("adapters.merge", "Merge…", "Adapters", menu="am", about="Base and adapter as one model, verified."),
    Action("adapters.mark", "Mark for comparing, merging, evaluating", "Adapters", keys="m", scope="adapters"),
    Action("adapters.merge-these", "Merge…", "Adapters", keys="M", scope="adapters", hint=True),
    Action("adapters.evaluate", "Evaluate…", "Adapters", keys="e", scope="adapters", hint=True),
    Action("adapters.compare", "Settings that differ", "Adapters", keys="c", scope="adapters"),
    Action("adapters.merged", "Merged models", "Adapters", keys="v", scope="adapters"),
    Action("adapters.export", "Export: copy the folder…", "Adapters", keys="E", scope="adapters"),
    Action("adapters.run", "Open its run", "Adapters", keys="r", scope="adapters"),
    Action("adapters.delete", "Delete its run…", "Adapters", keys="d,delete", scope="adapters"),
    Action("adapters.sort", "Sort by the next column", "Adapters", keys="o", scope="adapters"),
    Action("adapters.reverse", "Reverse the order", "Adapters", keys="O", scope="adapters"),
    Action("adapters.stop", "Stop the merge", "Adapters", keys="s", scope="adapters"),
    Action("adapters.back", "Back", "Adapters", keys="escape,backspace", scope="adapters"),
]
