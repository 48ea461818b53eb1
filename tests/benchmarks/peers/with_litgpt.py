"""LitGPT's `finetune_lora`: row by row, sixteen or eight to a step, as it comes; or with the step as one padded batch."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import common


class Done(Exception):  # noqa: N818
    """Training has ended; what would follow is saving."""


def convert(job: common.Job) -> Path:
    """The base in LitGPT's own format."""
    import torch
    from litgpt import Config
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import save_config
    from safetensors.torch import load_file

    base, folder = Path(job.base), Path(tempfile.mkdtemp())
    shape = json.loads((base / "config.json").read_text(encoding="utf-8"))
    config = Config.from_name(
        "Llama-2-7b-hf", n_layer=shape["num_hidden_layers"], n_embd=shape["hidden_size"],
        n_head=shape["num_attention_heads"], n_query_groups=shape["num_key_value_heads"],
        head_size=shape["hidden_size"] // shape["num_attention_heads"], intermediate_size=shape["intermediate_size"],
        block_size=shape["max_position_embeddings"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], norm_eps=shape["rms_norm_eps"],
    )  # fmt: skip
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(base / "model.safetensors"))
    torch.save(weights, folder / "lit_model.pth")
    save_config(config, folder)
    for file in base.glob("*.json"):
        shutil.copy(file, folder)
    return folder


def data_of(job: common.Job) -> Any:
    """LitGPT's data module with the job's rows, in the order of our steps."""
    import torch
    from litgpt.data import DataModule, get_sft_collate_fn
    from torch.utils.data import DataLoader

    rows = [
        {
            "input_ids": torch.tensor(row.ids),
            "labels": torch.tensor(row.labels),
            "token_counts": {"raw": len(row.ids), "raw_plus_prompt_template": len(row.ids)},
        }
        for row in job.in_order
    ]

    class Rows(DataModule):
        size = 1

        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
            self.size = batch_size

        def train_dataloader(self) -> Any:
            return DataLoader(rows, self.size, collate_fn=get_sft_collate_fn(pad_id=common.EOS))

        def val_dataloader(self) -> Any:
            return DataLoader(rows[:1], 1, collate_fn=get_sft_collate_fn(pad_id=common.EOS))

    return Rows()


def run(job: common.Job, variant: str, clock: common.Clock) -> None:
    import torch
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.finetune import lora
    from torch.optim.optimizer import register_optimizer_step_post_hook

    held: list[Any] = []
    entropy = lora.chunked_cross_entropy

    class Seen(lora.GPT):
        def forward(self, idx: Any, *given: Any, **named: Any) -> Any:
            held[:] = [idx]
            if not clock.trained:
                clock.count(self)
            return super().forward(idx, *given, **named)

    def told(logits: Any, targets: Any, *given: Any, **named: Any) -> Any:
        loss = entropy(logits, targets, *given, **named)
        if torch.is_grad_enabled():
            clock.saw(held[0], targets, loss.detach())
        return loss

    def end(*_: Any) -> None:
        raise Done

    lora.GPT, lora.chunked_cross_entropy, lora.save_lora_checkpoint = Seen, told, end
    register_optimizer_step_post_hook(clock.tick)
    train = TrainArgs(
        save_interval=None, global_batch_size=job.per_step, lr_warmup_steps=1, epochs=2,
        micro_batch_size=1 if variant == "default" else job.per_step, max_steps=len(job.rows) // job.per_step,
    )  # fmt: skip
    with contextlib.suppress(Done):
        lora.setup(
            convert(job), Path(tempfile.mkdtemp()), "bf16-true" if job.dtype == "bfloat16" else "32-true",
            "bnb.nf4-dq" if job.nf4 else None, lora_r=common.RANK, lora_alpha=common.ALPHA, lora_dropout=0.0,
            lora_key=True, lora_projection=True, lora_mlp=True, data=data_of(job), train=train,
            eval=EvalArgs(interval=10**6, max_new_tokens=1, max_iters=1, final_validation=False),
            optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": common.RATE}},
        )  # fmt: skip


if __name__ == "__main__":
    common.main(run, "litgpt", "lightning", "bitsandbytes")
