"""A frozen base whose layers are divided over the ranks (fully sharded, FSDP2), under an adapter that each holds whole.

    layer k:  a part on each rank --gather--> whole for its forward or backward pass --> freed again

Comes from: a `Loaded` in RAM with the adapter on it, and the `Ranks` that train together. Goes to: the same `Loaded`, on
this rank's device. `torch.distributed.fsdp.fully_shard` does the work, a unit for each decoder layer; embeddings, head and
what else stands outside the layers is whole on every rank, and so are the scales of 4-bit weights (bitsandbytes keeps
them beside the weight, and puts the two together again in the layer's forward pass). Frozen weights have no gradients to
reduce, and the adapter's are summed as without sharding (Zhao et al. 2023, arXiv:2304.11277, for the idea).

A layer is gathered by all ranks together, so all run the same number of passes, in the same order. A pass that breaks off
on one rank alone, where memory ran out, therefore ends the run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.errors import InputError, WorkFailed
from engine.models import fusing, loading
from engine.models.loaded import Loaded
from engine.tables import ModelTable
from engine.text import size
from engine.training.ranks import Ranks, Team


def divides(strategy: str, ranks: Ranks) -> bool:
    """Whether the base is divided with this `launch.strategy`: one process has nobody to share with."""
    return strategy == "fsdp" and ranks.count > 1


def shard(loaded: Loaded, table: ModelTable, ranks: Ranks, device: torch.device) -> None:
    """Divide the layers of a base from `loading.read`, with its adapter, and prove it as `loading.load` does.

    Args:
        device: of this rank.

    Raises:
        InputError: the base has no layers that can be divided, or is not supported otherwise; or the ranks differ.
        RankLost: see `Team`.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    assert isinstance(ranks, Team)
    layers = _layers(loaded)
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in loaded.causal.modules():
        if id(module) not in inside:
            _move(module, device)
            if not any(module.children()):  # the last norm
                fusing.fuse(module, device, loaded.dtype)
    mesh = init_device_mesh(device.type, (ranks.count,))
    loaded.causal.eval()
    for layer in layers:
        for module in layer.modules():
            _move(module, device)
        fusing.fuse(layer, device, loaded.dtype)
        trained = {p for p in layer.parameters() if p.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    decoder: Any = loaded.decoder
    fully_shard(decoder, mesh=mesh, ignored_params={p for p in decoder.parameters() if not _is_part(p)})
    gather = _gather(ranks)
    for layer in layers:
        layer.set_custom_all_gather(gather)
    _Passes(decoder)
    loaded.device, loaded.sharded = device, True
    loaded.agreed = lambda tokens: ranks.from_lead(lambda: tokens)
    loading.settle(loaded, table)
    _see_that_all_do_the_same(loaded, ranks)


def held_bytes(loaded: Loaded) -> tuple[int, int]:
    """Bytes of the base's weights that this rank holds between the layers' passes, and of the whole base."""
    here = whole = 0
    for parameter in loaded.causal.parameters():
        if not parameter.requires_grad:
            here += _local(parameter).nbytes
            whole += parameter.numel() * parameter.element_size()
    return here, whole


def words(loaded: Loaded) -> str:
    """What each process has of the base: for people."""
    here, whole = held_bytes(loaded)
    return f"the base's layers are divided (FSDP2): each process holds {size(here)} of its {size(whole)}"


def _local(parameter: Any) -> torch.Tensor:
    return parameter.to_local() if _is_part(parameter) else parameter


def _is_part(parameter: nn.Parameter) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _layers(loaded: Loaded) -> list[Any]:
    """The decoder layers: the modules that transformers keeps on one device (`_no_split_modules`).

    Raises:
        InputError: there are none, or two of them share a weight.
    """
    names = set(getattr(loaded.causal, "_no_split_modules", None) or ())
    found = [module for module in loaded.decoder.modules() if type(module).__name__ in names]
    owners: dict[int, int] = {}
    shared = any(owners.setdefault(id(p), n) != n for n, layer in enumerate(found) for p in layer.parameters())
    if not found or shared:
        why = "its layers share weights" if shared else "transformers does not say what its layers are"
        raise InputError(
            f'launch.strategy = "fsdp" cannot divide {type(loaded.causal).__name__}: {why}',
            where=loaded.location,
            remedy='use launch.strategy = "data"',
        )
    return found


def _move(module: nn.Module, device: torch.device) -> None:
    """Move what is a module's own, not its children's, keeping tied parameters tied and 4-bit weights with their scales."""
    from bitsandbytes.nn import Linear4bit

    for name, parameter in module._parameters.items():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.to(device)
        elif parameter is not None:
            module._parameters[name] = parameter.to(device)  # type: ignore[assignment]
    for name, buffer in module._buffers.items():
        module._buffers[name] = None if buffer is None else buffer.to(device)
    if isinstance(module, Linear4bit):
        state: Any = module.weight
        module.quant_state = state.quant_state  # what is left to the layer when its weight is divided


def _gather(team: Team) -> Any:
    """How FSDP2 gathers a layer: so that a rank that is lost meanwhile is noticed.

    Raises:
        InputError: this torch cannot be told to.
    """
    try:
        from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather
    except ImportError as error:
        problem = f'launch.strategy = "fsdp" was not made for torch {torch.__version__}'
        raise InputError(problem, remedy='use torch 2.13, or launch.strategy = "data"') from error

    class Gather(DefaultAllGather):
        def __call__(
            self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
        ) -> None:
            team.collect(output_tensor, input_tensor)

    return Gather()


class _Passes:
    """Sees that no pass follows one that broke off, after which the ranks would gather different layers."""

    def __init__(self, decoder: nn.Module) -> None:
        self._inside = False
        decoder.register_forward_pre_hook(self._begin, prepend=True)
        decoder.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        if self._inside:
            raise WorkFailed(
                "a pass through the divided base broke off on this rank, most likely because memory ran out",
                remedy="lower eval.batch_tokens or generate.max_new_tokens; "
                'where it was the first pass of all, try model.attention = "sdpa"',
            )
        self._inside = True

    def _end(self, *_: Any) -> None:
        self._inside = False


def _see_that_all_do_the_same(loaded: Loaded, ranks: Ranks) -> None:
    """What decides which passes there are, and how many, is to be the same for all ranks."""
    threads = torch.get_num_threads() if loaded.device.type == "cpu" else 0
    if len(set(ranks.gather([f"{loaded.route}, {threads} threads"]))) > 1:
        raise InputError(
            "the ranks would not compute alike: their threads or devices differ",
            remedy="set launch.threads, and use machines of one kind",
        )
