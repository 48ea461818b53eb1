"""One thread of arithmetic a process: the processes of xdist share the cores, and sums are added in one order.

Of those there are two a core, because half of their time is spent waiting for a process or a clock. Hypothesis sets its examples
no deadline: on a crowded machine the first one, which imports, may take any time.
"""

from __future__ import annotations

import os

import psutil
from hypothesis import settings

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


settings.register_profile("crowded", deadline=None)
settings.load_profile("crowded")


def pytest_xdist_auto_num_workers() -> int:
    return 2 * (psutil.cpu_count() or 1)
