"""Training on a GPU: our engine against transformers.Trainer + PEFT (+ bitsandbytes), equal rows, weights and adapters.

`ours` runs the loop as a project would. `trainer` takes the rows of our steps in our order, pads a batch to its longest
row and computes as TrainingArguments come (the base in bf16, the adapter in fp32); `trainer, tuned` orders rows by length
and turns bf16 autocast on, as its manual advises. None of them recomputes activations. Only real tokens count; the first
two steps are left out. Peak memory is what torch allocated.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shapes import examples_of, needed_flops, project_of

SKIPPED = 2
Facts = dict[str, Any]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def clear(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_facts(device: str) -> Facts:
    """GB of 10^9 bytes: torch's peak, what its allocator held, and all that the card has given away."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    peak, held = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak GB": peak / 1e9, "reserved GB": held / 1e9, "card GB": (total - free) / 1e9}


def load_ours(base: Path, quantization: str, device: str, **train: Any) -> tuple[Any, Any, float]:
    """Project, `Loaded`, seconds to load it."""
    from engine.models import loading
    from engine.store import Workspace

    clear(device)
    project = project_of(base, quantization, device, **train)
    started = time.perf_counter()
    loaded = loading.load(project, Workspace(base))
    wait(device)
    return project, loaded, time.perf_counter() - started


def training_of(loaded: Any, project: Any, rows: list[Any], emit: Any = lambda _: None) -> Any:
    """A fresh adapter on `loaded`, and the loop that trains it."""
    from engine.training import lora
    from engine.training.loop import Training

    if loaded.peft is not None:
        loaded.unload_adapter(lora.NAME)
    initial = lora.attach(loaded, project.lora, "base", None, 0)
    return Training(loaded, project, examples_of(rows), emit, Path(tempfile.mkdtemp()), "rows", initial)


def ours(loaded: Any, project: Any, rows: list[Any], shape: Facts, device: str) -> Facts:
    from engine import events

    said: list[Any] = []
    training = training_of(loaded, project, rows, said.append)
    clear(device)
    before = preflight(training, project, device)
    training.run()
    steps = [e for e in said if isinstance(e, events.Step)]
    notes = [e.text for e in said if isinstance(e, events.Note)]
    seconds, tokens = [s.seconds for s in steps], [s.tokens for s in steps]
    trained = sum(p.numel() for _, p in loaded.parameters())
    in_order = [[rows[i] for i in training.order.at(n).examples] for n in range(len(steps))]
    return _facts(seconds, tokens, [s.loss for s in steps], in_order, shape, trained, device) | {
        "notes": notes, "preflight GB": before,
    }  # fmt: skip


def preflight(training: Any, project: Any, device: str) -> Facts:
    """What is said of memory before the first step: estimated by part, and measured (torch's share) in GB."""
    from engine import estimate
    from engine.store import Workspace
    from engine.training import probe

    steps = [[len(training.examples[i]) for i in training.order.at(n).examples] for n in range(training.steps)]
    base, kind = Workspace(Path(project.model.base)), "cuda" if device == "cuda" else "cpu"
    said = estimate.of_project(project, base, kind, max(map(sum, steps)), max(map(max, steps)))
    measured = probe.measure(training)
    return {p.name: round(p.bytes / 1e9, 3) for p in said.parts} | {
        "estimated": round(said.total / 1e9, 3), "measured": (measured.bytes or 0) / 1e9, "tokens": measured.tokens,
    }  # fmt: skip


def _facts(
    seconds: list[float], tokens: list[int], losses: list[float], in_order: list[Any], shape: Facts, trained: int,
    device: str,
) -> Facts:  # fmt: skip
    flops = sum(needed_flops(shape, rows) for rows in in_order[SKIPPED:])
    late = sum(seconds[SKIPPED:])
    return {
        "tokens/s": sum(tokens[SKIPPED:]) / late,
        "TFLOP/s needed": flops / late / 1e12,
        "step s, median": statistics.median(seconds[SKIPPED:]),
        "tokens/s, second half": sum(tokens[len(tokens) // 2 :]) / sum(seconds[len(tokens) // 2 :]),
        "steps s": [round(x, 3) for x in seconds],
        "tokens": sum(tokens),
        "losses": [round(x, 5) for x in losses],
        "trained": trained,
        **memory_facts(device),
    }


def load_theirs(base: Path, quantization: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    clear(device)
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    return AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, device_map={"": 0 if device == "cuda" else "cpu"},
        quantization_config=four_bit if quantization == "nf4" else None,
    )  # fmt: skip


def theirs(causal: Any, project: Any, rows: list[Any], shape: Facts, device: str, tuned: bool, steps: int) -> Facts:
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from engine.training.order import Order

    causal.train()
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(causal, config)
    per_step = project.train.examples_per_step
    order = Order([len(ids) for ids, _ in rows], project.train)
    at = [i for n in range(steps) for i in order.at(n).examples]
    data = [{"input_ids": rows[i][0].tolist(), "asked": rows[i][1], "length": len(rows[i][0])} for i in at]
    seen: list[list[Any]] = []
    losses: list[float] = []
    ticks: list[float] = []

    def collate(batch: list[Facts]) -> dict[str, torch.Tensor]:
        longest = max(r["length"] for r in batch)
        seen.append([(r["input_ids"], r["asked"]) for r in batch])
        ids = [r["input_ids"] + [0] * (longest - r["length"]) for r in batch]
        labels = [[-100] * r["asked"] + r["input_ids"][r["asked"] :] + [-100] * (longest - r["length"]) for r in batch]
        mask = [[1] * r["length"] + [0] * (longest - r["length"]) for r in batch]
        named = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return {name: torch.tensor(values) for name, values in named.items()}

    class Ticks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not ticks:
                ticks.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(device)
            ticks.append(time.perf_counter())

    class Told(Trainer):
        def training_step(self, *given: Any, **named: Any) -> torch.Tensor:
            loss = super().training_step(*given, **named)
            losses.append(float(loss))
            return loss

        def _get_train_sampler(self, *given: Any, **named: Any) -> Any:
            return super()._get_train_sampler(*given, **named) if tuned else SequentialSampler(data)  # type: ignore[arg-type]

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=per_step, report_to=[],
        save_strategy="no", use_cpu=device == "cpu", disable_tqdm=True, learning_rate=2e-4, lr_scheduler_type="linear",
        bf16=tuned, logging_strategy="no", remove_unused_columns=False, dataloader_drop_last=False,
        **({"train_sampling_strategy": "group_by_length"} if tuned else {}),
    )  # fmt: skip
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    clear(device)
    try:
        Told(model, arguments, collate, data, callbacks=[Ticks()]).train()
        seconds = [b - a for a, b in itertools.pairwise(ticks)]
        tokens = [sum(len(ids) for ids, _ in batch) for batch in seen[:steps]]
        padded = [len(batch) * max(len(ids) for ids, _ in batch) for batch in seen[:steps]]
        facts = _facts(seconds, tokens, losses, seen[:steps], shape, trained, device)
        return facts | {"share of real tokens": sum(tokens) / sum(padded)}
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).split("\n")[0][:200]}
    finally:
        model.unload()


def profile(loaded: Any, project: Any, rows: list[Any], path: Path, device: str) -> Facts:
    """Where a micro-batch of ours goes, by kernel: a table in `path`, and how much of the wall the GPU worked."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    training = training_of(loaded, project, rows)
    chosen = [training.examples[i] for i in training.order.at(0).examples]
    clear(device)
    for _ in range(2):
        training.backward(chosen, 1000.0)
    wait(device)
    started = time.perf_counter()
    for _ in range(3):
        training.backward(chosen, 1000.0)
    enqueued = time.perf_counter() - started
    wait(device)
    facts = memory_facts(device)
    wall = (time.perf_counter() - started) / 3
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profiler(activities=kinds) as found:
        training.backward(chosen, 1000.0)
        wait(device)
    averages = found.key_averages()
    busy = sum(e.self_device_time_total for e in averages if str(e.device_type).endswith("CUDA")) / 1e6
    launches = sum(e.count for e in averages if str(e.device_type).endswith("CUDA"))
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    path.write_text(averages.table(sort_by=by, row_limit=40, max_name_column_width=90))
    return facts | {"wall s": wall, "enqueued s": enqueued / 3, "GPU busy s": busy, "kernels": launches}
