"""What the engine promises, tried on the device: each check gives figures and says whether it holds.

The base is random, of 4 layers, with heads and widths as real ones have. Losses and gradients are compared with the slow
path: transformers' own attention, PEFT's own layers, a row at a time, cross entropy over all logits. In 16 bits two right
answers differ, so both are held against the slow path in fp32: ours may be off by as much as the slow path is, and half
as much again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from shapes import ROOT, rows_like_gsm8k, write_base
from speed import Facts, clear, load_ours, training_of

MEDIUM = {
    "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 140000, "max_position_embeddings": 2048,
}  # fmt: skip
FAMILIES = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "gemma2": {"model_type": "gemma2", "sliding_window": 64, "query_pre_attn_scalar": 64, "vocab_size": 30000},
    "mistral": {"model_type": "mistral", "sliding_window": 64, "tie_word_embeddings": False},
}
DEEP = {"model_type": "llama", "num_hidden_layers": 12, "vocab_size": 4000}
"""Most of its memory are activations, which smaller micro-batches save."""
ROWS = 6


def shake(parameters: list[tuple[str, Any]]) -> None:
    """The same numbers for every B, whatever PEFT is around it and whatever the device."""
    for name, p in sorted(parameters, key=lambda item: _own(item[0])):
        draw = torch.Generator().manual_seed(len(name) + p.numel())
        p.data.copy_(torch.randn(p.shape, generator=draw) * (0.02 if "lora_B" in name else 0.05))


def _own(name: str) -> str:
    return name.removeprefix("base_model.model.")


def slow(base: Path, quantization: str, device: str, dtype: torch.dtype) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient by transformers and PEFT alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    causal = AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, device_map={"": 0 if device == "cuda" else "cpu"},
        quantization_config=four_bit if quantization == "nf4" else None,
    )  # fmt: skip
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(causal, config)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for _, p in trained:
        p.data = p.data.float()
    shake([(_own(n), p) for n, p in trained])
    rows = rows_like_gsm8k(ROWS)
    denominator = sum(len(ids) - asked for ids, asked in rows)
    total = 0.0
    for ids, asked in rows:
        row = torch.from_numpy(ids).long().to(device)
        logits = model(input_ids=row[None], use_cache=False).logits[0, asked - 1 : -1]
        share = torch.nn.functional.cross_entropy(logits.float(), row[asked:], reduction="sum") / denominator
        share.backward()
        total += float(share.detach())
    return total, {_own(n): p.grad.detach().float().cpu() for n, p in trained}


def ours(base: Path, quantization: str, device: str, **train: Any) -> tuple[float, dict[str, torch.Tensor], Any]:
    """Loss and gradient as the loop takes them."""
    project, loaded, _ = load_ours(base, quantization, device, steps=1, examples_per_step=ROWS, **train)
    training = training_of(loaded, project, rows_like_gsm8k(ROWS))
    shake(loaded.parameters())
    return *gradient(training), training


def gradient(training: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loaded = training.loaded
    loaded.causal.train()
    denominator = float(sum(e.weights[1:].sum() for e in training.examples))
    total = float(training.backward(training.examples, denominator))
    found = {n: p.grad.detach().float().cpu() for n, p in loaded.parameters()}
    training.optimizer.zero_grad(set_to_none=True)
    return total, found


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over the norm of `b`, over all tensors."""
    assert a.keys() == b.keys(), sorted(a.keys() ^ b.keys())[:3]
    difference = sum(float((a[n] - b[n]).square().sum()) for n in b)
    return (difference / sum(float(t.square().sum()) for t in b.values())) ** 0.5


def numbers(folder: Path, device: str, family: str, quantization: str, **train: Any) -> Facts:
    """Loss and gradient of the loop against the slow path in the same dtype, both against the slow path in fp32."""
    base = folder / family
    exact_loss, exact = slow(base, quantization, device, torch.float32)
    plain_loss, plain = slow(base, quantization, device, torch.bfloat16)
    our_loss, our, training = ours(base, quantization, device, **train)
    facts: Facts = {
        "route": training.loaded.route,
        "products": 0 if device == "cpu" else len(training.products),
        "loss fp32": exact_loss,
        "loss slow": plain_loss,
        "loss ours": our_loss,
        "gradient off, slow": apart(plain, exact),
        "gradient off, ours": apart(our, exact),
        "gradient, ours to slow": apart(our, plain),
    }
    allowed = 1.5 * facts["gradient off, slow"] + 1e-6
    near = abs(our_loss - exact_loss) <= 1.5 * abs(plain_loss - exact_loss) + 2e-3 * exact_loss
    return facts | {"ok": bool(facts["gradient off, ours"] <= allowed and near)}


def still(folder: Path, device: str) -> Facts:
    """A 4-bit gradient before and after evaluation, generation and a checkpoint; and twice, for what chance does."""
    from engine.evaluation import scoring
    from engine.generation.answering import Settings, complete
    from engine.training import checkpoint, lora

    loss, before, training = ours(folder / "llama", "nf4", device)
    _, again = gradient(training)
    bits = {n: p.detach().clone() for n, p in training.loaded.causal.named_parameters() if not p.requires_grad}
    for name in (None, lora.NAME):
        with training.loaded.using(name):
            scoring.score(training.loaded, training.examples, scope="all", window=0, batch_tokens=4096)
            complete(training.loaded, [e.prompt_ids for e in training.examples], Settings(8))
    checkpoint.save(training.checkpoints, training.loaded, training.optimizer, training.progress, {})
    after_loss, after = gradient(training)
    now = dict(training.loaded.causal.named_parameters())
    same = all(torch.equal(now[n].detach(), t) for n, t in bits.items())
    facts = {"off when repeated": apart(again, before), "off afterwards": apart(after, before), "base bits same": same}
    near = facts["off afterwards"] <= 3 * facts["off when repeated"] + 1e-5
    return facts | {"loss": [loss, after_loss], "ok": bool(same and near)}


def run_to(training: Any, step: int) -> None:
    for _ in training.micro_batches():
        if training.progress.step >= step - 1:
            training.stop.asked = True


def resumed(folder: Path, device: str, optimizer: str) -> Facts:
    """Eight steps, and eight with a stop and a freshly loaded base after the fourth.

    FlashAttention's backward pass adds in an order of its own, unless deterministic kernels are asked for.
    """
    options = {"steps": 8, "examples_per_step": 2, "optimizer": optimizer, "learning_rate": 1e-3}
    results, losses = [], []
    strict = "CUBLAS_WORKSPACE_CONFIG" in os.environ  # ":4096:8", without which cuBLAS refuses
    torch.use_deterministic_algorithms(strict)
    for stop in (None, None, 4):
        project, loaded, _ = load_ours(folder / "llama", "nf4", device, **options)
        said: list[Any] = []
        training = training_of(loaded, project, rows_like_gsm8k(12), said.append)
        if stop is not None:
            run_to(training, stop)
            checkpoints = training.checkpoints
            project, loaded, _ = load_ours(folder / "llama", "nf4", device, **options)
            training = training_of(loaded, project, rows_like_gsm8k(12), said.append)
            training.checkpoints = checkpoints
            assert training.resume() == stop
        training.run()
        assert training.progress.step == 8
        losses.append([round(e.loss, 6) for e in said if hasattr(e, "loss")])
        results.append({n: p.detach().cpu() for n, p in loaded.parameters()})
    torch.use_deterministic_algorithms(False)
    chance, off = apart(results[1], results[0]), apart(results[2], results[0])
    right = off == 0.0 if strict or device == "cpu" else off <= 3 * chance + 1e-2
    return {"off when repeated": chance, "off when resumed": off, "losses": losses, "bits": strict, "ok": right}


def halving(folder: Path, device: str) -> Facts:
    """A step that does not fit is repeated in smaller micro-batches, to the same loss; events tell memory."""
    from engine import events

    if device != "cuda":
        return {"ok": True, "skipped": "needs a GPU"}
    losses, notes, peaks = [], [], []
    for limited in (False, True):
        options = {"steps": 3, "examples_per_step": 64, "micro_batch_tokens": 10**6}
        project, loaded, _ = load_ours(folder / "deep", "none", device, **options)
        said: list[Any] = []
        training = training_of(loaded, project, rows_like_gsm8k(64), said.append)
        clear(device)
        if limited:
            room = torch.cuda.memory_reserved() + (peaks[0] - torch.cuda.memory_allocated()) // 2
            torch.cuda.set_per_process_memory_fraction(room / torch.cuda.mem_get_info()[1])
        try:
            training.run()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        steps = [e for e in said if isinstance(e, events.Step)]
        losses.append([s.loss for s in steps])
        peaks.append(max(s.memory_bytes for s in steps))
        notes.append([e.text for e in said if isinstance(e, events.Note)])
    halved = any("out of memory" in n for n in notes[1]) and not notes[0]
    near = max(abs(a - b) for a, b in zip(*losses, strict=True)) < 2e-2
    return {"losses": losses, "notes": notes[1], "peak bytes in events": peaks, "ok": halved and near}


def sides(folder: Path, device: str) -> Facts:
    """Base and two adapters in one batch say what each says alone: first logits, and tokens until they part."""
    from sidebyside import write_adapters

    from engine.generation.answering import Settings, complete, next_logits
    from engine.generation.together import compare

    _, loaded, _ = load_ours(folder / "qwen3", "nf4", device)
    for path in write_adapters(Path(tempfile.mkdtemp()), loaded, 2):
        loaded.load_adapter(path.name, path)
    prompt, names = rows_like_gsm8k(1)[0][0].tolist(), [None, "adapter-0", "adapter-1"]
    answers = compare(loaded, names, prompt, Settings(32), {n: n for n in names if n})
    facts: Facts = {"ok": True}
    with loaded.using(None):
        base = next_logits(loaded, prompt)
    for name, answer in zip(names, answers, strict=True):
        with loaded.using(name):
            alone = complete(loaded, [prompt], Settings(32))[0].ids
            own = float((next_logits(loaded, prompt) - base).abs().max())
        pairs = enumerate(zip(alone, answer.answer.ids, strict=True))
        parted = next((i for i, (a, b) in pairs if a != b), len(alone))
        facts[name or "base"] = {"tokens until they part": parted, "told": answer.largest_logit_difference, "own": own}
        facts["ok"] &= bool(abs(answer.largest_logit_difference - own) <= 0.1 * own + 1e-3) and parted > 0
        facts["ok"] &= answer.changed == (name is not None)
    return facts


def rounding(device: str) -> Facts:
    """What 4 bits make of weights, on the CPU and here: merging rounds on the CPU what a GPU was trained on."""
    from engine.models.nf4 import FourBit, rounded

    weight = torch.randn(1024, 4096, generator=torch.Generator().manual_seed(0)) * 0.02
    here, there = (rounded(weight, FourBit(device=d)).float() for d in (device, "cpu"))
    different = float((here != there).float().mean())
    largest = float((here - there).abs().max() / there.abs().max())
    return {"share that differs": different, "largest, of the largest weight": largest, "ok": different < 1e-3}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def command(*arguments: str, allowed: tuple[int, ...] = (0,)) -> Any:
    """The JSON of a verb, run in this process, that ends with one of these codes."""
    from engine.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    code = 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([*arguments, "--json"])
        except SystemExit as ended:
            code = int(ended.code or 0)
    if code not in allowed:
        raise RuntimeError(f"{arguments}: {code}\n{out.getvalue()[-1500:]}\n{err.getvalue()[-1500:]}")
    lines = out.getvalue().strip().splitlines()
    return [json.loads(x) for x in lines] if arguments[0] == "train" else json.loads("\n".join(lines))


def verbs(device: str, steps: int) -> Facts:
    """The starter project through the command line: doctor, train, evaluate, generate, merge, both ways."""
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(ROOT / "data" / "word_problems", folder / "data" / "word_problems")
    (folder / "projects" / "starter").mkdir(parents=True)
    shutil.copy(ROOT / "projects" / "starter" / "project.toml", folder / "projects" / "starter")
    sets = ["--set", f"train.steps={steps}", "--set", "train.save_every=10", "--set", "eval.match_rows=32"]
    sets += ["--set", "train.sample_every=20", "--set", "train.evaluate_every=20", "--set", "eval.test_rows=100"]
    sets += ["--set", f'launch.device="{device}"']
    facts: Facts = {}
    with inside(folder):
        said = command("doctor", allowed=(0, 1))  # a package that no check needs may be missing
        found = {c["subject"]: f"{c['level']}: {c['text']}" for c in said["checks"]}
        facts["doctor"] = {k: v for k, v in found.items() if k.startswith(("gpu", "torch build", "4 bits"))}
        events = command("train", "starter", *sets)
        told = [e for e in events if e["kind"] == "step"]
        facts["device"] = next(e["device"] for e in events if e["kind"] == "started")
        facts["losses"] = [round(e["loss"], 4) for e in (told[0], told[-1])]
        facts["memory bytes in events"] = told[-1]["memory_bytes"]
        facts["seconds a step"] = sum(e["seconds"] for e in told[2:]) / len(told[2:])
        rows = command("eval", "starter", *sets)["rows"]
        names = ("model", "split", "scope", "perplexity", "exact_match")
        facts["eval"] = [{k: r[k] for k in names} for r in rows if r["scope"] == "completion"]
        asked = command("generate", "starter", "--prompt", "Tom has 3 apples and buys 4 more.", *sets[-2:])
        facts["generate"] = [a["text"][:80] for a in asked["prompts"][0]["answers"]]
        for way in ("original", "nf4"):
            merged = command("merge", "starter", "--base-weights", way, "--out", f"merged-{way}", *sets[-2:])
            facts[f"merge {way}"] = merged.get("verification", merged)
    better = {r["model"]: r["perplexity"] for r in facts["eval"] if r["split"] == "test"}
    shutil.rmtree(folder)
    base = better.pop("base")
    return facts | {"ok": all(p < base for p in better.values()) and bool(better)}


def all_checks(folder: Path, device: str, tiny: bool, only: str = "") -> dict[str, Facts]:
    from engine.models import kernels

    size = MEDIUM | ({"vocab_size": 2000, "hidden_size": 128, "intermediate_size": 256, "head_dim": 16} if tiny else {})
    write_base(folder / "deep", size | DEEP, device)
    for family, own in FAMILIES.items():
        small = {"vocab_size": 2000} if tiny else {}
        write_base(folder / family, size | own | small, device)
    wanted: dict[str, Callable[[], Facts]] = {}
    for family in FAMILIES:
        wanted[f"numbers {family} bf16"] = lambda f=family: numbers(folder, device, f, "none")
    for family in ("llama", "qwen3"):
        wanted[f"numbers {family} nf4"] = lambda f=family: numbers(folder, device, f, "nf4")
    wanted["numbers qwen3 nf4, activations recomputed"] = lambda: numbers(
        folder, device, "qwen3", "nf4", activation_checkpointing=True
    )
    wanted |= {
        "4-bit gradient stays": lambda: still(folder, device),
        "resume, adamw": lambda: resumed(folder, device, "adamw"),
        "out of memory": lambda: halving(folder, device),
        "side by side": lambda: sides(folder, device),
        "rounding": lambda: rounding(device),
        "verbs": lambda: verbs(device, 6 if tiny else 60),
    }
    if device == "cuda":
        wanted["kernels"] = lambda: {
            "ok": kernels.working(torch.device("cuda", 0)),
            "proved": kernels.proved(torch.device("cuda")),
        }
        wanted["resume, adamw_8bit"] = lambda: resumed(folder, device, "adamw_8bit")
    return {name: attempt(name, check) for name, check in wanted.items() if only in name}


def attempt(name: str, check: Callable[[], Facts]) -> Facts:
    """What a check found, or its failure; one that fails stops no other."""
    import time
    import traceback

    started = time.perf_counter()
    try:
        found = check()
    except Exception:
        found = {"ok": False, "failed": traceback.format_exc()[-3000:]}
    seconds = time.perf_counter() - started
    print(f"{'ok    ' if found['ok'] else 'WRONG '} {name} ({seconds:.1f} s)", flush=True)
    if not found["ok"]:
        print(json.dumps(found, indent=1, default=str)[-3000:].replace("\\n", "\n"), flush=True)
    return found | {"seconds": seconds}
