"""Train with several ranks, each a fork of this process, and say what each of them saw. Run by test_ranks:

    python -m tests.engine.training_together BASE FOLDER

Prints a JSON object: scenario -> what it found (see the functions, each a scenario).
"""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine import events
from engine.errors import EngineError
from engine.tables import Project
from engine.tokens.examples import Example
from engine.training.loop import Training
from engine.training.ranks import ALONE, Ranks, joined
from tests.engine import tiny
from tests.engine.training import examples_of, project_of, relative, training_of

Found = dict[str, Any]
Prepare = Callable[[Training], None]
STEPS = {"steps": 10, "examples_per_step": 5, "learning_rate": 1e-2}


def forked(count: int, act: Callable[[Ranks], Found]) -> list[Found]:
    """What `act` finds on each of `count` ranks; an `EngineError` is found as its words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, children = Path(tempfile.mkdtemp(dir=FOLDER)), []
    for number in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(number), WORLD_SIZE=str(count))
        code = 0
        try:
            with joined(torch.device("cpu")) as team:
                (folder / str(number)).write_text(json.dumps(act(team)))
        except EngineError as error:
            (folder / str(number)).write_text(json.dumps({"problem": error.problem, "where": error.where}))
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    assert not any(os.waitpid(child, 0)[1] for child in children)
    return [json.loads((folder / str(number)).read_text()) for number in range(count)]


def trained(
    project: Project, examples: list[Example], folder: Path, ranks: Ranks = ALONE, prepare: Prepare | None = None
) -> Found:
    """Train to the end from what is in `folder`; losses, the rows of each micro-batch, weights."""
    said: list[Any] = []
    rows: list[str] = []
    training = training_of(tiny.tiny_loaded(BASE), project, examples, folder, said.append, ranks=ranks)
    backward = training.backward
    training.backward = lambda part, total: rows.extend(e.where for e in part) or backward(part, total)  # type: ignore[method-assign]
    if prepare:
        prepare(training)
    begun = training.resume()
    reason = training.run()
    steps = [e for e in said if isinstance(e, events.Step)]
    weights = torch.cat([p.detach().flatten() for _, p in training.loaded.parameters()])
    return {
        "reason": reason,
        "begun": begun,
        "step": training.progress.step,
        "micro_tokens": training.micro_tokens,
        "losses": [e.loss for e in steps],
        "norms": [e.gradient_norm for e in steps],
        "rows": rows,
        "weights": weights.tolist(),
        "notes": [e.text for e in said if isinstance(e, events.Note)],
        "saved": [e.step for e in said if isinstance(e, events.Saved)],
    }


def against(alone: Found, ranks: list[Found]) -> Found:
    """How far each rank's losses and weights are from those of one process, and what each has trained on."""
    expected = torch.tensor(alone["weights"])
    return {
        "loss": max(abs(a - b) / b for r in ranks for a, b in zip(r["losses"], alone["losses"], strict=True)),
        "norm": max(abs(a - b) / b for r in ranks for a, b in zip(r["norms"], alone["norms"], strict=True)),
        "weights": max(relative(torch.tensor(r["weights"]), expected) for r in ranks),
        "same_on_all": all(r["weights"] == ranks[0]["weights"] for r in ranks),
        "rows_alone": sorted(alone["rows"]),
        "rows": [sorted(r["rows"]) for r in ranks],
        "saved": [r["saved"] for r in ranks],
        "micro_tokens": [r["micro_tokens"] for r in ranks],
    }


def equal(count: int, **values: Any) -> Found:
    project, examples, name = project_of(**STEPS | values), examples_of(33), f"{count}{sorted(values.items())}"
    alone = trained(project, examples, FOLDER / f"alone{name}")
    return against(alone, forked(count, partial(trained, project, examples, FOLDER / f"together{name}")))


def resumed(first: int, then: int) -> Found:
    """Five steps with `first` ranks, the rest with `then`, against one process that was never stopped."""
    project, examples, folder = project_of(**STEPS), examples_of(33), FOLDER / f"resumed{first}{then}"

    def stop(training: Training) -> None:
        emit = training.emit

        def listen(event: events.Event) -> None:
            training.stop.asked = training.stop.asked or (isinstance(event, events.Step) and event.step == 5)
            emit(event)

        training.emit = listen

    def run(count: int, prepare: Prepare | None = None) -> list[Found]:
        act = lambda ranks: trained(project, examples, folder, ranks, prepare)  # noqa: E731
        return [act(ALONE)] if count == 1 else forked(count, act)

    alone = trained(project, examples, FOLDER / f"straight{first}{then}")
    cut, rest = run(first, stop), run(then)
    assert [r["reason"] for r in cut] == ["stopped"] * first and [r["begun"] for r in rest] == [5] * then
    for part in rest:
        part["losses"], part["norms"] = cut[0]["losses"] + part["losses"], cut[0]["norms"] + part["norms"]
    found = against(alone, rest)
    found["all_rows"] = sorted(row for r in cut + rest for row in r["rows"])
    return found


def memory_runs_out() -> Found:
    """On rank 1 alone, for more than 60 tokens at once."""
    project, examples = project_of(**STEPS | {"examples_per_step": 8}), examples_of(33)

    def small(training: Training) -> None:
        real = training.loaded.hidden

        def hidden(batch: Any) -> torch.Tensor:
            if training.ranks.number == 1 and len(batch.ids) > 60:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(batch)

        training.loaded.hidden = hidden  # type: ignore[method-assign]

    alone = trained(project, examples, FOLDER / "memory alone")
    act = lambda ranks: trained(project, examples, FOLDER / "memory", ranks, small)  # noqa: E731
    ranks = forked(2, act)
    alone["rows"] = []
    return against(alone, ranks) | {"notes": [r["notes"] for r in ranks]}


def one_row_is_not_finite() -> Found:
    project, examples = project_of(**STEPS | {"micro_batch_tokens": 1}), examples_of(33)
    rows: list[str] = []

    def poison(training: Training) -> None:
        bad = examples[training.order.at(3).examples[2]]
        rows.append(bad.where)
        real = training.loaded.hidden

        def hidden(batch: Any) -> torch.Tensor:
            return real(batch) * (math.nan if np.array_equal(batch.ids, bad.ids) else 1.0)

        training.loaded.hidden = hidden  # type: ignore[method-assign]

    poison(training_of(tiny.tiny_loaded(BASE), project, examples, FOLDER / "unused"))
    ranks = forked(2, lambda ranks: trained(project, examples, FOLDER / "nan", ranks, poison))
    kept = [p.name for p in (FOLDER / "nan" / "checkpoints").iterdir()]
    return {"ranks": ranks, "row": rows[0], "checkpoints": kept}


def stopped_by(number: int) -> Found:
    """A stop is asked of one rank alone, after its third step."""
    project = project_of(**STEPS)

    def ask(training: Training) -> None:
        real = training.backward

        def backward(part: list[Example], total: float) -> torch.Tensor:
            training.stop.asked = training.progress.step == 2 and training.ranks.number == number
            return real(part, total)

        training.backward = backward  # type: ignore[method-assign]

    act = lambda ranks: trained(project, examples_of(33), FOLDER / f"stop{number}", ranks, ask)  # noqa: E731
    return {"ranks": [(r["reason"], r["step"]) for r in forked(2, act)]}


def early_stopping() -> Found:
    """Rank 0 alone measures: the second measurement is the best, and three worse ones end the run."""
    project = project_of(**STEPS | {"evaluate_every": 1, "early_stopping": 3})
    losses = iter([2.0, 1.0, 1.5, 1.2, 1.1, 9.0])

    def measured(training: Training) -> None:
        training.measure = (lambda: next(losses)) if training.ranks.leads else None

    act = lambda ranks: trained(project, examples_of(33), FOLDER / "early", ranks, measured)  # noqa: E731
    return {"ranks": [(r["reason"], r["step"]) for r in forked(2, act)]}


def one_fails() -> Found:
    """Rank 1 meets an error of its own: rank 0 says which and what."""

    def fail(training: Training) -> None:
        if training.ranks.number == 1:
            problem = EngineError("its disk is gone", where="/there", remedy="plug it in")
            training.loaded.hidden = lambda batch: (_ for _ in ()).throw(problem)  # type: ignore[method-assign]

    return {"ranks": forked(2, lambda ranks: trained(project_of(**STEPS), examples_of(9), FOLDER / "one", ranks, fail))}


SCENARIOS: dict[str, Callable[[], Found]] = {
    "two": lambda: equal(2),
    "small micro-batches": lambda: equal(2, micro_batch_tokens=30),
    "packed": lambda: equal(2, packing=True, max_length=64, examples_per_step=2),
    "fewer rows than ranks": lambda: equal(3, examples_per_step=2),
    "two, then one": lambda: resumed(2, 1),
    "one, then two": lambda: resumed(1, 2),
    "memory": memory_runs_out,
    "nan": one_row_is_not_finite,
    "stop 0": lambda: stopped_by(0),
    "stop 1": lambda: stopped_by(1),
    "early stopping": early_stopping,
    "one fails": one_fails,
}


if __name__ == "__main__":
    BASE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    print(json.dumps({name: find() for name, find in SCENARIOS.items() if name in (sys.argv[3:] or SCENARIOS)}))
