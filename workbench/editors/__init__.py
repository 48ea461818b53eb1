"""What stands in the tabs. A tab is named by a URI, so that it can be remembered, and opened from anywhere:

    project:NAME   the TOML          data:NAME    rows, ledger, lengths      run:NAME/0007   a run, live or over
    runs:NAME      runs compared     eval:NAME    the matrix, drill down     adapters:NAME   adapters, merging
    compare:NAME   base and adapters side by side         blind:NAME      a blind test of two of them
    learn:TOPIC    theory            file:PATH    a text file, read only     welcome:        where to begin

Each scheme's class is imported when its first tab is opened.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.editors.base import Editor

EDITORS = {
    "project": "workbench.editors.project_editor:ProjectEditor",
    "data": "workbench.editors.data_view:DataView",
    "run": "workbench.editors.run_view:RunView",
    "runs": "workbench.editors.runs_view:RunsView",
    "eval": "workbench.editors.eval_view:EvalView",
    "adapters": "workbench.editors.adapters_view:AdaptersView",
    "compare": "workbench.editors.compare_view:CompareView",
    "blind": "workbench.editors.blind_view:BlindView",
    "learn": "workbench.editors.learn_view:LearnView",
    "file": "workbench.editors.file_view:FileView",
    "welcome": "workbench.editors.welcome:Welcome",
}


def make(uri: str) -> Editor:
    """The editor of a URI.

    Raises:
        KeyError: there is no such scheme.
    """
    scheme, _, _ = uri.partition(":")
    module, _, name = EDITORS[scheme].partition(":")
    return getattr(import_module(module), name)(uri)
