"""LLaMA-Factory's supervised stage: as it comes (activations recomputed), or nothing recomputed and grouped, or neatly packed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import common
import with_trainer

TUNED: dict[str, dict[str, Any]] = {
    "default": {},
    "grouped": {"disable_gradient_checkpointing": True},
    "neat-packing": {"disable_gradient_checkpointing": True, "neat_packing": True},
}


def dataset(job: common.Job, grouped: bool) -> Path:
    """The rows as text, in the layout that LLaMA-Factory reads; its tokens are those of the job (the clock compares)."""
    folder = Path(tempfile.mkdtemp())
    rows = [
        {"instruction": row.question + "\n", "input": "", "output": row.answer + "</s>"}
        for row in (job.grouped if grouped else job.in_order)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}), encoding="utf-8")
    return folder


def run(job: common.Job, variant: str, clock: common.Clock) -> None:
    from llamafactory.data.formatter import EmptyFormatter, StringFormatter
    from llamafactory.data.template import register_template
    from llamafactory.train import tuner
    from llamafactory.train.sft import workflow

    text = StringFormatter(slots=["{{content}}"])
    register_template("plain", format_user=text, format_assistant=text, format_prefix=EmptyFormatter(slots=[]))
    workflow.CustomSeq2SeqTrainer = with_trainer.told(workflow.CustomSeq2SeqTrainer, clock)
    given = with_trainer.settings(job) | TUNED[variant]
    given |= {
        "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": common.RANK, "lora_alpha": common.ALPHA,
        "lora_target": "all", "model_name_or_path": job.base, "template": "plain", "dataset": "rows",
        "dataset_dir": str(dataset(job, variant == "grouped")), "cutoff_len": job.pack_length, "overwrite_cache": True,
        "report_to": "none",
    }  # fmt: skip
    if job.nf4:
        given |= {"quantization_bit": 4, "quantization_method": "bnb"}
    if variant == "neat-packing":
        given["per_device_train_batch_size"] = job.packs
    tuner.run_exp(given, [with_trainer.ticks(clock)])


if __name__ == "__main__":
    common.main(run, "llamafactory", "transformers", "peft", "bitsandbytes")
