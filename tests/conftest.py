"""One thread of arithmetic a process: the processes of xdist share the cores, and sums are added in one order."""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
