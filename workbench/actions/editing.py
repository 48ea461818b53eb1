"""Text in the project editor, and finding in any view."""

from workbench.actions import Action

ACTIONS = [
    Action("edit.find", "Find…", "Edit", keys="ctrl+f", menu="/", about="In the text, log, rows or table in front."),
    Action("edit.goto-line", "Go to line…", "Edit", keys="ctrl+g", menu="fg"),
]
