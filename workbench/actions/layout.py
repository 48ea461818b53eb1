"""Regions, tabs and focus."""

from workbench.actions import Action

ACTIONS = [
    Action("view.sidebar", "Toggle side bar", "View", keys="ctrl+b,f9", menu="b"),
    Action("view.panel", "Toggle panel", "View", keys="f8", menu="j"),
    Action("view.inspector", "Toggle inspector", "View", keys="f7", menu="i"),
    Action("view.zoom", "Zoom the focused region", "View", keys="f4", menu="z"),
    Action("view.wider", "Make the focused region larger", "View", keys="greater_than_sign", menu=">"),
    Action("view.narrower", "Make the focused region smaller", "View", keys="less_than_sign", menu="<"),
    Action("view.explorer", "Show the explorer", "View", menu="ve"),
    Action("view.runs", "Show the runs", "View", menu="vr"),
    Action("view.learn", "Show Learn", "View", menu="vl"),
    Action("view.problems", "Show problems", "View", menu="vp"),
    Action("view.output", "Show output", "View", menu="vo"),
    Action("focus.next", "Focus the next region", "View", keys="f6", menu="6",
           about="Side bar, editor, panel, inspector in turn."),
    Action("focus.sidebar", "Focus the side bar", "View", keys="1", menu="1"),
    Action("focus.editor", "Focus the editor", "View", keys="2", menu="2"),
    Action("focus.panel", "Focus the panel", "View", keys="3", menu="3"),
    Action("focus.inspector", "Focus the inspector", "View", keys="4", menu="4"),
    Action("focus.leave", "Leave the text field", "View", keys="escape", about="Then single letters are commands."),
    Action("tab.next", "Next tab", "Tab", keys="ctrl+pagedown,right_square_bracket", menu="]"),
    Action("tab.previous", "Previous tab", "Tab", keys="ctrl+pageup,left_square_bracket", menu="["),
    Action("tab.close", "Close tab", "Tab", keys="x", menu="x"),
    Action("tab.split", "Split the editor, or move the tab across", "Tab", keys="ctrl+backslash", menu="s"),
    Action("view.redraw", "Draw the screen anew", "View", keys="ctrl+l", menu="vd",
           about="Where another program has written over it."),
    Action("view.jump", "Jump to a label…", "View", keys="ctrl+o", menu="g", about="Letters appear; press one."),
]  # fmt: skip
