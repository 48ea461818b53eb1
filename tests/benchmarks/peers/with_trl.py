"""TRL's SFTTrainer: as it comes (activations recomputed), or tuned: nothing recomputed and grouped, packed or padding-free."""

from __future__ import annotations

from typing import Any

import common
import with_trainer

TUNED: dict[str, dict[str, Any]] = {
    "default": {},
    "grouped": {},
    "packing": {"packing": True},
    "packing-wrapped": {"packing": True, "packing_strategy": "wrapped"},
    "padding-free": {"padding_free": True, "max_length": None},
}


def run(job: common.Job, variant: str, clock: common.Clock) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = job.grouped if variant == "grouped" else job.in_order
    data = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])
    given = with_trainer.settings(job) | {"max_length": job.pack_length} | TUNED[variant]
    if variant != "default":
        given["gradient_checkpointing"] = False
    if "packing" in given:
        given["per_device_train_batch_size"] = job.packs
    kind = with_trainer.told(SFTTrainer, clock)
    kind(
        model=job.causal(), args=SFTConfig(**given), train_dataset=data, peft_config=job.lora(),
        processing_class=AutoTokenizer.from_pretrained(job.base), callbacks=[with_trainer.ticks(clock)],
    ).train()  # fmt: skip


if __name__ == "__main__":
    common.main(run, "trl", "transformers", "peft", "bitsandbytes")
