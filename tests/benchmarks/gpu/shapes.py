"""Random bases of known shapes, written fast, and rows as long as GSM8K's: what the GPU benchmarks run on.

`gsm8k_lengths.json` holds (tokens of the question, tokens in all) of the first 512 rows of GSM8K's train.jsonl under a
BPE of 8,192 tokens trained on that file. The ids themselves are random, from 1,000 of the vocabulary: what is measured
does not depend on them, and the losses still fall as a model learns which of its words occur.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT))

SHAPES: dict[str, dict[str, Any]] = {
    "1b": {  # Llama-3.2-1B
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "tie_word_embeddings": True, "max_position_embeddings": 8192, "rope_theta": 500000.0,
    },
    "8b": {  # Qwen3-8B
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": False, "max_position_embeddings": 8192, "rope_theta": 1000000.0,
    },
    "32b": {  # Qwen3-32B
        "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "tie_word_embeddings": False, "max_position_embeddings": 8192, "rope_theta": 1000000.0,
    },
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1200}
SHARD_BYTES = 1_500_000_000


def shape_of(name: str, tiny: bool) -> dict[str, Any]:
    return SHAPES[name] | (TINY if tiny else {})


def write_base(folder: Path, shape: dict[str, Any], device: str, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A random model of `shape` with a tokenizer, in shards; the weights are drawn on `device`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.engine.tiny import tiny_tokenizer

    folder.mkdir(parents=True)
    options = dict(shape)
    config = AutoConfig.for_model(options.pop("model_type"), **options, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    config.architectures, config.dtype = [type(model).__name__], dtype
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if size > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tuple(tensor.shape)
        size += tensor.numel() * dtype.itemsize
    files = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: _write_shard(folder / files[i], shards[i], i, device, dtype), range(len(shards))))
    places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], seed: int, device: str, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    draw = torch.Generator(device).manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensor = torch.ones(shape, dtype=dtype, device=device)
        if len(shape) > 1:
            tensor.normal_(0.0, 0.02 if shape[1] > 256 else 0.1, generator=draw)
        tensors[name] = tensor.cpu()
    save_file(tensors, path, metadata={"format": "pt"})


def rows_like_gsm8k(count: int, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """(ids, tokens of the question), of GSM8K's lengths."""
    lengths = json.loads((HERE / "gsm8k_lengths.json").read_text())
    return [_row(i, total, asked, seed) for i, (asked, total) in enumerate((lengths * 8)[:count])]


def rows_of(count: int, length: int, seed: int = 0) -> list[tuple[np.ndarray, int]]:
    """Rows of one length; all tokens are learned from."""
    return [_row(i, length, 0, seed) for i in range(count)]


def _row(number: int, total: int, asked: int, seed: int) -> tuple[np.ndarray, int]:
    draw = np.random.default_rng((seed, number))
    return draw.integers(100, 1100, total).astype(np.int32), asked


def examples_of(rows: list[tuple[np.ndarray, int]]) -> list[Any]:
    from engine.tokens.examples import Example

    return [
        Example(ids, (np.arange(len(ids)) >= asked).astype(np.float32), f"row {i + 1}")
        for i, (ids, asked) in enumerate(rows)
    ]


def project_of(base: Path, quantization: str, device: str, dtype: str = "bfloat16", **train: Any) -> Any:
    """The project of a benchmark run: r 16 on all linear layers, AdamW, a step a row of `train`."""
    from engine import spec

    given = {"learning_rate": 2e-4, "warmup": 0.0, "schedule": "linear", "weight_decay": 0.0, "save_every": 0, **train}
    lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in given.items())
    return spec.parse(
        f'[model]\nbase = "{base}"\nquantization = "{quantization}"\ndtype = "{dtype}"\n[lora]\nr = 16\nalpha = 32\n'
        f'[train]\n{lines}\n[launch]\ndevice = "{device}"\n'
    )


def needed_flops(shape: dict[str, Any], rows: list[tuple[np.ndarray, int]], rank: int = 16) -> float:
    """Floating-point operations that LoRA training of these rows cannot do without.

    Twice a product for each frozen matrix (forward, gradient of the input), thrice for A and B, the head for supervised
    tokens only, attention on the half that causality leaves, forward and twice that backward. No recomputation.
    """
    h, f, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    q, kv = shape["num_attention_heads"] * shape["head_dim"], shape["num_key_value_heads"] * shape["head_dim"]
    sides = [(h, q), (h, kv), (h, kv), (q, h), (h, f), (h, f), (f, h)]
    token = layers * sum(4 * a * b + 6 * rank * (a + b) for a, b in sides)
    head = 4 * h * shape["vocab_size"]
    tokens, supervised = sum(len(ids) for ids, _ in rows), sum(len(ids) - max(asked, 1) for ids, asked in rows)
    attention = sum(6 * layers * q * len(ids) ** 2 for ids, _ in rows)
    return tokens * token + supervised * head + attention
