"""The same prompt to base and adapters on a GPU: our one batch against PEFT's generate, one model after the other.

Greedy, a prompt of 64 tokens, no end of text; tokens a second are those of all columns together. The text of each column
is compared with PEFT's: both compute in bfloat16, in another order, and part where two tokens are nearly as likely.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed import Facts, clear, load_ours, load_theirs, wait

PROMPT = 64


def write_adapters(folder: Path, loaded: Any, count: int) -> list[Path]:
    """Random adapters of `loaded`'s base in PEFT's layout, r 16 on all linear layers."""
    from safetensors.torch import save_file

    layers = [(n, m) for n, m in loaded.causal.named_modules() if hasattr(m, "in_features") and n != "lm_head"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "inference_mode": True}
    config["target_modules"] = sorted({n.rsplit(".", 1)[-1] for n, _ in layers})
    paths = []
    for number in range(count):
        draw = torch.Generator(loaded.device).manual_seed(number)
        normal = lambda *shape: torch.randn(shape, generator=draw, device=loaded.device).mul_(0.02).cpu()  # noqa: B023, E731
        tensors = {}
        for name, layer in layers:
            tensors[f"base_model.model.{name}.lora_A.weight"] = normal(16, layer.in_features)
            tensors[f"base_model.model.{name}.lora_B.weight"] = normal(layer.out_features, 16)
        path = folder / f"adapter-{number}"
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
        (path / "adapter_config.json").write_text(json.dumps(config))
        paths.append(path)
    return paths


def timed(work: Callable[[], Any], device: str, repeats: int) -> tuple[float, Any]:
    """Median seconds, and the last result; one run before is not counted."""
    work()
    seconds, result = [], None
    for _ in range(repeats):
        wait(device)
        started = time.perf_counter()
        result = work()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def compare(base: Path, folder: Path, quantization: str, device: str, tokens: int, repeats: int = 2) -> Facts:
    prompt = torch.randint(100, 300, (PROMPT,), generator=torch.Generator().manual_seed(1)).tolist()
    said: dict[str | None, tuple[int, ...]] = {}
    found, paths = _ours(base, folder, quantization, device, prompt, tokens, repeats, said)
    clear(device)
    return found | _peft(base, paths, quantization, device, prompt, tokens, repeats, said)


def _ours(
    base: Path, folder: Path, quantization: str, device: str, prompt: list[int], tokens: int, repeats: int,
    said: dict[str | None, tuple[int, ...]],
) -> tuple[Facts, list[Path]]:  # fmt: skip
    from engine.generation.answering import Settings
    from engine.generation.decoding import inference
    from engine.generation.together import compare as together
    from engine.models.lanes import lanes

    _, loaded, _ = load_ours(base, quantization, device)
    paths = write_adapters(folder, loaded, 3)
    names = [p.name for p in paths]
    for name, path in zip(names, paths, strict=True):
        loaded.load_adapter(name, path)
    digests, facts = {n: n for n in names}, {"quantization": quantization, "new tokens": tokens}

    def ask(models: list[str | None], count: int) -> Any:
        return together(loaded, models, prompt, Settings(count), digests)

    for models in ([None], [None, names[0]], [None, *names]):
        seconds, answers = timed(lambda m=models: ask(m, tokens), device, repeats)
        facts[f"ours {len(models)} columns tokens/s"] = len(models) * tokens / seconds
        said |= {a.model: a.answer.ids for a in answers}
        assert all(len(a.answer.ids) == tokens for a in answers)
        assert all(a.changed for a in answers if a.model)
    facts["ours first token of 2 columns ms"] = timed(lambda: ask([None, names[0]], 1), device, repeats)[0] * 1e3
    turn = iter(range(10**6))
    with inference(loaded), lanes(loaded) as assigned:
        switch = lambda: assigned.assign([names[next(turn) % 3]])  # noqa: E731
        facts["ours switch ms"] = timed(switch, device, 9)[0] * 1e3

    def through(name: str) -> None:
        with loaded.using(name):
            pass

    facts["ours using, in and out ms"] = timed(lambda: through(names[next(turn) % 3]), device, 5)[0] * 1e3
    return facts, paths


def _peft(
    base: Path, paths: list[Path], quantization: str, device: str, prompt: list[int], tokens: int, repeats: int,
    said: dict[str | None, tuple[int, ...]],
) -> Facts:  # fmt: skip
    from peft import PeftModel

    causal = load_theirs(base, quantization, device)
    model: Any = PeftModel.from_pretrained(causal, str(paths[0]), adapter_name=paths[0].name)
    for path in paths[1:]:
        model.load_adapter(str(path), adapter_name=path.name)
    model.eval()
    ids = torch.tensor([prompt], device=model.device)
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)

    @torch.no_grad()
    def one(name: str | None) -> tuple[int, ...]:
        if name is None:
            with model.disable_adapter():
                out = model.generate(input_ids=ids, **options)
        else:
            model.set_adapter(name)
            out = model.generate(input_ids=ids, **options)
        return tuple(out[0, len(prompt) :].tolist())

    names = [p.name for p in paths]
    found: Facts = {}
    agree = {}
    for models in ([None], [None, names[0]], [None, *names]):
        seconds, texts = timed(lambda m=models: [one(name) for name in m], device, repeats if len(models) < 3 else 1)
        found[f"PEFT {len(models)} columns, one after the other tokens/s"] = len(models) * tokens / seconds
        for name, text in zip(models, texts, strict=True):
            same = next((i for i, (a, b) in enumerate(zip(text, said[name], strict=True)) if a != b), tokens)
            agree[name or "base"] = same
    found["tokens until the texts part"] = agree
    mixed = {"adapter_names": ["__base__", *names]}
    with torch.no_grad():
        batch = {"input_ids": ids.repeat(4, 1)} | options | {"attention_mask": torch.ones_like(ids.repeat(4, 1))}
        seconds, _ = timed(lambda: model.generate(**batch, **mixed), device, 1)
    found["PEFT 4 columns, adapter_names tokens/s"] = 4 * tokens / seconds
    turn = iter(range(10**6))
    found["PEFT set_adapter ms"] = timed(lambda: model.set_adapter(names[next(turn) % 3]), device, 5)[0] * 1e3
    return found


def products(device: str) -> Facts:
    """Microseconds of one 4-bit layer of the 8B shape, 4096 -> 12288, for few rows: how decoding should compute it."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from torch.nn.functional import linear

    layer = Linear4bit(4096, 12288, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight.data = torch.randn(12288, 4096, dtype=torch.bfloat16) * 0.02
    layer = layer.to(device).eval()
    packed: Any = layer.weight
    dense = dequantize_4bit(packed.data, packed.quant_state)
    facts: Facts = {}
    with torch.no_grad():
        for rows in (1, 2, 4, 8, 64):
            x = torch.randn(rows, 1, 4096, device=device, dtype=torch.bfloat16)
            ways = {
                "bitsandbytes": lambda x=x: layer(x),
                "dequantized once": lambda x=x: linear(x, dense),
                "dequantized each time": lambda x=x: linear(x, dequantize_4bit(packed.data, packed.quant_state)),
            }
            for name, way in ways.items():
                many = lambda way=way: [way() for _ in range(20)]  # noqa: E731
                facts[f"{rows} rows, {name}"] = timed(many, device, 3)[0] / 20 * 1e6
    return facts
