"""Train with the base divided over several ranks, each a fork of this process, and say what each of them saw.

    python -m tests.engine.training_sharded BASE FOLDER [SCENARIO...]

Prints a JSON object: scenario -> what it found (see the functions, each a scenario). Run by test_sharded.
"""

from __future__ import annotations

import gc
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import events
from engine.evaluation import matrix
from engine.generation import answering
from engine.models import loading
from engine.models.loaded import Loaded
from engine.store import Workspace
from engine.tables import Project
from engine.training import lora, probe, sharding
from engine.training.loop import Training
from engine.training.ranks import ALONE, Ranks
from tests.engine import training_together as together
from tests.engine.training import examples_of, project_of
from tests.engine.training_together import STEPS, Found, against, forked

CPU = torch.device("cpu")


def loaded_for(
    project: Project, ranks: Ranks, model: dict[str, Any], strategy: str = "fsdp"
) -> tuple[Loaded, lora.Tensors]:
    """The base as `jobs.work` has it, its adapter on it, divided where there are several ranks."""
    table = {"base": str(BASE), "quantization": "none", "dtype": "float32", **model}
    project = project.model_copy(update={"model": project.model.model_copy(update=table)})
    divided = sharding.divides(strategy, ranks)
    loaded = (partial(loading.read, onto=CPU) if divided else loading.load)(project, Workspace(BASE))
    initial = lora.attach(loaded, project.lora, str(BASE), None, project.train.seed)
    if divided:
        sharding.shard(loaded, project.model, ranks, CPU)
    return loaded, initial


def trained(
    project: Project,
    folder: Path,
    model: dict[str, Any],
    prepare: Callable[[Training], None],
    ranks: Ranks = ALONE,
    strategy: str = "fsdp",
) -> Found:
    """Train to the end from what is in `folder`, measuring and answering on the way."""
    said: list[Any] = []
    rows: list[str] = []
    loaded, initial = loaded_for(project, ranks, model, strategy)
    unseen, answers, measured = examples_of(7, seed=5), [], []

    def measure() -> float:
        scores = matrix.score(loaded, unseen, scope="completion", window=0, batch_tokens=120)
        measured.append(sum(s.nll for s in scores))
        return measured[-1]

    def sample(step: int) -> None:
        settings = answering.Settings(max_new_tokens=6, temperature=1.0)
        answers.extend(list(a.ids) for a in answering.complete(loaded, [[5, 6, 7], [8, 9]], settings))

    examples = examples_of(33)
    training = Training(
        loaded,
        project,
        examples,
        said.append,
        folder / "checkpoints",
        "made-from",
        initial,
        measure,
        sample,
        ranks=ranks,
    )
    backward = training.backward
    training.backward = lambda part, total: rows.extend(e.where for e in part if e.where) or backward(part, total)  # type: ignore[method-assign]
    prepare(training)
    begun = training.resume()
    found = probe.measure(training)
    rows.clear()
    reason = training.run()
    steps = [e for e in said if isinstance(e, events.Step)]
    weights = torch.cat([p.detach().flatten() for _, p in loaded.parameters()])
    return {
        "reason": reason,
        "begun": begun,
        "step": training.progress.step,
        "probed": found.tokens,
        "micro_tokens": training.micro_tokens,
        "losses": [e.loss for e in steps],
        "norms": [e.gradient_norm for e in steps],
        "rows": rows,
        "weights": weights.tolist(),
        "measured": measured,
        "answers": answers,
        "saved": [e.step for e in said if isinstance(e, events.Saved)],
    }


def nothing(training: Training) -> None:
    pass


def equal(count: int, model: dict[str, Any] | None = None, init: str = "default", **values: Any) -> Found:
    """`count` ranks against one process, and against as many that hold the whole base each."""
    project = project_of(**STEPS | {"evaluate_every": 4, "sample_every": 5} | values)
    project = project.model_copy(update={"lora": project.lora.model_copy(update={"init": init})})
    folder = FOLDER / f"{count}{model}{init}{sorted(values.items())}".replace("/", "-")
    alone = trained(project, folder / "alone", model or {}, nothing)
    ranks = forked(count, lambda ranks: trained(project, folder / "together", model or {}, nothing, ranks))
    if problems := [r for r in ranks if "problem" in r]:
        return {"problems": problems}
    whole = forked(count, lambda ranks: trained(project, folder / "data", model or {}, nothing, ranks, "data"))
    pairs = [(a, b) for r in ranks for a, b in zip(r["measured"], alone["measured"], strict=True)]
    return against(alone, ranks) | {
        "measured": max(abs(a - b) / b for a, b in pairs),
        "as_data_parallel": all(
            r[k] == w[k] for r, w in zip(ranks, whole, strict=True) for k in ("weights", "losses", "rows")
        ),
        "measurements": len(alone["measured"]),
        "answers": [r["answers"] == alone["answers"] for r in ranks],
        "answered": len(alone["answers"]),
    }


def resumed(first: int, then: int) -> Found:
    """Five steps with `first` ranks, the rest with `then`, against one process that was never stopped."""
    project, folder = project_of(**STEPS), FOLDER / f"resumed{first}{then}"

    def stop(training: Training) -> None:
        emit = training.emit

        def listen(event: events.Event) -> None:
            training.stop.asked = training.stop.asked or (isinstance(event, events.Step) and event.step == 5)
            emit(event)

        training.emit = listen

    def run(count: int, prepare: Callable[[Training], None]) -> list[Found]:
        act = partial(trained, project, folder, {}, prepare)
        return [act()] if count == 1 else forked(count, lambda ranks: act(ranks))

    alone = trained(project, FOLDER / f"straight{first}{then}", {}, nothing)
    cut, rest = run(first, stop), run(then, nothing)
    assert [r["reason"] for r in cut] == ["stopped"] * first and [r["begun"] for r in rest] == [5] * then
    for part in rest:
        part["losses"], part["norms"] = cut[0]["losses"] + part["losses"], cut[0]["norms"] + part["norms"]
    found = against(alone, rest)
    found["all_rows"] = sorted(row for r in cut + rest for row in r["rows"])
    return found


def held(model: dict[str, Any]) -> Found:
    """Bytes of all tensors of each rank after a step, and of one process; and of the layers' part of the base."""

    def alive() -> int:
        gc.collect()
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor)]
        local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]  # type: ignore[operator]
        return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in local) if s.nbytes()}.values())

    def act(ranks: Ranks) -> Found:
        before = alive()
        project = project_of(**STEPS)
        loaded, _ = loaded_for(project, ranks, model)
        training = Training(loaded, project, examples_of(9), lambda _: None, FOLDER / "held", "", ranks=ranks)
        probe.measure(training)
        matrix.score(loaded, examples_of(2), scope="completion", window=0, batch_tokens=60)
        of_layers = sum(
            p.numel() * p.element_size()
            for n, p in loaded.causal.named_parameters()
            if ".layers." in n and not p.requires_grad
        )
        here, whole = sharding.held_bytes(loaded)
        return {"alive": alive() - before, "layers": of_layers, "here": here, "whole": whole}

    return {"ranks": forked(2, act), "alone": forked(1, act)[0]}


def memory_runs_out(where: str) -> Found:
    """On rank 1 alone, while it trains, or while it measures."""

    def small(training: Training) -> None:
        real = training.loaded.hidden

        def hidden(batch: Any) -> torch.Tensor:
            if (
                training.ranks.number == 1
                and training.progress.step == 4
                and torch.is_grad_enabled() == (where == "training")
            ):
                training.loaded.decoder.layers[1].register_forward_pre_hook(out_of_memory)  # type: ignore[union-attr,operator,index]
            return real(batch)

        training.loaded.hidden = hidden  # type: ignore[method-assign]

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    project = project_of(**STEPS | {"evaluate_every": 4})
    return {"ranks": forked(2, lambda ranks: trained(project, FOLDER / f"memory {where}", {}, small, ranks))}


def one_row_is_not_finite() -> Found:
    def poison(training: Training) -> None:
        bad = training.examples[training.order.at(3).examples[2]]
        real = training.loaded.hidden

        def hidden(batch: Any) -> torch.Tensor:
            return real(batch) * (math.nan if np.array_equal(batch.ids, bad.ids) else 1.0)

        training.loaded.hidden = hidden  # type: ignore[method-assign]

    project = project_of(**STEPS | {"micro_batch_tokens": 1})
    ranks = forked(2, lambda ranks: trained(project, FOLDER / "nan", {}, poison, ranks))
    return {"ranks": ranks, "checkpoints": [p.name for p in (FOLDER / "nan" / "checkpoints").iterdir()]}


SCENARIOS: dict[str, Callable[[], Found]] = {
    "two": lambda: equal(2),
    "bfloat16": lambda: equal(2, {"dtype": "bfloat16"}),
    "nf4": lambda: equal(2, {"quantization": "nf4"}),
    "nf4 in bfloat16": lambda: equal(2, {"quantization": "nf4", "dtype": "bfloat16"}),
    "fp4": lambda: equal(2, {"quantization": "fp4", "double_quantization": False}),
    "small micro-batches": lambda: equal(3, micro_batch_tokens=30),
    "fewer rows than ranks": lambda: equal(3, examples_per_step=2),
    "activation checkpointing": lambda: equal(2, {"quantization": "nf4"}, activation_checkpointing=True),
    "padded": lambda: equal(2, {"attention": "sdpa"}),
    "some layers": lambda: equal(2, lora_target_modules=r".*layers\.1\..*_proj"),
    "dora": lambda: equal(2, {"quantization": "nf4"}, lora_dora=True),
    "pissa": lambda: equal(2, init="pissa"),
    "loftq": lambda: equal(2, {"quantization": "nf4"}, init="loftq"),
    "modules to save": lambda: equal(2, lora_modules_to_save=["lm_head", "embed_tokens"]),
    "head alone": lambda: equal(2, lora_target_modules=["lm_head"]),
    "two, then one": lambda: resumed(2, 1),
    "one, then three": lambda: resumed(1, 3),
    "held": lambda: held({}),
    "held in nf4": lambda: held({"quantization": "nf4"}),
    "memory while training": lambda: memory_runs_out("training"),
    "memory while measuring": lambda: memory_runs_out("measuring"),
    "nan": one_row_is_not_finite,
}


if __name__ == "__main__":
    BASE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
    together.FOLDER = FOLDER  # type: ignore[attr-defined]
    torch.set_num_threads(1)
    print(json.dumps({name: find() for name, find in SCENARIOS.items() if name in (sys.argv[3:] or SCENARIOS)}))
