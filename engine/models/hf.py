"""transformers without looking through its hundreds of models twice: for its own names, and again for those of its package
of models (a quarter of a second; it remembers fewer folders than it has).

Comes from: `jobs`, before anything else imports it. Goes to: everyone who imports transformers after that. No torch here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

Structure = dict[frozenset[str], dict[str, Any]]
"""What transformers calls an import structure: libraries that are needed, then modules and the names in them."""


def prepare() -> None:
    """Import it and its package of models."""
    if "transformers.models" in sys.modules:
        return
    import transformers
    from transformers.utils import import_utils

    look, models = import_utils.define_import_structure, Path(str(transformers.__file__)).parent / "models"

    def remembered(module_path: str, prefix: str | None = None) -> Structure:
        if prefix is not None or Path(module_path) != models / "__init__.py":
            return look(module_path, prefix)
        return within(look(models, prefix="models"), "models")  # type: ignore[arg-type]  # as transformers itself asks

    import_utils.define_import_structure = remembered
    try:
        import transformers.models
    finally:
        import_utils.define_import_structure = look


def within(structure: Structure, package: str) -> Structure:
    """The part of a structure that is of one package, by the names there. transformers puts what is not into it, too."""
    start = f"{package}."
    parts = {
        needs: {name.removeprefix(start): found for name, found in modules.items() if name.startswith(start)}
        for needs, modules in structure.items()
    }
    return {needs: modules for needs, modules in parts.items() if modules}
