"""What the verbs do, without a terminal: train a run, load base and data, find an adapter. Merging is in `merging`.

Comes from: a project, its workspace, and an `emit`. Goes to: the run's folder. Each job says what it does through
events; who listens (a log file, a console, nobody) is not its business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine import events, spec
from engine.control import StopRequest
from engine.errors import InputError, Stopped, WorkFailed
from engine.events import Emit
from engine.files import size_of, write_atomic
from engine.jobs import record
from engine.jobs.ahead import Ahead, hashing
from engine.jobs.aside import aside
from engine.store import ProjectFolder, Run, Workspace
from engine.tables import Project

if TYPE_CHECKING:
    from engine.tokens import dataset
    from engine.training.loop import Training
    from engine.training.ranks import Ranks


@dataclass(frozen=True)
class TrainResult:
    """How a training ended; `adapter` is complete and loadable."""

    reason: str
    steps: int
    adapter: Path
    best_step: int | None


def new_run(folder: ProjectFolder, project: Project) -> Run:
    """The folder of a new run, with the resolved project file it is started with."""
    run = folder.new_run()
    write_atomic(run.project_file, spec.dump(project))
    return run


class Beside(Protocol):
    """The process around a training: whose base it is, and who asks it something between its micro-batches."""

    def base(self) -> Any:
        """The `Loaded` to train on, without adapters."""
        ...

    def prompts(self, training: Any, template: Any) -> contextlib.AbstractContextManager[Callable[[], None]]:
        """While in the block the adapter is in training; gives what to call between micro-batches."""
        ...


def train(
    folder: ProjectFolder,
    run: Run,
    project: Project,
    emit: Emit,
    stop: StopRequest,
    beside: Beside | None = None,
    ranks: Ranks | None = None,
    ahead: Ahead | None = None,
) -> TrainResult:
    """Train the run's adapter, from its newest checkpoint where it has one.

    Args:
        beside: a session that has the base loaded; None: this process is for this training alone.
        ranks: the processes that train together, of which rank 0 speaks and writes; None: this one alone.
        ahead: what was begun before; closed when the data is there.

    Raises:
        Stopped: a stop was asked for; the checkpoint is written.
        InputError, WorkFailed: see `dataset.load`, `loading.load`, `loop.Training`; or the ranks read different data.
    """
    from engine.evaluation import matrix
    from engine.models.loading import choose_device
    from engine.models.tokenizer import tokenizer_of
    from engine.tokens import dataset
    from engine.training import lora, needs, sharding
    from engine.training.loop import Training
    from engine.training.ranks import ALONE

    ranks = ranks or ALONE
    divided = sharding.divides(project.launch.strategy, ranks)
    workspace = Workspace(folder.workspace)
    alone = beside is None and ranks.count == 1  # a session has its base already, ranks wait for each other's rows
    beside = beside or _Alone(run, project, workspace, emit)
    if wrong := needs.problems(project, choose_device(project.launch).type):
        raise wrong[0]

    def read() -> tuple[str, dataset.RawDataset]:
        location, tokenizer = tokenizer_of(project, workspace)
        return location, dataset.read(project, workspace, tokenizer, emit)

    def base() -> tuple[Any, Any]:
        loaded = load_base(project, workspace, emit, divided) if divided else beside.base()
        return loaded, lora.attach(loaded, project.lora, location, project.model.revision, project.train.seed)

    location, raw = ranks.after_lead(read)
    hashes = ahead.hashes if ahead else hashing(project.model, workspace) if ranks.leads else None
    if alone:
        with _tokenising(raw, ahead) as listen:
            loaded, initial = base()
            listen(emit)
        data = raw.dataset(emit)
    else:
        data = ranks.after_lead(lambda: raw.dataset(emit))
        if len(set(ranks.gather([data.digest]))) > 1:
            remedy = "let all machines see the same workspace, with the same versions"
            raise InputError("the ranks have read different rows, or their tokenizers differ", remedy=remedy)
        loaded, initial = base()
    if ranks.leads:
        dataset.store_ledger(run.path / "ledger.json", data)
    if divided:
        sharding.shard(loaded, project.model, ranks, choose_device(project.launch))
        emit(events.Note(text=f"{sharding.words(loaded)}; no prompts while this trains"))
    if ahead is not None:
        ahead.close()
    made_from = ranks.from_lead(
        lambda: record.write_run_json(run, project, data, location, hashes.result() if hashes else {})
    )
    unseen = data.test.examples if data.test else []

    def measure() -> float:
        chosen = unseen[: project.train.evaluate_rows]
        scores = matrix.score(loaded, chosen, scope="completion", window=0, batch_tokens=project.eval.batch_tokens)
        nll, tokens = sum(s.nll for s in scores), sum(s.tokens for s in scores)
        emit(scored("adapter", "test", nll, tokens, training.progress.step))
        return ranks.from_lead(lambda: nll / tokens) if divided else nll / tokens

    def sample(step: int) -> None:
        _samples(loaded, project, data, run if ranks.leads else None, emit, step)

    training = Training(
        loaded,
        project,
        data.train.examples,
        emit,
        run.checkpoints,
        made_from,
        initial,
        measure if unseen and (ranks.leads or divided) else None,
        sample if ranks.leads or divided else None,
        stop,
        ranks=ranks,
    )
    done = training.resume()
    if done:
        emit(events.Note(text=f"going on after step {done} of {training.steps}"))
    _measure_memory(training, workspace, emit if ranks.leads else lambda event: None)
    with contextlib.ExitStack() as stack:
        asks = ranks.leads and not divided
        asked = stack.enter_context(beside.prompts(training, data.template)) if asks else None
        reason = training.run(asked or (lambda: None))
    if reason == "stopped":
        raise Stopped(
            f"stopped after step {training.progress.step} of {training.steps}; the checkpoint is written",
            where=str(run.path),
            remedy=f"go on with `loraworkbench train {folder.name} --resume {int(run.path.name)}`",
        )
    if not ranks.leads:
        return TrainResult(reason, training.progress.step, run.adapter, None)
    best = training.restore_best()
    step = training.progress.step if best is None else best
    if best is not None:
        emit(events.Note(text=f"the adapter is that of step {best}, where the unseen loss was lowest"))
    lora.save_adapter(run.adapter, loaded, initial, record.card(run, project, data, step))
    emit(events.Saved(what="adapter", path=str(run.adapter), bytes=size_of(run.adapter), step=step))
    return TrainResult(reason, training.progress.step, run.adapter, best)


def _tokenising(
    raw: dataset.RawDataset, ahead: Ahead | None
) -> contextlib.AbstractContextManager[Callable[[Emit], None]]:
    """While in the block the rows are tokenised by another process; gives what waits for that."""
    if raw.is_stored:
        return contextlib.nullcontext(lambda told: None)
    if ahead is not None and ahead.listen is not None:
        return contextlib.nullcontext(ahead.listen)
    return aside(raw.tokenise)


def _measure_memory(training: Training, workspace: Workspace, emit: Emit) -> None:
    """What the run will take at its peak, measured and estimated; a run that is done takes nothing."""
    from engine import estimate
    from engine.training import probe

    if training.progress.step >= training.steps:
        return
    found, device = probe.measure(training), "cuda" if training.loaded.device.type == "cuda" else "cpu"
    try:
        guess = estimate.of_project(training.project, workspace, device, found.tokens, found.longest)
    except InputError:  # shapes that cannot be read
        guess = None
    real = found.bytes
    if real is not None and guess is not None and not training.optimizer.state:
        real += guess.of("optimizer")
    if real is not None and device == "cuda":
        real += estimate.LIBRARIES[device]
    emit(events.Memory(tokens=found.tokens, estimated_bytes=guess.total if guess else None, measured_bytes=real))


class _Alone:
    """A process for one training, with a socket of its own."""

    def __init__(self, run: Run, project: Project, workspace: Workspace, emit: Emit) -> None:
        self.run, self.project, self.workspace, self.emit = run, project, workspace, emit

    def base(self) -> Any:
        return load_base(self.project, self.workspace, self.emit)

    @contextlib.contextmanager
    def prompts(self, training: Any, template: Any) -> Iterator[Callable[[], None]]:
        """A training is not given up because nobody can listen to it: then that is said, and nothing is called."""
        from engine.session.hosting import hosted

        run, name = self.run, name_of(self.run)
        with contextlib.ExitStack() as stack:
            try:
                hosting = hosted(run.path, training.loaded, self.project, template, run.label, training, name)
                owner = stack.enter_context(hosting)
            except WorkFailed as error:
                problem = f"no prompts while this trains: {error.problem} ({error.where})"
                self.emit(events.Note(text=problem, level="warning"))
                yield lambda: None
            else:
                yield owner.serve


def name_of(run: Run) -> str:
    """What a run's adapter is called where it is loaded: "starter-0003"."""
    return run.label.replace("/", "-")


def load_base(project: Project, workspace: Workspace, emit: Emit, to_divide: bool = False) -> Any:
    """`loading.load` with its stage events; `to_divide`: `loading.read` into RAM, for `sharding.shard`."""
    import torch

    from engine.models import loading

    name = f"load {project.model.base} ({project.model.quantization})"
    emit(events.Stage(name=name, done=0, total=1))
    ram = torch.device("cpu")
    loaded = loading.read(project, workspace, ram) if to_divide else loading.load(project, workspace)
    emit(events.Stage(name=name, done=1, total=1))
    return loaded


def scored(name: str, split: str, nll: float, tokens: int, step: int | None) -> events.Scored:
    """A `scored` event from sums; perplexity overflows to infinity rather than failing."""
    import math

    mean = nll / tokens if tokens else math.nan
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return events.Scored(
        model=name, split=split, scope="completion", nll=nll, tokens=tokens, perplexity=perplexity, step=step
    )


def watch_prompts(project: Project, data: Any, how_many: int = 3) -> list[tuple[str, list[int]]]:
    """(text, ids) of `generate.prompts`, or of the first unseen rows where the project names none."""
    from engine.tokens.examples import Encoder

    template = data.template
    encoder = Encoder(template.tokenizer)
    if project.generate.prompts:
        return [(p, encoder.prompt(template.prompt(p))) for p in project.generate.prompts]
    split = data.test or data.train
    made = []
    for (_, item), example in list(zip(split.items, split.examples, strict=True))[:how_many]:
        made.append((item.prompt if hasattr(item, "prompt") else example.reference, example.prompt_ids))
    return made


def _samples(loaded: Any, project: Project, data: Any, run: Run | None, emit: Emit, step: int) -> None:
    """Answer the watch prompts with the weights of this moment, and keep the answers in `run`."""
    import json

    from engine.generation import answering

    asked = watch_prompts(project, data)
    settings = answering.settings_from(project.generate, loaded, data.template.stop)
    answers = answering.complete(loaded, [ids for _, ids in asked], settings)
    if run is None:
        return
    with (run.path / "samples.jsonl").open("a", encoding="utf-8") as file:
        for (prompt, _), answer in zip(asked, answers, strict=True):
            file.write(json.dumps({"step": step, "prompt": prompt, "text": answer.text}, ensure_ascii=False) + "\n")
            emit(events.Sample(model="adapter", prompt=prompt, text=answer.text, step=step))


def dataset_of(project: Project, workspace: Workspace, emit: Emit) -> Any:
    """The project's data, tokenised for its base."""
    from engine.models.tokenizer import tokenizer_of
    from engine.tokens import dataset

    return dataset.load(project, workspace, tokenizer_of(project, workspace)[1], emit)


def adapter_of(workspace: Workspace, project: ProjectFolder, name: str | None) -> tuple[str, Path]:
    """The name and folder of an adapter: a folder, a run ("3", "starter/3"), or None for the project's newest.

    Raises:
        InputError: there is none.
    """
    if name is None:
        for run in reversed(project.runs()):
            if (run.adapter / "adapter_config.json").is_file():
                return name_of(run), run.adapter
        remedy = f"`loraworkbench train {project.name}` makes one"
        raise InputError("this project has no adapter yet", where=str(project.path), remedy=remedy)
    path = Path(name)
    if (path / "adapter_config.json").is_file():
        parent = path.resolve().parent
        return (name_of(Run(parent)) if parent.name.isdigit() else path.resolve().name), path.resolve()
    run = project.run(name) if name.isdigit() else workspace.run(name)
    if not (run.adapter / "adapter_config.json").is_file():
        raise InputError(f"run {run.label} has no adapter ({run.state().state})", where=str(run.path))
    return name_of(run), run.adapter
