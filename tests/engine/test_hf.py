"""transformers looks through its models once, and knows the same names as after twice."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.engine.commandline import ROOT

PREPARED = """
import sys
from pathlib import Path
from engine.models import hf
hf.prepare()
assert "torch" not in sys.modules
import transformers
from transformers.utils import import_utils
look, walk = import_utils.define_import_structure, import_utils.create_import_structure_from_path
once = walk.cache_info().misses
models = Path(transformers.__file__).parent / "models"
found = hf.within(look(models, prefix="models"), "models")
assert walk.cache_info().misses == once, "the first look is not remembered"
truth = look(str(models / "__init__.py"))
twice = walk.cache_info().misses
assert twice > 1.9 * once, (once, twice)
assert found == truth
assert sum(map(len, found.values())) > 500
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.models import llama
assert llama.LlamaConfig is transformers.LlamaConfig
"""


def test_it_looks_through_its_models_once() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
