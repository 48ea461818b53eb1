"""The terminal: a Textual application over the files that the engine writes. It never loads a model.

    jobs (threads that read files and start processes; touch no widget) -> messages -> app -> signals -> regions
    models (plain objects folded from events and files)                               views, editors, widgets, modals
    actions (THE registry of commands) -> commands (what they do), keymap, palette, which-key, help

Of the engine it imports only the torch-free modules at the top (see engine/__init__.py), and those after the first
paint. tests/workbench/test_imports.py and the import contracts in pyproject.toml hold that.
"""
