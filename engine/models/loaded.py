"""A base model in memory: flat batches through it, adapters on it.

Comes from: `loading`. Goes to: training, evaluation and generation, as one `Loaded`, which knows how to turn a flat
batch into hidden states on this architecture. `switching` puts stored adapters on it and takes them off.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.errors import InputError
from engine.models import attention, ending, switching
from engine.models.blocked import Blocked
from engine.models.loss import Head, token_nll
from engine.tokens.examples import Batch


@dataclass
class Loaded:
    """A base model in memory, with any number of adapters.

    Attributes:
        causal: the transformers model (with LoRA layers inside once an adapter is attached).
        peft: the PeftModel around it, or None while there is no adapter.
        names: of the attached adapters, and what PEFT calls each.
        route: "varlen" (examples end to end) or "padded" (a row each); see `proof`.
        head: hidden states -> logits, the model's own scaling and capping included.
        last_mlp: the MLP of the last layer where it can be left out for positions that nobody asks for; see `ending`.
        blocked: what its linear layers multiply with where there are no gradients; see `multiplying`.
        recomputes: activations inside layers are made again in the backward pass.
        base_changed: an adapter's initialisation took something out of the base's weights.
        sharded: this process holds a part of each layer (see `training.sharding`): every pass is run by all ranks.
        agreed: tokens chosen here -> those that all ranks go on with.
    """

    causal: Any
    tokenizer: Any
    location: str
    device: torch.device
    dtype: torch.dtype
    quantization: str
    route: str = "padded"
    head: Head = field(init=False)
    last_mlp: nn.Module | None = None
    blocked: Blocked = field(init=False)
    peft: Any = None
    names: dict[str, str] = field(default_factory=dict)
    recomputes: bool = False
    base_changed: bool = False
    sharded: bool = False
    agreed: Callable[[list[int]], list[int]] = list
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.blocked = Blocked(self.causal)

    @property
    def decoder(self) -> nn.Module:
        """The model without its head."""
        return getattr(self.causal, self.causal.base_model_prefix)

    @property
    def limit(self) -> int | None:
        """Longest context of the model in tokens, where its config says."""
        config = self.causal.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Last hidden states of a flat batch, (T, width), whatever route the architecture takes."""
        ids = torch.from_numpy(batch.ids).to(self.device)
        positions = torch.from_numpy(batch.positions).to(self.device)
        if self.route == attention.NAME:
            with attention.segmented():
                out = self.decoder(
                    input_ids=ids[None], position_ids=positions[None], use_cache=False, segments=batch.segments
                )
            return out.last_hidden_state[0]
        rows, longest = len(batch.segments), max(batch.segments)
        # Causal attention never looks right, so padding at the right needs no mask.
        padded = ids.new_zeros(rows, longest)
        inside = torch.arange(longest)[None] < torch.tensor(batch.segments)[:, None]
        inside = inside.to(self.device)
        padded[inside] = ids
        return self.decoder(input_ids=padded, use_cache=False).last_hidden_state[inside]

    def multiplying(self) -> contextlib.AbstractContextManager[None]:
        """While in the block the base's products are quick ones, without gradients, where the device is a CPU."""
        return contextlib.nullcontext() if self.sharded else self.blocked.multiplying()

    def nll(self, batch: Batch) -> torch.Tensor:
        """-log p of the targets that have a weight, in nats: (batch.supervised,) float32.

        Other positions are never projected, and the last layer leaves out of them what it can.
        """
        places = torch.from_numpy(np.flatnonzero(batch.weights)).to(self.device)
        mlp = self.last_mlp
        if self.route != attention.NAME or (self.recomputes and torch.is_grad_enabled()):
            mlp = None
        with ending.only(mlp, places[None], len(batch.ids)):
            hidden = self.hidden(batch)[places]
        return token_nll(hidden, torch.from_numpy(batch.targets).to(self.device)[places], self.head)

    def summed(self, batch: Batch) -> torch.Tensor:
        """Sum over the targets of weight * -log p(target): a scalar in nats, 0 with a graph where none has a weight."""
        if not batch.supervised:
            return self.hidden(batch).sum().float() * 0.0
        weights = torch.from_numpy(batch.weights[batch.weights != 0]).to(self.device)
        return (self.nll(batch) * weights).sum()

    def recompute_activations(self) -> None:
        """Keep no activations inside layers for the backward pass.

        Raises:
            InputError: transformers does not offer that for this architecture.
        """
        try:
            self.causal.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise InputError(
                "train.activation_checkpointing: not possible on this base", where=self.location
            ) from error
        self.recomputes = True

    def keep_activations(self) -> None:
        """The opposite of `recompute_activations`."""
        if self.recomputes:
            self.causal.gradient_checkpointing_disable()
            self.recomputes = False

    def plain_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The output embeddings alone."""
        return self.causal.get_output_embeddings()(hidden)

    def head_matrix(self) -> torch.Tensor | None:
        """The output embeddings' weight, (vocabulary, width), where they are a frozen matrix and nothing more."""
        layer = self.causal.get_output_embeddings()
        plain = type(layer) is nn.Linear and layer.bias is None and not layer.weight.requires_grad
        return layer.weight if plain else None

    def scaled_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """The head with the scalings that some families put around it (Gemma 2, Granite, Cohere, Falcon-H1)."""
        config = self.causal.config.get_text_config()
        logits = self.plain_head(hidden)
        logits = logits * getattr(config, "logit_scale", 1.0) * getattr(config, "lm_head_multiplier", 1.0)
        logits = logits / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that are attached."""
        return list(self.names)

    def load_adapter(self, name: str, path: Path) -> None:
        """Attach a stored adapter for inference; the base is not touched.

        Raises:
            InputError: there is one of this name, the folder is damaged, or its tensors are not those of an adapter of
                this base; nothing has changed.
        """
        if name in self.names:
            raise InputError(f"an adapter called {name!r} is attached already", where=str(path))
        key = f"stored-{next(self._numbers)}"
        self.peft = switching.attach_stored(self.causal, self.peft, key, path)
        self.names[name] = key

    def unload_adapter(self, name: str) -> None:
        """Take a stored adapter off, and free its memory; the base and what is trained are not touched.

        Raises:
            KeyError: there is none of this name.
        """
        key = self.names.pop(name)
        if self.names:
            switching.detach(self.peft, key)
        else:
            self.causal = self.peft.unload()
            vars(self.causal).pop("peft_config", None)
            self.peft = None

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """While in the block the weights are those of adapter `name`, or of the untouched base (None).

        Afterwards the adapter that was active is so again, and what was trainable is.

        Raises:
            KeyError: there is no such adapter.
            InputError: the base's weights were changed by the initialisation of the adapter in training.
        """
        if name is None and self.base_changed:
            remedy = "load the base and the finished adapter to compare them"
            raise InputError("the base is not there: lora.init has moved a part of it into the adapter", remedy=remedy)
        key = None if name is None else self.names[name]
        if self.peft is None:
            yield
        else:
            with switching.using(self.peft, key):
                yield

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Trainable parameters by name."""
        return [(n, p) for n, p in self.causal.named_parameters() if p.requires_grad]
