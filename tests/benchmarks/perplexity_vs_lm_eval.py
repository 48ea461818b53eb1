"""Perplexity tokens per second against lm-eval's Hugging Face backend: same model, same texts, equal sums. Run by hand:

    python tests/benchmarks/perplexity_vs_lm_eval.py ../shared/gsm8k [--texts 330] [--repeats 3] [--threads 1]
        [--dtype float32|bfloat16] [--batch-size 16] [--peer-python VENV/bin/python]

The texts are GSM8K's test problems with their answers; the model is a Llama of random weights (288 wide, 6 layers,
vocabulary 4,096, untied: 8.3 million parameters). Each run is a process of its own, the two in turn; lm-eval may live in
another environment (--peer-python). What is timed begins with the texts and ends with a sum of log-likelihoods for each
(`loglikelihood_rolling`); imports, loading and the first 32 texts, as a warm-up, come before. lm-eval sorts by length
inside a batch of --batch-size texts, ours over all texts. `tokens/CPU-s` divides by the CPU time of the process, which
other load disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness

from engine import libraries

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
SIDES = ("ours", "lm-eval")
WARM_UP = 32
VOCABULARY = 4096

Sums = Callable[[Sequence[str]], list[float]]
"""Log-likelihood of each text, all its tokens after the BOS."""


def texts_of(file: Path) -> list[str]:
    """Question and answer of every row of a GSM8K file, as one text."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [f"{row['question']}\n{row['answer']}" for row in rows]


def build(folder: Path, corpus: Sequence[str]) -> None:
    """Write the model and a byte-level BPE that adds a BOS."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=6,
        vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def ours(args: argparse.Namespace) -> Sums:
    import numpy as np

    from engine import spec
    from engine.evaluation import scoring
    from engine.models import loading
    from engine.store import Workspace
    from engine.tokens.examples import Encoder, Example, Segment

    table = f'[model]\nbase = "{args.base}"\nquantization = "none"\ndtype = "{args.dtype}"\n'
    project = spec.parse(table + f'[launch]\ndevice = "cpu"\nthreads = {args.threads}\n')
    loaded = loading.load(project, Workspace(args.base))
    encoder = Encoder(loaded.tokenizer)

    def sums(texts: Sequence[str]) -> list[float]:
        made = [encoder.encode([Segment(text, 1.0, raw=True)]) for text in texts]
        examples = [Example(np.array(ids, np.int32), np.array(weights, np.float32)) for ids, weights in made]
        batch_tokens = project.eval.batch_tokens
        return [-r.nll for r in scoring.score(loaded, examples, scope="all", window=0, batch_tokens=batch_tokens)]

    return sums


def lm_eval(args: argparse.Namespace) -> Sums:
    import logging

    import torch
    import tqdm
    from lm_eval.api.instance import Instance
    from lm_eval.models import huggingface

    logging.disable(logging.WARNING)
    huggingface.tqdm = lambda *given, **named: tqdm.tqdm(*given, **{**named, "disable": True})
    options: dict[str, Any] = {"device": "cpu", "dtype": args.dtype, "batch_size": args.batch_size}
    # Its prefix is the BOS; without add_bos_token=False this tokenizer would put a second one behind it, to be scored.
    backend = huggingface.HFLM(pretrained=str(args.base), add_bos_token=False, **options)
    torch.set_num_threads(args.threads)

    def sums(texts: Sequence[str]) -> list[float]:
        requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
        return backend.loglikelihood_rolling(requests, disable_tqdm=True)

    return sums


def measure(args: argparse.Namespace) -> harness.Facts:
    """One side's run, in this process."""
    if args.side == "ours":
        libraries.prepare()
    import torch
    from transformers import PreTrainedTokenizerFast

    texts = texts_of(args.source / "test.jsonl")[: args.texts]
    tokens = sum(len(ids) - 1 for ids in PreTrainedTokenizerFast.from_pretrained(args.base)(texts).input_ids)
    run = ours(args) if args.side == "ours" else lm_eval(args)
    run(texts[:WARM_UP])
    assert torch.get_num_threads() == args.threads
    wall, cpu = time.perf_counter(), time.process_time()
    sums = run(texts)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "tokens": tokens, "tokens/s": tokens / wall, "tokens/CPU-s": tokens / cpu, "seconds": wall,
        "peak GB": harness.peak_rss_bytes() / 1e9, "perplexity": math.exp(-math.fsum(sums) / tokens), "sums": sums,
    }  # fmt: skip


def report(found: dict[str, list[harness.Facts]]) -> None:
    for side, runs in found.items():
        facts = {key: [run[key] for run in runs] for key in runs[0]}
        print(
            f"{side:8} tokens/s {harness.spread(facts['tokens/s'])}, tokens/CPU-s "
            f"{harness.spread(facts['tokens/CPU-s'])}; peak GB {harness.spread(facts['peak GB'], '.2f')}; "
            f"perplexity {runs[0]['perplexity']:.6f}"
        )
    mine, theirs = found.values()
    wall, cpu = (harness.ratio([r[k] for r in mine], [r[k] for r in theirs]) for k in ("tokens/s", "tokens/CPU-s"))
    a, b = mine[0]["sums"], theirs[0]["sums"]
    whole = abs(math.fsum(a) / math.fsum(b) - 1)
    each = max(abs(x / y - 1) for x, y in zip(a, b, strict=True))
    print(
        f"ours / lm-eval: {wall:.2f} by the clock, {cpu:.2f} by CPU time; relative difference of the sum {whole:.1e},"
    )
    print(f"at most {each:.1e} of a text's; {len(a):,} texts, {mine[0]['tokens']:,} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--texts", type=int, help="only the first N texts (default: all 1,319)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, default=16, help="lm-eval's, in texts")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has lm-eval (default: this one)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), texts_of(args.source / "train.jsonl"))
        again = [__file__, *sys.argv[1:], "--base", folder]
        pythons = {"ours": sys.executable, "lm-eval": args.peer_python}
        found = harness.in_turn({s: [pythons[s], *again, "--side", s] for s in SIDES}, args.repeats)
    print(harness.machine("torch", "transformers"))
    print(f"{args.dtype}, {args.threads} threads, {args.repeats} runs each, lm-eval in batches of {args.batch_size}")
    report(found)


if __name__ == "__main__":
    main()
