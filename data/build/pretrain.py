"""Pre-train the starter base model: data/starter/ from nothing but the generator in `corpus`.

    python -m data.build.pretrain [--compile] [--out data/starter]

Trains a byte-level BPE tokenizer (every digit its own token) and a Llama-architecture model of 5.1 million parameters
in bf16 autocast: Muon (Jordan et al. 2024, as in torch.optim.Muon) on the matrices of the blocks, AdamW on the rest, warm-up
then linear decay to zero. Two phases, each from what the one before stored: `corpus.document`, then
`corpus.rounded_off`, which adds the signs that prose lacks. A seed fixes data and initial weights; floating-point sums
differ between machines, so a rebuild is a model of the same quality, not of the same bits. CHECKSUM names the build that
is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.build.corpus import Turn, document, rounded_off

ROOT = Path(__file__).resolve().parents[1]
BOS, EOS, PAD, START, END = "<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of pre-training."""

    name: str
    steps: int
    learning_rate: float
    make: Callable[[Random], str | list[Turn]]
    dropout: float = 0.0
    """BPE dropout (Provilkov et al. 2020, arXiv:1910.13267) of every second stretch of documents: without it, tokens that
    are only steps on the way to longer ones would never be met, and could not be told apart in a user's text."""


PHASES = (Phase("prose", 3600, 4e-3, document), Phase("signs", 450, 2e-3, rounded_off, dropout=0.2))


def text_of(made: str | list[tuple[str, str]]) -> str:
    """A document as it is tokenised, without the BOS that the tokenizer adds; the chat template's form for a talk."""
    if isinstance(made, str):
        return made + EOS
    return "".join(f"{START}{role}\n{text}{END}\n" for role, text in made) + EOS


def train_tokenizer(seed: int, vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """Byte-level BPE on 40,000 documents; digits are never merged; adds one BOS."""
    rng = Random(f"{seed}:tokenizer")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = (
        text.replace(START, "").replace(END, "").replace(EOS, "")
        for text in (text_of(document(rng)) for _ in range(40_000))
    )
    tokenizer.train_from_iterator(plain, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A {BOS} $B",
                special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens=[START, END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained model. Every width is a multiple of 64, which NF4 kernels on a CPU ask for."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def blocks(
    tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int, rows: int, length: int
) -> Iterator[torch.Tensor]:
    """Endless batches of token ids, (rows, length + 1): documents one after the other, cut into blocks."""
    rng = Random(f"{seed}:{'corpus' if phase is PHASES[0] else phase.name}")
    buffer: list[int] = []
    need, bpe = rows * (length + 1), tokenizer.backend_tokenizer.model
    while True:
        while len(buffer) < need:
            bpe.dropout = phase.dropout if phase.dropout and rng.random() < 0.5 else None
            encoded = tokenizer.backend_tokenizer.encode_batch([text_of(phase.make(rng)) for _ in range(256)])
            for item in encoded:
                buffer.extend(item.ids)
        yield torch.tensor(buffer[:need]).view(rows, length + 1)
        del buffer[:need]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, note: dict[str, object]) -> None:
    """Write the model in bf16 with its tokenizer, and CHECKSUM, the SHA-256 of its weights."""
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END)]
    clone = LlamaForCausalLM(model.config).to(torch.bfloat16)
    clone.load_state_dict(model.state_dict())
    clone.generation_config = model.generation_config
    clone.save_pretrained(out)
    tokenizer.save_pretrained(out)
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    (out / "CHECKSUM").write_text(f"{digest}  model.safetensors\n", encoding="utf-8")
    (out / "build.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase, args: argparse.Namespace) -> float:
    """Train for one phase; returns the running loss at its end, nats a token."""
    if args.compile:
        for layer in model.model.layers:
            layer.compile()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=phase.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=phase.learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    started, shown = time.monotonic(), 0.0
    data = blocks(tokenizer, phase, args.seed, args.rows, args.length)
    for step in range(phase.steps):
        fraction = min((step + 1) / 100, 1.0) * min(1.0, (phase.steps - step) / (0.7 * phase.steps))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate * fraction
        ids = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        shown = loss.item() if step == 0 else 0.95 * shown + 0.05 * loss.item()
        if (step + 1) % 20 == 0:
            seconds = time.monotonic() - started
            rate = (step + 1) * args.rows * args.length / seconds
            place = f"{phase.name}: step {step + 1}/{phase.steps}"
            print(f"{place}  loss {shown:.4f}  {rate:,.0f} tokens/s  {seconds:,.0f} s", flush=True)
    return shown


def main() -> None:
    names = [phase.name for phase in PHASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from-phase", choices=names, default=names[0], help="go on from what is stored in --out")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks (needs a C++ compiler)")
    parser.add_argument("--out", type=Path, default=ROOT / "starter")
    args = parser.parse_args()

    for phase in PHASES[names.index(args.from_phase) :]:
        if phase is PHASES[0]:
            tokenizer = train_tokenizer(args.seed)
            model = new_model(tokenizer, args.seed)
        else:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
            model = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32, attn_implementation="eager")
            model.train()
        total = sum(p.numel() for p in model.parameters())
        print(f"{total / 1e6:.2f} million parameters, vocabulary {len(tokenizer)}", flush=True)
        loss = train(model, tokenizer, phase, args)
        tokenizer.backend_tokenizer.model.dropout = None
        note = {"seed": args.seed, "parameters": total, "tokens_per_step": args.rows * args.length}
        note["steps"] = {p.name: p.steps for p in PHASES[: names.index(phase.name) + 1]}
        save(model, tokenizer, args.out, {**note, "loss": round(loss, 4)})


if __name__ == "__main__":
    main()
