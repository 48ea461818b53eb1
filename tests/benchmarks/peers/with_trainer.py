"""transformers.Trainer with PEFT: a batch padded to its longest row (default), or grouped by length, as its manual advises."""

from __future__ import annotations

import tempfile
from typing import Any

import common


def told(trainer: type, clock: common.Clock) -> Any:
    """The Trainer class, telling its steps, with the rows in the order given, which it would shuffle."""
    from torch.utils.data import SequentialSampler

    class Told(trainer):
        def training_step(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
            if not clock.trained:
                clock.count(model)
            ids, labels = inputs["input_ids"], inputs["labels"]
            loss = super().training_step(model, inputs, *given, **named)
            clock.saw(ids, labels, loss)
            return loss

        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    return Told


def ticks(clock: common.Clock) -> Any:
    """A callback for the end of a step."""
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    return Ticks()


def settings(job: common.Job) -> dict[str, Any]:
    """TrainingArguments that say what is done, and where. What is left out is the Trainer's default."""
    return {
        "output_dir": tempfile.mkdtemp(), "num_train_epochs": 1, "per_device_train_batch_size": job.per_step,
        "learning_rate": common.RATE, "lr_scheduler_type": "linear", "bf16": job.dtype == "bfloat16", "use_cpu": True,
        "report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def run(job: common.Job, variant: str, clock: common.Clock) -> None:
    import torch
    from peft import get_peft_model
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    causal = job.causal()
    torch.manual_seed(0)
    model = get_peft_model(causal, job.lora())
    rows = [
        {"input_ids": row.ids, "attention_mask": [1] * len(row.ids), "labels": row.labels}
        for row in (job.grouped if variant == "grouped" else job.in_order)
    ]
    pad = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(job.base))
    arguments = TrainingArguments(**settings(job))
    told(Trainer, clock)(model, arguments, pad, rows, callbacks=[ticks(clock)]).train()


if __name__ == "__main__":
    common.main(run, "transformers", "peft", "bitsandbytes")
