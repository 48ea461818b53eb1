"""Small tokenizers of the kinds there are, trained in the test on a few sentences; no torch.

byte-level    GPT-2, Llama 3, Qwen: bytes as letters, splits before spaces
first, always, never    Metaspace: spaces as "▁", and one in front of the first, of every, of no stretch of text
legacy        Llama 2: the same by a normalizer, nothing split at spaces
unigram       T5, XLM: Metaspace with a Unigram model, no bytes, so that some characters are unknown
"""

from __future__ import annotations

import functools
import json
from typing import Any

BOS, EOS, UNK, IM_START, IM_END = SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
KINDS = ("byte-level", "first", "always", "never", "legacy", "unigram")
LOSSLESS = ("byte-level", "first", "never")
"""Kinds of which decode(encode(text)) is the text, special tokens in it or not, if no space begins it."""

_CORPUS = [
    "Question: Anna has 12 apples and buys 30 more. How many apples does she have now?\nAnswer: 12 + 30 = 42 #### 42",
    "The train to the north leaves at seven; the one to the south leaves when the other has arrived.",
    "user\nassistant\nsystem\nWhat is the price of the red chair? The chair costs 85 dollars and 20 cents.\n\n",
]


@functools.cache
def _backend(kind: str, bos: bool) -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    stripped = [] if kind == "never" else [decoders.Strip(" ", 1, 0)]
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer: Any
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        made.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token=UNK, show_progress=False)
    else:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token=UNK, fuse_unk=True))
        if kind == "legacy":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        made.decoder = decoders.Sequence([*spaces, *stripped])
        trainer = trainers.BpeTrainer(vocab_size=520, special_tokens=SPECIAL + bytes_, show_progress=False)
    made.train_from_iterator(_CORPUS, trainer)
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
        )
    described = json.loads(made.to_str())
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in bytes_]
    return json.dumps(described)


def make(kind: str, *, bos: bool = True, chat_template: str | None = None, **special: Any) -> Any:
    """A tokenizer of `kind` that adds a BOS or none; a fresh object each time."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNK, **special}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(kind, bos)),
        additional_special_tokens=[IM_START, IM_END],
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        **{name: token for name, token in names.items() if token is not None},
    )
