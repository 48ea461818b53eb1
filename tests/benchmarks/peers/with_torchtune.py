"""torchtune's recipe for LoRA on one device: as its configurations come, or with packed data, which they say is faster."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common


def tokenizer() -> Any:
    """A component of the configuration; the rows are tokenised already."""
    return SimpleNamespace(pad_id=common.EOS)


def rows(_: Any, packed: bool, length: int, path: str) -> Any:
    """A component of the configuration: the job's rows."""
    from torchtune.datasets import PackedDataset

    found = [{"tokens": row.ids, "labels": row.labels} for row in common.Job.read(path).in_order]
    return PackedDataset(found, max_seq_len=length, padding_idx=common.EOS) if packed else found


def settings(job: common.Job, packed: bool) -> dict[str, Any]:
    shape = json.loads((Path(job.base) / "config.json").read_text(encoding="utf-8"))
    here, out = Path(__file__).stem, tempfile.mkdtemp()
    return {
        "output_dir": out, "seed": 0, "shuffle": False, "epochs": 1, "max_steps_per_epoch": None, "device": "cpu",
        "gradient_accumulation_steps": 1, "compile": False, "resume_from_checkpoint": False,
        "save_adapter_weights_only": True, "clip_grad_norm": None, "enable_activation_checkpointing": False,
        "batch_size": job.packs if packed else job.per_step,
        "dtype": "bf16" if job.dtype == "bfloat16" else "fp32",
        "model": {
            "_component_": "torchtune.models.llama2.lora_llama2",
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"], "apply_lora_to_mlp": True,
            "lora_rank": common.RANK, "lora_alpha": common.ALPHA, "quantize_base": job.nf4,
            "vocab_size": shape["vocab_size"], "num_layers": shape["num_hidden_layers"],
            "num_heads": shape["num_attention_heads"], "num_kv_heads": shape["num_key_value_heads"],
            "embed_dim": shape["hidden_size"], "intermediate_dim": shape["intermediate_size"],
            "max_seq_len": shape["max_position_embeddings"], "norm_eps": shape["rms_norm_eps"],
        },
        "tokenizer": {"_component_": f"{here}.tokenizer"},
        "dataset": {"_component_": f"{here}.rows", "packed": packed, "length": job.pack_length, "path": sys.argv[1]},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer", "checkpoint_dir": job.base,
            "checkpoint_files": ["model.safetensors"], "output_dir": out, "model_type": "LLAMA2",
        },
        "optimizer": {"_component_": "torch.optim.AdamW", "fused": True, "weight_decay": 0.01, "lr": common.RATE},
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup", "num_warmup_steps": 0,
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": out},
    }  # fmt: skip


def recipe_class() -> type:
    """The recipe's class, from its file: the folder of the recipes is no package."""
    package = importlib.util.find_spec("torchtune")
    assert package and package.origin
    file = Path(package.origin).parents[1] / "recipes" / "lora_finetune_single_device.py"
    found = importlib.util.spec_from_file_location("lora_finetune_single_device", file)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.LoRAFinetuneRecipeSingleDevice


def run(job: common.Job, variant: str, clock: common.Clock) -> None:
    from omegaconf import OmegaConf
    from torch.optim.optimizer import register_optimizer_step_post_hook

    class Told(recipe_class()):
        def _loss_step(self, batch: dict[str, Any]) -> Any:
            ids, labels = batch["tokens"], batch["labels"]
            loss = super()._loss_step(batch)
            clock.saw(ids, labels, loss)
            return loss

        def save_checkpoint(self, epoch: int) -> None:
            """Not measured."""

    given = OmegaConf.create(settings(job, variant == "packed"))
    recipe = Told(given)
    recipe.setup(given)
    clock.count(recipe._model)
    register_optimizer_step_post_hook(clock.tick)
    recipe.train()


if __name__ == "__main__":
    common.main(run, "torchtune", "torchao")
