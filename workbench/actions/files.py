"""Projects and files."""

from workbench.actions import Action

ACTIONS = [
    Action("project.new", "New project…", "Project", menu="pn", about="A form that writes a commented project.toml."),
    Action("project.open", "Open project file", "Project", menu="pe", about="The project's TOML in an editor."),
    Action("project.duplicate", "Duplicate project…", "Project", menu="pd"),
    Action("project.rename", "Rename project…", "Project", menu="pr"),
    Action("project.delete", "Delete…", "Project", keys="delete,d", menu="px", scope="explorer",
           about="Moves what is selected to the workspace's .trash folder, after asking."),
    Action("file.save", "Save", "File", keys="ctrl+s", menu="w"),
    Action("file.revert", "Reload from disk", "File", menu="fr"),
    Action("file.external", "Edit in $EDITOR", "File", menu="fe"),
    Action("explorer.refresh", "Refresh", "Explorer", menu="ff"),
]  # fmt: skip
