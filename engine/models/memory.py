"""Memory: how much is used, giving it back, and whether an error means that there was too little or that all is lost."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def used_bytes(device: torch.device) -> int:
    """Peak bytes that torch has allocated on a GPU; on a CPU the resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def peak_bytes(device: torch.device) -> int:
    """Most bytes that this process has taken since `forget_peak`: on a GPU what torch's allocator held, on a CPU resident
    memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):  # not Linux
        import resource
        import sys

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak(device: torch.device) -> None:
    """Let `peak_bytes` begin anew, with what is in use; where the system does not offer that, it goes on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    trim()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out (on a GPU, or in the CPU allocator)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _TOO_LITTLE)


_TOO_LITTLE = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
_BROKEN = ("CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUBLAS_STATUS_MAPPING_ERROR")
FATAL = "the GPU failed: this process can compute nothing more"
FATAL_REMEDY = (
    "start it again (a training goes on from its checkpoint with --resume); `loraworkbench doctor` looks at the GPU"
)


def is_fatal(error: BaseException) -> bool:
    """Whether an error means that the device does nothing more for this process.

    After an illegal access, a failed assertion or a lost device every further call of CUDA fails, too (CUDA runtime API,
    "sticky" errors). A cuBLAS error about its arguments, or one of memory, is none of these.
    """
    text = str(error)
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if "CUBLAS_STATUS_" in text:
        return any(words in text for words in _BROKEN)
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in text


def attempt(work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where memory ran out (the traceback, which holds what is to be freed, is gone)."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_trim: Callable[[int], int] | None = getattr(_libc, "malloc_trim", None)
_mallopt: Callable[[int, int], int] | None = getattr(_libc, "mallopt", None)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
OWN_PAGES = 2**25
"""Bytes from which a block has pages of its own, which go back as soon as it is freed: the most that glibc comes to by itself."""


def hold() -> None:
    """Let the C library keep what is freed, for the next of as many blocks that come and go in a pass, until `release` or `trim`.

    Given back and taken again, each page is cleared anew by the system, which took 4 % (of 98 million weights) to 8 % (of
    8 million) of a training's time on a CPU. Nothing where it is not glibc, or where its variables say otherwise.
    """
    if _mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
        _mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        _mallopt(M_MMAP_THRESHOLD, OWN_PAGES)


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        trim()


def trim() -> None:
    """Let the C library give freed memory back, which between blocks of growing sizes it cannot use again. Some milliseconds;
    nothing where it is not glibc."""
    if _trim is not None:
        _trim(0)
