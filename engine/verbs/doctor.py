"""`loraworkbench doctor`: what this machine can do, tried rather than guessed, and what to do about what it cannot.

Every finding is ok, a warning or a problem; only a problem makes the verb fail. That there is no GPU or no network is a
fact: the workbench works without either.
"""

from __future__ import annotations

import contextlib
import locale
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from engine import network
from engine.console import Console, size
from engine.errors import InputError
from engine.store import Workspace

Level = Literal["ok", "warning", "problem"]
HUB_SECONDS = 2.0
SCARCE_DISK = 5e9
SCARCE_MEMORY = 2e9
NF4_ROUNDING, NF4_ERROR = 0.15, 0.02
"""What a working 4-bit kernel stays below, see `_nf4_errors`; a broken one is wrong by whole weights."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `remedy` is what to do, None where there is nothing to be done."""

    level: Level
    subject: str
    text: str
    remedy: str | None = None


def run(root: Path | None, console: Console) -> dict[str, Any]:
    """Look at everything and print it.

    Args:
        root: the workspace whose disk is looked at; None: the one around the current folder, or that folder.

    Returns:
        {ok, checks: [{level, subject, text, remedy}]}; `ok` is false where there is a problem.

    Raises:
        InputError: `root` is given and is no folder.
    """
    folder = _folder(root)
    found: list[Finding] = []
    for finding in _findings(folder):
        found.append(finding)
        mark = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}[finding.level]
        console.say(f"{mark}  {finding.subject}: {finding.text}")
        if finding.remedy:
            console.say(f"         {finding.remedy}")
    problems = sum(f.level == "problem" for f in found)
    console.say("\nno problems" if not problems else f"\n{problems} problem{'s' * (problems > 1)}")
    return {"ok": not problems, "checks": [asdict(f) for f in found]}


def _findings(folder: Path) -> Iterator[Finding]:
    yield Finding("ok", "system", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield from versions()
    yield from processor()
    yield from memory_and_disk(folder)
    yield from devices()
    yield four_bit()
    yield hub()
    yield from terminal()


def _folder(root: Path | None) -> Path:
    try:
        return Workspace.find(root).root
    except InputError:
        if root is not None:
            raise
        return Path.cwd()


# --- versions


def versions() -> Iterator[Finding]:
    """Python, and every dependency against the range it was tested in."""
    from packaging.requirements import Requirement

    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")
    for text in _requirements():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{wanted.name}{wanted.specifier}'"
        try:
            have = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Finding("problem", wanted.name, "is not installed", remedy)
            continue
        if wanted.specifier.contains(have, prereleases=True):
            yield Finding("ok", wanted.name, have)
        else:
            yield Finding("warning", wanted.name, f"{have}, tested with {wanted.specifier}", remedy)


def _requirements() -> list[str]:
    """The dependencies as the installed package states them, or its source where it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.requires("loraworkbench") or []
    import tomli

    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return tomli.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"] if file.is_file() else []


# --- machine


def processor() -> Iterator[Finding]:
    """Cores that may be used, and the instructions that decide which arithmetic is fast."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flags = _flags()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "i8mm")
    have = [flag for flag in wanted if flag in flags]
    name = next(iter(re.findall(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.M)), platform.processor() or "CPU")
    yield Finding("ok", "cpu", f"{name}, {usable} of {os.cpu_count()} cores, {' '.join(have) or 'no known extensions'}")


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _flags() -> set[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.M)
    return set(found[1].split()) if found else set()


def memory_and_disk(folder: Path) -> Iterator[Finding]:
    """RAM, also as a container limits it, and the disk of the workspace."""
    import psutil

    memory = psutil.virtual_memory()
    text = f"{size(memory.available)} of {size(memory.total)} free"
    limit = _container_limit()
    if limit is not None and limit < memory.total:
        text += f"; this container may use {size(limit)}"
    scarce = min(memory.available, limit or memory.available) < SCARCE_MEMORY
    remedy = "end other programs, or take a small base" if scarce else None
    yield Finding("warning" if scarce else "ok", "memory", text, remedy)
    disk = shutil.disk_usage(folder)
    scarce = disk.free < SCARCE_DISK
    remedy = "checkpoints and merged models need room: free some" if scarce else None
    yield Finding(
        "warning" if scarce else "ok", "disk", f"{size(disk.free)} of {size(disk.total)} free at {folder}", remedy
    )


def _container_limit() -> int | None:
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(place).read_text())
    return None


# --- devices


def devices() -> Iterator[Finding]:
    """The GPUs as the driver sees them, and whether this build of torch can use them."""
    gpus, problem = _gpus()
    import torch

    build = f"{torch.__version__}, " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only")
    yield from gpus
    if not gpus:
        yield Finding("ok", "gpu", f"none ({problem}); everything works on the CPU, larger bases slowly")
    if torch.cuda.is_available():
        yield Finding("ok", "torch build", build)
        yield from _architectures(torch)
    elif gpus and os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        text = f"{build}; CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} leaves it no GPU"
        yield Finding("warning", "torch build", text, "unset CUDA_VISIBLE_DEVICES to use the GPU")
    elif gpus:
        remedy = "install a build of torch for CUDA: https://pytorch.org/get-started/locally"
        if torch.version.cuda:
            remedy = f"update the driver, or install a build of torch for an older CUDA than {torch.version.cuda}"
        yield Finding("problem", "torch build", f"{build}: it cannot use the GPU", remedy)
    else:
        yield Finding("ok", "torch build", f"{build}, {torch.get_num_threads()} threads")


def _gpus() -> tuple[list[Finding], str]:
    """A finding for each GPU, or why there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], str(error)
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory: Any = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            text = f"{pynvml.nvmlDeviceGetName(handle)}, {size(memory.free)} of {size(memory.total)} free"
            text += f", compute capability {major}.{minor}, driver {driver}"
            remedy = "another process may hold it: see nvidia-smi" if memory.free < SCARCE_MEMORY else None
            found.append(Finding("warning" if remedy else "ok", f"gpu {index}", text, remedy))
        return found, "the driver lists no device"
    except pynvml.NVMLError as error:
        return [Finding("warning", "gpu", f"the driver answers: {error}", "see nvidia-smi")], ""
    finally:
        pynvml.nvmlShutdown()


def _architectures(torch: Any) -> Iterator[Finding]:
    """GPUs that this build of torch has no code for."""
    built = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        same_major = any(re.match(rf"(sm|compute)_{major}\d", name) for name in built)
        if not same_major:
            text = f"this build of torch has no code for compute capability {major}.{minor} ({' '.join(built)})"
            yield Finding("problem", f"gpu {index}", text, "install a build of torch that has")


def four_bit() -> Finding:
    """Quantize a layer to NF4 on the device that would be used, and compare what it computes with what it should."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    remedy = 'set model.quantization = "none", or reinstall bitsandbytes for this device'
    try:
        rounding, worst = _nf4_errors(device)
    except Exception as error:  # whatever a broken build of a native library raises is the finding
        return Finding("problem", "4 bits", f"bitsandbytes on {device} fails: {type(error).__name__}: {error}", remedy)
    text = f"NF4 on {device} rounds weights by {rounding:.0%}, computes within {worst:.0e} of them forward and backward"
    if rounding <= NF4_ROUNDING and worst <= NF4_ERROR:
        return Finding("ok", "4 bits", text)
    return Finding("problem", "4 bits", text + ": this is wrong", remedy)


def _nf4_errors(device: Any) -> tuple[float, float]:
    """Mean rounding of an NF4 layer's weights, and how far its output or input gradient is from those weights' own.

    Both are relative: to the mean weight, and to the largest value.
    """
    import torch

    from engine.models.loading import keep_quantized_weights_still, quiet

    quiet()  # before the import, which complains about optional kernels
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    generator = torch.Generator().manual_seed(0)
    original = torch.randn(192, 128, generator=generator)
    layer = Linear4bit(128, 192, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight.data = original.clone()
    layer = layer.to(device)
    keep_quantized_weights_still(layer)
    packed: Any = layer.weight
    weights = dequantize_4bit(packed.data, packed.quant_state).float()
    x: Any = torch.randn(8, 128, generator=generator).to(device).requires_grad_()
    upward = torch.randn(8, 192, generator=generator).to(device)
    out = layer(x)
    out.backward(upward)
    with torch.no_grad():
        rounding = float((weights.cpu() - original).abs().mean() / original.abs().mean())
        pairs = ((out, x @ weights.T), (x.grad, upward @ weights))
        return rounding, max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


# --- around it


def hub() -> Finding:
    """Whether the Hugging Face Hub answers within `HUB_SECONDS`; that it does not is no failure."""
    local = "local models, local files and what is in the cache work without it"
    if network.is_offline():
        return Finding("ok", "hub", f"not asked, {network.VARIABLE} is set; {local}")
    problem = network.ask(HUB_SECONDS)
    said = f"not reached ({problem}); {local}" if problem else "answers"
    return Finding("ok", "hub", f"{network.endpoint()}: {said}")


def terminal() -> Iterator[Finding]:
    """What the screen can show."""
    columns, lines = shutil.get_terminal_size()
    encoding = locale.getpreferredencoding(False)
    inside = "tmux" if os.environ.get("TMUX") else "screen" if os.environ.get("STY") else None
    name = os.environ.get("TERM", "not set")
    text = f"TERM {name}, {columns} x {lines}, {encoding}" + (f", inside {inside}" if inside else "")
    if encoding.upper().replace("-", "") not in ("UTF8", "646"):
        yield Finding("warning", "terminal", text, "set a UTF-8 locale, for example LANG=C.UTF-8")
    elif name in ("not set", "dumb") and sys.stdout is not None and sys.stdout.isatty():
        yield Finding("warning", "terminal", text, "set TERM, for example xterm-256color")
    else:
        yield Finding("ok", "terminal", text)
