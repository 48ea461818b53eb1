"""The work: load, train, measure, generate, merge. Runs headless; never imports textual or workbench.

Imports go downward only (tests/engine/test_imports.py holds the order). The torch-free part, which the workbench may
import, is `events`, `spec`, `store`, `adapters`.
"""

__version__ = "0.1.0"
