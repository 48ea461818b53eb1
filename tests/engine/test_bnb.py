"""bitsandbytes is imported without torch.compile's machinery, and what it wants compiled is compiled when it is called."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.engine.commandline import ROOT

PREPARED = """
import sys, torch
from engine.models import bnb
wanted, before = [], torch.compile
torch.compile = lambda function, **options: wanted.append((function.__name__, options)) or function
stand_in = torch.compile
bnb.prepare()
assert torch.compile is stand_in and not wanted, wanted
assert "torch._inductor.compile_fx" not in sys.modules
from bitsandbytes.backends.default import ops
codes, absmax, code = torch.tensor([0, 1, 1, 0]), torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 1.0])
for _ in range(2):
    found = ops._dequantize_blockwise_compute(codes, absmax, code, 2, torch.float32)
    assert found.tolist() == [-2.0, 2.0, 3.0, -3.0], found
assert wanted == [("_dequantize_blockwise_compute", {"dynamic": False})], wanted
"""


def test_it_is_imported_without_the_machinery_of_torch_compile() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
