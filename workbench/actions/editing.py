"""Text in the project editor, and finding in any view."""

from workbench.actions import Action

ACTIONS = [
    Action("edit.find", "Find…", "Edit", keys="ctrl+f", menu="/", about="In the text, log, rows or table in front."),
    Action("edit.find-next", "Find next", "Edit", keys="f3", menu="n"),
    Action("edit.find-previous", "Find previous", "Edit", keys="shift+f3", menu="N"),
    Action("edit.goto-line", "Go to line…", "Edit", keys="ctrl+g", menu="fg"),
    Action("edit.replace", "Find and replace…", "Edit", keys="ctrl+r", menu="tr", scope="project"),
    Action("edit.undo", "Undo", "Edit", keys="ctrl+z", menu="tu", scope="project"),
    Action("edit.redo", "Redo", "Edit", keys="ctrl+y", menu="ty", scope="project"),
    Action("edit.comment", "Comment or uncomment lines", "Edit", keys="ctrl+underscore,ctrl+slash", menu="tc",
           scope="project"),
    Action("edit.complete", "Complete", "Edit", keys="ctrl+n,ctrl+@", menu="tt", scope="project",
           about="Keys, tables and values that fit here; also comes by itself while typing."),
    Action("edit.next-problem", "Next problem", "Edit", keys="shift+f8", menu="tn", scope="project"),
    Action("edit.previous-problem", "Previous problem", "Edit", keys="ctrl+f8", menu="tp", scope="project"),
    Action("edit.compare", "Compare with the file on disk", "Edit", menu="td", scope="project"),
    Action("edit.wrap", "Wrap long lines, or not", "Edit", menu="tw", scope="project"),
]  # fmt: skip
