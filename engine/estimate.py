"""How much memory a training run will take at its peak, before anything is loaded: a sum that can be read.

Comes from: a project's tables and the base's shapes (`architecture`). Goes to: `loraworkbench check` and the question
before a run is started. Every part says how it was worked out. What it rests on: transformers' decoders with PEFT's
fp32 LoRA on this engine's own loop (flash-like attention, logits in chunks, bitsandbytes' layouts).

How far off it is on a CPU: with the rows' lengths known, 8 % under to 9 % over the real peak of the process, in eight
settings of the starter and of a random Llama of 110 million weights (tests/benchmarks/preflight.py). Without them the
largest steps that the settings allow are assumed, and it is an upper bound. On a GPU (NVIDIA H100 80 GB; shapes of
Llama-3.2-1B in bf16 and Qwen3-8B in NF4, five settings): 1 % under to 4 % over what the card gave away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine import architecture
from engine.architecture import Architecture, Matrix, adapter_parameters, rank_of
from engine.store import Workspace
from engine.tables import Project, TrainTable

Device = Literal["cpu", "cuda"]

BLOCK = 64
"""Weights that share one scale in 4 bits, and 256 scales that share one with double quantization (arXiv:2305.14314)."""
LIBRARIES = {"cpu": 440_000_000, "cuda": 880_000_000}
"""Bytes that do not depend on the model. CPU: the process with torch, transformers, PEFT and bitsandbytes (measured).
CUDA: the context and kernels on the card (measured: 0.82 to 0.88 GB on an H100 with torch 2.11 for CUDA 13)."""
KEPT_BY_MALLOC = 0.65
"""Share of what a pass allocates and frees again that glibc's heap does not use a second time (measured: aligned blocks
of many sizes; with MALLOC_MMAP_THRESHOLD_=1000000 it is about 0). Blocks of 32 MiB and more always go back."""
LOGITS_AT_ONCE = 2**24
"""Elements of a chunk of logits: `engine.models.loss.CHUNK_ELEMENTS`."""
WHOLE_ATTENTION = 256
"""Tokens of an example whose attention is kept on a CPU: `engine.models.causal.WHOLE`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A share of the peak; `how` says in words where the number comes from."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's peak memory, by part.

    Attributes:
        device: where these bytes are: the card's memory, or the process's RAM.
        tokens: how many go through the model at once. parameters: trained ones.
        unknown: what is not known and was assumed, as sentences.
    """

    device: Device
    parts: tuple[Part, ...]
    tokens: int
    parameters: int
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(p.bytes for p in self.parts)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        parts = [{"name": p.name, "bytes": p.bytes, "how": p.how} for p in self.parts]
        return {"bytes": self.total, "parts": parts, "tokens": self.tokens, "unknown": list(self.unknown)}

    def of(self, name: str) -> int:
        """Bytes of a part by its name, 0 where there is none."""
        return sum(p.bytes for p in self.parts if p.name == name)


@dataclass(frozen=True, slots=True)
class Room:
    """Where a run would work: "CPU" or "GPU 0", and all the memory there, in bytes (None: not known)."""

    device: Device
    name: str
    total: int | None


def room(device: str = "auto") -> Room:
    """The room of `launch.device` on this machine, without torch: NVML for a GPU, else the RAM."""
    if device != "cpu":
        try:
            import pynvml

            pynvml.nvmlInit()
            index = int(device.partition(":")[2] or 0)
            total = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(index)).total
            return Room("cuda", f"GPU {index}", int(total))
        except Exception:  # no driver, no GPU, no permission, a library that cannot be loaded: then it is the CPU
            pass
    import psutil

    return Room("cpu", "CPU", psutil.virtual_memory().total)


def of_project(
    project: Project, workspace: Workspace, device: Device, step_tokens: int | None = None, longest: int | None = None
) -> Estimate:
    """The estimate for a project.

    Args:
        step_tokens: tokens of the largest step, and longest: of the longest example, where the rows were tokenised.

    Raises:
        InputError: the base is not on this machine, or its shapes cannot be read.
    """
    base = architecture.read(architecture.find(project.model, workspace))
    return of_base(base, project, device, step_tokens, longest)


def of_base(
    base: Architecture, project: Project, device: Device, step_tokens: int | None = None, longest: int | None = None
) -> Estimate:
    """The estimate for a base whose shapes are known."""
    train, lora = project.train, project.lora
    width, unknown = element_bytes(project.model.dtype, device), []
    trained = adapter_parameters(base, lora)
    tokens, assumed = tokens_at_once(train, step_tokens, longest)
    if assumed:
        unknown.append(f"The rows' lengths are not known here; steps of {tokens:,} tokens are assumed.")
    if base.from_config:
        unknown.append("The shapes were worked out from the config; the weights are not on this machine.")
    if any(m.role == "expert" for m in base.matrices):
        unknown.append("Experts are counted as held whole and not adapted; their activations are not counted.")
    copies = 2 if lora.init in ("pissa", "olora") else 1
    held = activations(base, project, tokens, width, device, _row_length(train, step_tokens))
    by = "recomputed" if train.activation_checkpointing else ""
    parts = [
        Part("base", base_bytes(base, project, width), _base_words(base, project, width)),
        *gathered(base, project, width),
        Part("adapter", 4 * trained * copies, f"{trained:,} parameters in fp32"),
        Part("gradients", 4 * trained, "as many fp32 numbers again"),
        Part("optimizer", *optimizer_bytes(base, project, trained)),
        Part("activations", held, f"{tokens:,} tokens through {base.layers} layers{by and ', ' + by}"),
        Part("working space", *working_bytes(base, project, tokens, width, longest)),
        *heap(base, project, tokens, width, device),
        Part(
            "libraries", LIBRARIES[device], "the CUDA context" if device == "cuda" else "the process before any model"
        ),
    ]
    return Estimate(device, tuple(parts), tokens, trained, tuple(unknown))


# --- what is held all the time


def element_bytes(dtype: str, device: Device) -> int:
    """Bytes of an unquantized weight and of the arithmetic; "auto" as `engine.models.loading.choose_dtype`."""
    if dtype == "auto":
        return 2 if device == "cuda" or _cpu_has_bfloat16() else 4
    return 4 if dtype == "float32" else 2


def _cpu_has_bfloat16(file: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        return "avx512_bf16" in file.read_text()
    except OSError:
        return False


def matrix_bytes(matrix: Matrix, quantization: str, double: bool, width: int) -> int:
    """Bytes of a frozen weight as bitsandbytes holds it.

    4 bits: half a byte each, and a scale for every 64: fp32, or with double quantization one byte and an fp32 number
    for every 256 scales. 8 bits: a byte each, and an fp32 scale for every row (LLM.int8(), arXiv:2208.07339).
    """
    n = matrix.elements
    if quantization == "none" or not matrix.linear:
        return n * width
    if quantization == "int8":
        return n + 4 * matrix.outputs
    scales = math.ceil(n / BLOCK)
    return math.ceil(n / 2) + (scales + 4 * math.ceil(scales / 256) if double else 4 * scales)


def base_bytes(base: Architecture, project: Project, width: int) -> int:
    """Bytes of the frozen base; where it is sharded, of what a process holds of it all the time."""
    model, shares = project.model, _shares(project)
    each = (matrix_bytes(m, model.quantization, model.double_quantization, width) for m in base.matrices)
    divided = sum(_layer_weights(base, project, width))
    return sum(each) + base.others * width - (divided - math.ceil(divided / shares))


def _shares(project: Project) -> int:
    """Among how many processes each layer's weights are divided."""
    launch = project.launch
    return launch.processes * launch.machines if launch.strategy == "fsdp" else 1


def _layer_weights(base: Architecture, project: Project, width: int) -> list[int]:
    """Bytes of each layer's matrices that can be divided: without the scales of 4-bit weights, which every process has."""
    layers: dict[int, int] = {}
    for m in base.matrices:
        if m.layer is not None:
            packed = project.model.quantization in ("nf4", "fp4") and m.linear
            layers[m.layer] = layers.get(m.layer, 0) + (math.ceil(m.elements / 2) if packed else m.elements * width)
    return list(layers.values())


def gathered(base: Architecture, project: Project, width: int) -> list[Part]:
    """Where the base is sharded: the layers that are whole at once, one that computes and the next, and a copy of one
    on its way (FSDP2 gathers into a buffer, and copies the parameters out of it)."""
    shares = _shares(project)
    if shares == 1:
        return []
    return [
        Part("gathered layers", 3 * max(_layer_weights(base, project, width), default=0), "two layers, and a buffer")
    ]


def _base_words(base: Architecture, project: Project, width: int) -> str:
    shares = _shares(project)
    by = "" if shares == 1 else f"; layers divided by {shares}, embeddings, head and scales whole"
    if project.model.quantization == "none":
        return f"{base.parameters:,} weights of {width} bytes{by}"
    share = sum(m.elements for m in base.linear)
    return f"{share:,} of {base.parameters:,} weights in {project.model.quantization}, the rest of {width} bytes{by}"


def optimizer_bytes(base: Architecture, project: Project, trained: int) -> tuple[int, str]:
    """Bytes of AdamW's two moments and words about them (Loshchilov & Hutter, arXiv:1711.05101; arXiv:2110.02861)."""
    kind, lora = project.train.optimizer, project.lora
    if "8bit" not in kind:
        return 8 * trained, "two fp32 moments a parameter"
    sizes = [rank_of(m, lora) * side for m in base.targets(lora) for side in (m.inputs, m.outputs)]
    small = sum(n for n in sizes if n < 4096)  # bitsandbytes keeps these in fp32
    return 8 * small + 2 * (trained - small), "two 8-bit moments a parameter, fp32 for matrices under 4,096"


# --- what comes and goes


def tokens_at_once(train: TrainTable, step_tokens: int | None, longest: int | None) -> tuple[int, bool]:
    """Tokens of the largest micro-batch, and whether the rows' lengths had to be assumed."""
    if step_tokens is not None:
        return max(longest or 1, min(train.micro_batch_tokens, step_tokens)), False
    step = train.tokens_per_step or train.examples_per_step * train.max_length
    return max(1, min(train.micro_batch_tokens, step)), True


def _row_length(train: TrainTable, step_tokens: int | None) -> int:
    """Tokens of an example: the mean of the largest step, or as many as there may be."""
    if step_tokens is None or train.tokens_per_step:
        return train.max_length
    return min(train.max_length, max(1, step_tokens // train.examples_per_step))


def activations(base: Architecture, project: Project, tokens: int, width: int, device: Device, length: int) -> int:
    """Bytes that the backward pass needs of the forward pass; `length`: tokens of an example.

    With activation checkpointing: the input of every layer, and the inside of one (Chen et al. 2016, arXiv:1604.06174).
    """
    inside = [_layer_bytes(base, project, number, width, device, length) for number in range(base.layers)]
    if project.train.activation_checkpointing:
        return tokens * (base.layers * base.width * width + max(inside, default=0))
    return tokens * sum(inside)


def _is_lean(project: Project) -> bool:
    """Whether `models.products` computes the adapter's layers: without what it leaves to PEFT."""
    return not project.lora.dropout and not project.lora.dora and project.model.quantization != "int8"


def _layer_bytes(base: Architecture, project: Project, number: int, width: int, device: Device, length: int) -> int:
    """Bytes that one layer keeps of each token.

    A frozen linear layer keeps nothing (its weight gets no gradient). LoRA keeps its input in fp32, which is a copy
    where the base computes in 16 bits or dropout is on, else one tensor for all that share it, and A x. Attention
    keeps q, k, v and its output; a gated MLP gate, up and activated gate; a norm its input in fp32.
    """
    layer, lora = base.layer(number), project.lora
    if _is_lean(project):
        return _lean_layer_bytes(base, project, layer, width, device, length)
    targets = {m.name for m in base.targets(lora)}
    total, shared = 0, {}
    for m in layer:
        if m.name in targets:
            total += 4 * rank_of(m, lora)
            if lora.dropout:
                total += 4 * m.inputs + m.inputs * (1 if device == "cuda" else 4)
            elif width == 4:
                shared[m.role] = max(shared.get(m.role, 0), 4 * m.inputs)
            else:
                total += 4 * m.inputs
            if lora.dora:
                total += 3 * width * m.outputs
    total += sum(shared.values())
    heads = sum(m.inputs for m in layer if m.role == "attention out")
    # Twice: the whole of it, which examples of a length of their own are views of, and the groups of equal length.
    total += width * (2 * sum(m.outputs for m in layer if m.role == "attention in") + heads)
    inner = sum(m.inputs for m in layer if m.role == "mlp out")
    total += width * inner * (3 if _is_gated(layer, inner) else _gelu(base))
    return total + 4 * _normalised(base)


def _lean_layer_bytes(
    base: Architecture, project: Project, layer: Sequence[Matrix], width: int, device: Device, length: int
) -> int:
    """The same where `models.products`, `kernels`, `fusing` and `causal` keep no copies.

    Layers that share an input keep it once; the attention's output is the next layer's input, and so is the gated MLP's.
    On a CPU attention in 16 bits keeps its weights of examples that go through it whole, and in fp32 the groups of equal
    length beside what they were taken from; key-value heads are repeated, and an activated gate is kept; a norm in fp32
    keeps what it has normalised, too.
    """
    targets = {m.name for m in base.targets(project.lora)}
    shared = {m.role: m.inputs for m in layer if m.name in targets}
    thin = sum(rank_of(m, project.lora) for m in layer if m.name in targets)
    heads = sum(m.inputs for m in layer if m.role == "attention out")
    qkv = sum(m.outputs for m in layer if m.role == "attention in")
    inner = sum(m.inputs for m in layer if m.role == "mlp out")
    inputs = sum(n for role, n in shared.items() if role != "attention out")
    gate, weights, norms = 2, 0, _normalised(base)
    if device == "cpu":
        gate, qkv = 3, max(qkv, 3 * heads)
        if width == 4:
            qkv, norms = 2 * qkv, 2 * norms
        elif length <= WHOLE_ATTENTION:
            weights = (base.config.get("num_attention_heads") or 1) * length
    activated = inner * (gate if _is_gated(layer, inner) else _gelu(base))
    return width * (inputs + thin + heads + qkv + weights + activated + norms)


def _is_gated(layer: Sequence[Matrix], inner: int) -> bool:
    return sum(m.outputs for m in layer if m.role == "mlp in") >= 2 * inner > 0


def _gelu(base: Architecture) -> int:
    """Intermediate tensors of the activation of a plain MLP; "gelu_new" is spelled out by transformers."""
    return 7 if base.config.get("activation_function", base.config.get("hidden_act")) == "gelu_new" else 1


def _normalised(base: Architecture) -> int:
    """Elements of a token that a layer's norms keep; those of heads (Qwen 3) run over all heads."""
    heads = base.config.get("num_attention_heads") or 1
    return sum(n if n >= base.width else n * heads for n in base.norms)


def working_bytes(
    base: Architecture, project: Project, tokens: int, width: int, longest: int | None
) -> tuple[int, str]:
    """The most that is needed for a moment: logits, a layer's gradients and dequantized weights, or measuring."""
    chunk = min(tokens * base.vocabulary, LOGITS_AT_ONCE)
    logits = chunk * (3 * 4 + (width if width != 4 else 0))
    largest = max((m.elements for m in base.linear), default=0)
    inner = max((max(m.inputs, m.outputs) for m in base.linear), default=0)
    weights = 2 * largest * width if project.model.quantization != "none" else 0
    backward = weights + 4 * tokens * inner * max(width, 4 if width == 4 else 2)
    return max((logits, f"{chunk:,} logits in fp32"), (backward, "gradients inside one layer"))


def heap(base: Architecture, project: Project, tokens: int, width: int, device: Device) -> list[Part]:
    """What the C library's heap holds beyond what is in use: every linear layer's output, and where PEFT computes an
    adapter's twice as much again (the update, scaled, and the sum; measured), of all layers."""
    if device != "cpu":
        return []
    targets = set() if _is_lean(project) else {m.name for m in base.targets(project.lora)}
    small = [m for m in base.linear if tokens * m.outputs * width < 2**25]
    passing = sum(m.outputs * (3 if m.name in targets else 1) for m in small) * width * tokens
    return [Part("heap", int(KEPT_BY_MALLOC * passing), "freed blocks that the C library does not use again")]
