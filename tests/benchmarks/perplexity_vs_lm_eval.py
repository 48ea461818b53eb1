"""Perplexity tokens per second against lm-eval's Hugging Face backend: same model, same texts, equal sums.

    python tests/benchmarks/perplexity_vs_lm_eval.py [--texts 1319] [--repeats 3] [--threads 2]

The texts are GSM8K's test problems with their answers, from `gsm8k/` in the folder given by --data; the model is a
Llama of random weights (288 wide, 6 layers, vocabulary 4,096, untied, fp32). Both sides start from the text and end
with a sum of log-likelihoods for each; they run alternately, and each side's best and median are shown. CPU seconds
are those of all threads of this process: with one thread they are little moved by what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from engine import spec  # noqa: E402
from engine.evaluation import matrix  # noqa: E402
from engine.models import loading  # noqa: E402
from engine.store import Workspace  # noqa: E402
from engine.tokens.examples import Encoder, Example, Segment  # noqa: E402

VOCABULARY = 4096


@dataclass(frozen=True, slots=True)
class Timed:
    sums: list[float]
    seconds: float
    cpu_seconds: float


def texts_of(file: Path) -> list[str]:
    """Question and answer of every row of a GSM8K file, as one text."""
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [f"{row['question']}\n{row['answer']}" for row in rows]


def build(folder: Path, corpus: Sequence[str]) -> None:
    """Write the model and a byte-level BPE that adds a BOS."""
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
        hidden_size=288,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def ours(folder: Path, threads: int) -> Callable[[Sequence[str]], list[float]]:
    table = f'[model]\nbase = "{folder}"\nquantization = "none"\ndtype = "float32"\n'
    project = spec.parse(table + f'[launch]\ndevice = "cpu"\nthreads = {threads}\n')
    loaded = loading.load(project, Workspace(folder))
    encoder = Encoder(loaded.tokenizer)

    def sums(texts: Sequence[str]) -> list[float]:
        examples = [example(encoder, text) for text in texts]
        batch_tokens = project.eval.batch_tokens
        return [-r.nll for r in matrix.score(loaded, examples, scope="all", window=0, batch_tokens=batch_tokens)]

    return sums


def example(encoder: Encoder, text: str) -> Example:
    import numpy as np

    ids, weights = encoder.encode([Segment(text, 1.0, raw=True)])
    return Example(np.array(ids, np.int32), np.array(weights, np.float32))


def lm_eval(folder: Path, threads: int) -> Callable[[Sequence[str]], list[float]]:
    import logging

    import tqdm
    from lm_eval.api.instance import Instance
    from lm_eval.models import huggingface

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    huggingface.tqdm = lambda *args, **kwargs: tqdm.tqdm(*args, **{**kwargs, "disable": True})
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "batch_size": 16}
    # Its prefix is the BOS; without add_bos_token=False this tokenizer would put a second one behind it, to be scored.
    backend = huggingface.HFLM(pretrained=str(folder), add_bos_token=False, **options)
    torch.set_num_threads(threads)

    def sums(texts: Sequence[str]) -> list[float]:
        requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
        return backend.loglikelihood_rolling(requests, disable_tqdm=True)

    return sums


def timed(run: Callable[[Sequence[str]], list[float]], texts: Sequence[str]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    sums = run(texts)
    return Timed(sums, time.perf_counter() - wall, time.process_time() - cpu)


def report(name: str, runs: Sequence[Timed], tokens: int) -> dict[str, Any]:
    rates = sorted(tokens / r.seconds for r in runs)
    cpu = sorted(tokens / r.cpu_seconds for r in runs)
    return {
        "name": name,
        "tokens_per_second_best": rates[-1],
        "tokens_per_second_median": statistics.median(rates),
        "tokens_per_cpu_second_best": cpu[-1],
        "tokens_per_cpu_second_median": statistics.median(cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared", help="folder that holds gsm8k/")
    parser.add_argument("--texts", type=int, default=None, help="only the first N texts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    texts = texts_of(args.data / "gsm8k" / "test.jsonl")[: args.texts]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, texts_of(args.data / "gsm8k" / "train.jsonl"))
        sides = {"loraworkbench": ours(folder, args.threads), "lm-eval": lm_eval(folder, args.threads)}
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokens = sum(len(ids) - 1 for ids in tokenizer(texts).input_ids)
        for run in sides.values():
            run(texts[:32])
        runs: dict[str, list[Timed]] = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side, run in sides.items():
                runs[side].append(timed(run, texts))
    ours_sums, theirs = runs["loraworkbench"][0].sums, runs["lm-eval"][0].sums
    each = max(abs(a - b) / abs(b) for a, b in zip(ours_sums, theirs, strict=True))
    corpus = abs(math.fsum(ours_sums) - math.fsum(theirs)) / abs(math.fsum(theirs))
    reports = [report(side, made, tokens) for side, made in runs.items()]
    ratio = reports[0]["tokens_per_cpu_second_median"] / reports[1]["tokens_per_cpu_second_median"]
    document = {
        "texts": len(texts),
        "tokens": tokens,
        "threads": args.threads,
        "repeats": args.repeats,
        "sides": reports,
        "ratio_cpu": ratio,
        "ratio_wall": reports[0]["tokens_per_second_median"] / reports[1]["tokens_per_second_median"],
        "relative_difference_of_the_sum": corpus,
        "largest_relative_difference_of_a_text": each,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
