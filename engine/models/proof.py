"""What a loaded model has to show before it is used, on a few random tokens: its head, and the route of a flat batch.

Comes from: `loading.load`, with the attention implementation that transformers chose. Goes to: the same `Loaded`, its
head and route set. Its own forward pass is the reference: logits are to be a function of the last hidden states, and
an example is to get the same ones whatever stands before it in a batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from engine.errors import InputError
from engine.models import attention, ending
from engine.models.loaded import Loaded
from engine.models.loss import Head
from engine.tokens.examples import Example, collate

GROSS = 0.3
"""Relative error above which padded rows are wrong and not merely rounded (experts may be chosen by the last bit)."""


def prove(loaded: Loaded, varlen: bool) -> None:
    """Set the head that gives the model's own logits, and the route: "varlen" where asked and correct, else "padded".

    Raises:
        InputError: the architecture is not one that can be used here.
    """
    was_training = loaded.causal.training
    loaded.causal.eval()
    generator = np.random.default_rng(0)
    size = min(loaded.causal.get_input_embeddings().weight.shape[0], 1000)
    a, b, x = (generator.integers(size, size=n) for n in (9, 9, 7))
    with torch.no_grad():
        alone, logits = _ordinary(loaded, x)
        loaded.head = _head(loaded, alone, logits)
        loaded.last_mlp = _last_mlp(loaded, x, alone)
        far = _varlen_error(loaded, a, b, x, alone) if varlen else math.inf
        if far > _tolerance(loaded):
            chance = _error(_hidden(loaded, [x, b])[: len(x)], alone)
            if far > min(2 * chance, GROSS):
                if chance > GROSS:
                    raise _unsupported(loaded, "padding at the right of a row changes what stands before it")
                varlen = False
        if varlen:
            loaded.causal.set_attn_implementation(attention.NAME)
            loaded.route = attention.NAME
    loaded.causal.train(was_training)


def _ordinary(loaded: Loaded, ids: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of a single text by the model as transformers runs it, and its logits."""
    try:
        decoder = loaded.decoder
    except AttributeError as error:
        raise _unsupported(loaded, "it has no part that ends before its head") from error
    hidden: list[torch.Tensor] = []
    listening = decoder.register_forward_hook(lambda module, given, out: hidden.append(out.last_hidden_state[0]))
    try:
        out = loaded.causal(input_ids=torch.from_numpy(ids)[None].to(loaded.device), use_cache=False)
    finally:
        listening.remove()
    if len(hidden) != 1:
        raise _unsupported(loaded, "the part before its head does not end once in a pass")
    return hidden[0], out.logits[0]


def _hidden(loaded: Loaded, documents: list[np.ndarray]) -> torch.Tensor:
    return loaded.hidden(collate([Example(d, np.ones(len(d), np.float32)) for d in documents]))


def _head(loaded: Loaded, hidden: torch.Tensor, logits: torch.Tensor) -> Head:
    """The one of the known heads that is nearest to the model's logits."""
    plain = Head(loaded.plain_head, logits.shape[-1], loaded.head_matrix)
    heads = [plain, Head(loaded.scaled_head, logits.shape[-1])]
    errors = [_error(head(hidden), logits) for head in heads]
    if min(errors) > _tolerance(loaded):
        raise _unsupported(loaded, "its logits are not a function of its last hidden states that is known here")
    return heads[errors.index(min(errors))]


def _varlen_error(loaded: Loaded, a: np.ndarray, b: np.ndarray, x: np.ndarray, alone: torch.Tensor) -> float:
    """How far the hidden states of `x` after `a` by the route "varlen" are from those alone; infinite where it is of no
    use: after `b` they are others, or a window does not reach the attention. All stays as it was.

    `a` and `b` are of one length, so that the same kernels run and rounding hides nothing. Alone, others do: in 16 bits,
    many layers deep, right answers lie apart by as much as padded rows do by chance. Windows are larger than these texts:
    they only have to reach the attention layers.
    """
    causal = loaded.causal
    before, route = causal.config._attn_implementation, loaded.route
    if not causal._can_set_attn_implementation():
        return math.inf
    causal.set_attn_implementation(attention.NAME)
    loaded.route = attention.NAME
    try:
        with attention.watch_windows() as windows:
            after_a, after_b = (_hidden(loaded, [first, x, first])[len(first) :][: len(x)] for first in (a, b))
        same = _error(after_b, after_a) <= _tolerance(loaded) and windows.masked == windows.attended
        return _error(after_a, alone) if same else math.inf
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
        return math.inf  # an architecture that does not pass segments on, or cannot do without a mask
    finally:
        causal.set_attn_implementation(before)
        loaded.route = route


def _last_mlp(loaded: Loaded, ids: np.ndarray, alone: torch.Tensor) -> torch.nn.Module | None:
    """That of the last layer, on a CPU, where leaving it out of other positions changes nothing at those that are asked:
    the hidden states of a text of `ids` are then those that it has alone."""
    mlp = ending.last_mlp(loaded.decoder) if loaded.device.type == "cpu" else None
    if mlp is None:
        return None
    places = torch.tensor([1, 2, 5])
    try:
        with ending.only(mlp, places[None], len(ids)):
            found, _ = _ordinary(loaded, ids)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):  # it takes or gives more than one tensor
        return None
    return mlp if _error(found[places], alone[places]) <= _tolerance(loaded) else None


def _tolerance(loaded: Loaded) -> float:
    """Relative to the largest value. int8 rounds inputs, too, and differently with what is in the batch."""
    if loaded.quantization == "int8":
        return 0.1
    return 1e-3 if loaded.dtype == torch.float32 else 0.05


def _error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest value; infinite where something is not a number."""
    error = float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp_min(1e-6))
    return error if error == error else float("inf")


def _unsupported(loaded: Loaded, problem: str) -> InputError:
    return InputError(
        f"{type(loaded.causal).__name__} is not supported: {problem}",
        where=loaded.location,
        remedy="choose a base of another architecture",
    )
