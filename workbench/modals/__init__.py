"""Dialogs over the workbench. Each returns what was chosen; Escape returns nothing."""
