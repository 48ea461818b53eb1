"""Pre-train the starter base model: data/starter/ from nothing but the generator in `corpus`.

    python -m data.build.pretrain [--steps 3000] [--out data/starter]

Trains a byte-level BPE tokenizer (every digit its own token) and a Llama-architecture model of 5.3 million parameters
in bf16 autocast: Muon (Jordan et al. 2024, as in torch.optim.Muon) on the matrices of the blocks, AdamW on the rest, warm-up
then linear decay to zero. A seed fixes data and initial weights; floating-point sums differ between machines, so
a rebuild is a model of the same quality, not of the same bits. CHECKSUM names the build that is shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.build.corpus import document

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


def blocks(tokenizer: PreTrainedTokenizerFast, seed: int, rows: int, length: int) -> Iterator[torch.Tensor]:
    """Endless batches of token ids, (rows, length + 1): documents one after the other, cut into blocks."""
    rng = Random(f"{seed}:corpus")
    buffer: list[int] = []
    need = rows * (length + 1)
    while True:
        while len(buffer) < need:
            encoded = tokenizer.backend_tokenizer.encode_batch([text_of(document(rng)) for _ in range(256)])
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--save-every", type=int, default=300)
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks (needs a C++ compiler)")
    parser.add_argument("--out", type=Path, default=ROOT / "starter")
    args = parser.parse_args()

    tokenizer = train_tokenizer(args.seed)
    model = new_model(tokenizer, args.seed)
    if args.compile:
        for layer in model.model.layers:
            layer.compile()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=args.learning_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=args.learning_rate, weight_decay=0.0, betas=(0.9, 0.95)),
    ]
    total = sum(p.numel() for p in model.parameters())
    print(f"{total / 1e6:.2f} million parameters, vocabulary {len(tokenizer)}", flush=True)

    started, shown = time.monotonic(), 0.0
    data = blocks(tokenizer, args.seed, args.rows, args.length)
    note = {"seed": args.seed, "steps": args.steps, "tokens_per_step": args.rows * args.length, "parameters": total}
    for step in range(args.steps):
        fraction = min((step + 1) / 100, 1.0) * max(0.0, min(1.0, (args.steps - step) / (0.7 * args.steps)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * fraction
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
            print(f"step {step + 1}/{args.steps}  loss {shown:.4f}  {rate:,.0f} tokens/s  {seconds:,.0f} s", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            save(model, tokenizer, args.out, {**note, "steps_done": step + 1, "loss": round(shown, 4)})


if __name__ == "__main__":
    main()
