"""Makes a job: a random Llama with a tokenizer of the text's own, rows of ids, and the loss that a first step must show."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import torch

from engine import spec
from engine.training.order import Order

SIZES = {
    "S": {"hidden_size": 288, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 6, "vocab_size": 4096},
    "M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 8192},
}  # fmt: skip
PER_STEP = {"S": 16, "M": 8}
PACK_LENGTH, PACKS = 512, {"S": 5, "M": 3}  # the packs of a step hold about as many tokens as its rows would


def make(folder: Path, source: Path, size: str, rows: int, dtype: str, nf4: bool, threads: int) -> common.Job:
    """Write the base and `job.json` into the folder."""
    texts = read(source, 2000)
    base = make_base(folder / "base", size, texts)
    found = choose(encode(base, texts), rows, PER_STEP[size])
    made = common.Job(str(base), dtype, nf4, threads, PER_STEP[size], PACK_LENGTH, PACKS[size], [], found)
    order = Order([len(row.ids) for row in found], project_of(made).train)
    made.order.extend(i for step in range(order.steps) for i in order.at(step).examples)
    (folder / "job.json").write_text(json.dumps(asdict(made)), encoding="utf-8")
    return made


def read(source: Path, rows: int) -> list[dict[str, str]]:
    """The first problems of a file, or of the train.jsonl in a folder."""
    path = source / "train.jsonl" if source.is_dir() else source
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(rows), strict=False)]


def make_base(folder: Path, size: str, texts: list[dict[str, str]]) -> Path:
    """A random Llama with a BPE tokenizer of the rows' own text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=SIZES[size]["vocab_size"], special_tokens=special, show_progress=False)
    bpe.train_from_iterator((t["question"] + " " + t["answer"] for t in texts), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    made.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES[size], max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=common.BOS,
        eos_token_id=common.EOS,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def encode(base: Path, texts: list[dict[str, str]]) -> list[common.Row]:
    """The rows that fit into a pack."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    made = []
    for text in texts:
        question = tokenizer(text["question"] + "\n").input_ids
        ids = question + tokenizer(text["answer"] + "</s>").input_ids
        if len(ids) <= PACK_LENGTH:
            made.append(common.Row(ids, len(question), text["question"], text["answer"]))
    return made


def choose(rows: list[common.Row], count: int, per_step: int) -> list[common.Row]:
    """About `count` of the rows, in batches of like length from all over the lengths, in the order of the file.

    `group_by_length` sorts 50 batches at a time. Of as few rows as are measured here it would make batches with much
    padding; so 50 batches of the file are sorted, and every so many of these batches are taken, for all peers.
    """
    order = sorted(range(min(len(rows), 50 * per_step)), key=lambda i: len(rows[i].ids))
    batches = [order[at : at + per_step] for at in range(0, len(order) - per_step + 1, per_step)]
    wanted = min(len(batches), max(1, count // per_step))
    taken = [batches[(2 * n + 1) * len(batches) // (2 * wanted)] for n in range(wanted)]
    return [rows[i] for i in sorted(i for batch in taken for i in batch)]


def project_of(job: common.Job) -> Any:
    """Our settings for the job."""
    return spec.parse(
        f'[model]\nbase = "{job.base}"\nquantization = "{"nf4" if job.nf4 else "none"}"\ndtype = "{job.dtype}"\n'
        f"[lora]\nr = {common.RANK}\nalpha = {common.ALPHA}\n"
        f"[train]\nepochs = 1.0\nexamples_per_step = {job.per_step}\nlearning_rate = {common.RATE}\nwarmup = 0.0\n"
        "schedule = 'linear'\nweight_decay = 0.0\nsave_every = 0\n"
    )


def losses(job: common.Job) -> list[tuple[float, int]]:
    """Of every row, by transformers alone, row by row: the summed loss in nats, and how many tokens it is of.

    LoRA starts as nothing, so the mean over a first step's rows is the loss that the step must report.
    """
    torch.set_num_threads(job.threads)
    causal = job.causal().train()  # bitsandbytes repacks its weights in eval mode
    found = []
    with torch.no_grad():
        for row in job.rows:
            logits = causal(input_ids=torch.tensor([row.ids])).logits[0, :-1].float()
            labels = torch.tensor(row.labels[1:])
            found.append(
                (float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum")), int((labels >= 0).sum()))
            )
    return found
