"""Our training loop, with the settings that a new project has."""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import harness
import jobs
import numpy as np

from engine import libraries


def run(job: common.Job, _: str, clock: common.Clock) -> None:
    from engine import events
    from engine.models import loading
    from engine.store import Workspace
    from engine.tokens.examples import Example
    from engine.training import lora
    from engine.training.loop import Training

    project = jobs.project_of(job)
    loading.quiet()
    loaded = loading.load(project, Workspace(harness.ROOT))
    lora.attach(loaded, project.lora, job.base, None, 0)
    clock.trained = sum(p.numel() for _, p in loaded.parameters())
    examples = [
        Example(np.array(row.ids, np.int32), (np.arange(len(row.ids)) >= row.prompt).astype(np.float32), str(i))
        for i, row in enumerate(job.rows)
    ]

    with tempfile.TemporaryDirectory() as folder:

        def listen(event: events.Event) -> None:
            if isinstance(event, events.Step):
                rows = [job.rows[i] for i in training.order.at(event.step - 1).examples]
                assert event.tokens == sum(len(row.ids) for row in rows)
                clock.saw([row.ids for row in rows], [row.labels for row in rows], event.loss)
                clock.tick()

        training = Training(loaded, project, examples, listen, Path(folder), "")
        training.run()


if __name__ == "__main__":
    libraries.prepare()
    common.main(run, "transformers", "peft", "bitsandbytes")
