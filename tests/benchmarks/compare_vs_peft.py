"""Base and adapters asked side by side against PEFT, which asks them one after the other. Run by hand:

    OMP_NUM_THREADS=2 python tests/benchmarks/compare_vs_peft.py [--nf4] [--new 64] [--repeats 5] [--folder DIR]

A random Llama of about 100 million parameters, LoRA r 16 on all linear layers, random; greedy, a prompt of 64 tokens,
64 tokens a column, no end of text. PEFT: `disable_adapter` or `set_adapter`, then `generate`, for each model. Ours:
`together.compare`, one batch, with the proof of whose answer is whose. Both sides are loaded, a process each, and take
turns of seconds; a first round does not count. The token ids of every column are compared between the sides. Tokens a
second of the processor are what remains comparable on a busy machine.

Switching: PEFT's `set_adapter`; ours is the choice of lanes in an open batch, and the way into and out of one (what a
request to the session pays: eval mode, lanes on every layer, all of it put back). First token: the same prompt asked
again with the other adapter, and a fresh prompt asked of it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

CONFIG: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 12, "vocab_size": 16_000, "max_position_embeddings": 1024, "tie_word_embeddings": False,
    "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
PROMPT, SWITCHES = 64, 40
NAMES = ["a", "b", "c"]


def make(folder: Path) -> int:
    """A base with a tokenizer, and three adapters beside it; returns the base's parameters."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.engine.tiny import tiny_tokenizer

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    count = sum(p.numel() for p in model.parameters())
    model.save_pretrained(folder / "base")
    tiny_tokenizer().save_pretrained(folder / "base")
    for seed, name in enumerate(NAMES, 1):
        torch.manual_seed(seed)
        config = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
        made: Any = get_peft_model(LlamaForCausalLM.from_pretrained(folder / "base"), config)
        for parameter_name, parameter in made.named_parameters():
            if "lora_B" in parameter_name:
                parameter.data.normal_(std=0.02)
        made.save_pretrained(str(folder / name))
    return count


def prompt_of(seed: int) -> list[int]:
    import torch

    return torch.randint(10, CONFIG["vocab_size"], (PROMPT,), generator=torch.Generator().manual_seed(seed)).tolist()


class Ours:
    def __init__(self, folder: Path, nf4: bool) -> None:
        from engine import spec
        from engine.models import loading
        from engine.store import Workspace

        quantization = "nf4" if nf4 else "none"
        text = f'[model]\nbase = "{folder / "base"}"\nquantization = "{quantization}"\ndtype = "float32"\n'
        self.loaded = loading.load(spec.parse(text), Workspace(folder))
        self.loaded.blocked.keep()  # as in a session
        for name in NAMES:
            self.loaded.load_adapter(name, folder / name)

    def ask(self, models: list[str | None], prompt: list[int], count: int) -> list[list[int]]:
        from engine.generation.answering import Settings
        from engine.generation.together import compare

        found = compare(self.loaded, models, prompt, Settings(count), dict.fromkeys(NAMES, ""))
        return [list(each.answer.ids) for each in found]

    def switches(self) -> dict[str, float]:
        from engine.generation.decoding import inference
        from engine.models.lanes import lanes

        with inference(self.loaded), lanes(self.loaded) as assigned:
            inside = each_of(lambda name: assigned.assign([name]))

        def enter(name: str) -> None:
            with inference(self.loaded), lanes(self.loaded) as assigned:
                assigned.assign([name])

        return {"switch, ms": inside, "into and out of a batch, ms": each_of(enter)}


class Peft:
    def __init__(self, folder: Path, nf4: bool) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
        base = AutoModelForCausalLM.from_pretrained(
            folder / "base", dtype=torch.float32, quantization_config=config if nf4 else None
        )
        self.model: Any = PeftModel.from_pretrained(base, str(folder / NAMES[0]), adapter_name=NAMES[0])
        for name in NAMES[1:]:
            self.model.load_adapter(str(folder / name), name)
        self.model.eval()

    def ask(self, models: list[str | None], prompt: list[int], count: int) -> list[list[int]]:
        import torch

        ids = torch.tensor([prompt])

        def answer() -> list[int]:
            how = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
            with torch.no_grad():
                made = self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)
            return made[0, len(prompt) :].tolist()

        found = []
        for model in models:
            if model is None:
                with self.model.disable_adapter():
                    found.append(answer())
            else:
                self.model.set_adapter(model)
                found.append(answer())
        return found

    def switches(self) -> dict[str, float]:
        return {"switch, ms": each_of(lambda name: self.model.set_adapter(name))}


def each_of(switch: Callable[[str], None]) -> float:
    """Median milliseconds of a switch to the other adapter."""
    taken = []
    for turn in range(SWITCHES):
        started = time.perf_counter()
        switch(NAMES[turn % 2])
        taken.append(1e3 * (time.perf_counter() - started))
    return statistics.median(taken)


def side(args: argparse.Namespace) -> None:
    """A process that does one side's part whenever a line on stdin tells it to, and says what it took."""
    asked: Any = {"ours": Ours, "peft": Peft}[args.side](args.folder, args.nf4)
    for line in sys.stdin:
        what, turn = line.split()
        if what == "switch":
            facts = asked.switches()
        elif what == "first":
            facts = first_tokens(asked, int(turn))
        else:
            models = [None, *NAMES[: int(what)]]
            started, cpu = time.perf_counter(), time.process_time()
            ids = asked.ask(models, prompt_of(0), args.new)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            tokens = len(models) * args.new
            facts = {f"base + {what}, tokens/s": tokens / seconds, f"base + {what}, tokens/CPU-s": tokens / cpu}
            facts[f"ids of base + {what}"] = ids
        print(json.dumps(facts), flush=True)


def first_tokens(asked: Any, turn: int) -> dict[str, float]:
    """Of the other adapter, for the prompt that was just answered, and for one that was never seen."""
    facts = {}
    for what, prompt in (("same prompt", prompt_of(1 + turn)), ("fresh prompt", prompt_of(100 + turn))):
        asked.ask([NAMES[0]], prompt_of(1 + turn), 1)
        started = time.perf_counter()
        asked.ask([NAMES[1]], prompt, 1)
        facts[f"first token after a switch, {what}, ms"] = 1e3 * (time.perf_counter() - started)
    return facts


def take_turns(folder: str, args: argparse.Namespace) -> dict[str, list[harness.Facts]]:
    """Both sides loaded, one of them working: turns of seconds, so that both meet the same disturbances."""
    given = [*(["--nf4"] if args.nf4 else []), "--folder", folder, "--new", str(args.new)]
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ, "PYTHONPATH": str(harness.ROOT), "PYTHONWARNINGS": "ignore"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    sides = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--side", name, *given], text=True, env=environment, bufsize=1, **pipes
        )
        for name in ("peft", "ours")
    }
    found: dict[str, list[harness.Facts]] = {name: [{} for _ in range(args.repeats)] for name in sides}
    for turn in range(-1, args.repeats):  # the first round does not count
        for what in ("1", "3", "switch", "first"):
            for name, process in sides.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(f"{what} {turn + 1}\n")
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"{name} failed at {what!r}")
                if turn >= 0:
                    found[name][turn] |= json.loads(line)
        print(f"round {turn + 1} of {args.repeats}", file=sys.stderr, flush=True)
    for process in sides.values():
        process.kill()
        process.communicate()
    return found


def report(found: dict[str, list[harness.Facts]]) -> None:
    print(f"{'median (least - largest)':46}{'PEFT':>24}{'ours':>24}{'ours/PEFT':>11}")
    for key in found["ours"][0]:
        if key.startswith("ids"):
            same = all(run[key] == found["peft"][0][key] for runs in found.values() for run in runs)
            print(f"{key}: {'the same on both sides, every run' if same else 'DIFFERENT'}")
            continue
        form = ".3f" if key.startswith("switch") else ".2f"
        mine = [run[key] for run in found["ours"]]
        if key not in found["peft"][0]:
            print(f"{key:46}{'':24}{harness.spread(mine, form):>24}")
            continue
        theirs = [run[key] for run in found["peft"]]
        row = f"{key:46}{harness.spread(theirs, form):>24}{harness.spread(mine, form):>24}"
        print(f"{row}{harness.ratio(mine, theirs):11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nf4", action="store_true", help="the base in NF4 (with double quantization) on both sides")
    parser.add_argument("--new", type=int, default=64, help="tokens a column")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--side", choices=["ours", "peft"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(harness.ROOT))
    if args.side:
        side(args)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        count = make(Path(name))
        found = take_turns(name, args)
    print(harness.machine("torch", "transformers", "peft", "bitsandbytes"))
    print(f"{count / 1e6:.0f} million parameters, {'nf4' if args.nf4 else 'fp32'}; {args.repeats} runs each")
    report(found)


if __name__ == "__main__":
    main()
