"""Real models small enough to be made in a test: random weights of a given architecture, and a tokenizer of 400 tokens.

The weights are larger than a fresh model's, so that attention and position matter and a wrong mask shows in the logits.
Widths are multiples of 64, which is what the 4-bit kernels take.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from engine import spec
from engine.models import loading
from engine.store import Workspace

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "gpt2", "gpt_neox")
VOCABULARY = 400
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL = [PAD, BOS, EOS, "<|im_start|>", "<|im_end|>"]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_CORPUS = [
    "Question: Anna has 12 apples and buys 30 more. How many apples does she have now?\nAnswer: 12 + 30 = 42 #### 42",
    "The train to the north leaves at seven; the one to the south leaves when the other has arrived.",
    "She said that the house was old, that the garden was small, and that the roof would have to be mended.",
    "user assistant system What is the price of the red chair? The chair costs 85 dollars and 20 cents.",
]


@functools.cache
def _backend() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    return tokenizer.to_str()


def tiny_tokenizer() -> Any:
    """A byte-level BPE of 400 tokens that adds a BOS, with a chat template; a fresh object each time."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(family: str, **overrides: Any) -> Any:
    """A random model of `family` in fp32 and eval mode: 2 layers, 64 wide; `overrides` are keys of its config.

    The same arguments give the same weights, and torch's random state is left as it was.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**_config(family), **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(FAMILIES.index(family) + 1)
        causal = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return causal.eval()


def _config(family: str) -> dict[str, Any]:
    tokens = {name: SPECIAL.index(token) for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD))}
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.15,
        **{f"{name}_token_id": index for name, index in tokens.items()},
    }
    if family == "gpt2":
        return {**common, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    common |= {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    if family == "gpt_neox":
        return common
    common["num_key_value_heads"] = 2
    own: dict[str, dict[str, Any]] = {
        "llama": {},
        "qwen2": {"tie_word_embeddings": True},
        "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
        "mistral": {"sliding_window": 8},
        "gemma2": {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 10.0,
        },
        "phi3": {"original_max_position_embeddings": 256},
    }
    return common | own[family]


def save_tiny(folder: Path, family: str, **overrides: Any) -> Path:
    """Write `tiny_model` and `tiny_tokenizer` into `folder` as transformers would (safetensors); returns `folder`."""
    loading.quiet()
    tiny_model(family, **overrides).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_loaded(folder: Path, **model_table: Any) -> loading.Loaded:
    """The model of `folder` as a project would load it, on the CPU; `model_table` are keys of [model].

    Without other wishes: not quantized, fp32.
    """
    table = {"base": str(folder), "quantization": "none", "dtype": "float32", **model_table}
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items()]
    project = spec.parse("[model]\n" + "\n".join(lines) + '\n[launch]\ndevice = "cpu"\n')
    return loading.load(project, Workspace(folder))
