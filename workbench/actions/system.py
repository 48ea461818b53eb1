"""Palette, help, keys, looks, quitting."""

from workbench.actions import Action

ACTIONS = [
    Action("app.quick-open", "Quick open", "Go", keys="ctrl+p,f2", menu=" ",
           about="Projects, runs and files; > commands, @ TOML keys, # runs and adapters, : line, ? help."),
    Action("app.commands", "All commands", "Go", keys="colon", menu=":"),
    Action("app.menu", "Menu of commands", "Go", keys="space", hint=True),
    Action("app.help", "Help for what is focused", "Help", keys="f1,question_mark", menu="?", hint=True),
    Action("app.keys", "Keyboard doctor", "Help", menu="hk", about="Press a key, see what arrives; clashes of the key map."),
    Action("machine.gpu", "Show the next GPU in the status bar", "View", menu="hg", about="Where there are several."),
    Action("app.theme", "Choose a theme…", "Settings", menu="ht"),
    Action("app.copy", "Copy the selection", "Edit", keys="y", menu="y"),
    Action("app.quit", "Quit", "Go", keys="ctrl+q", menu="q", about="Runs go on; the layout comes back."),
]  # fmt: skip
