"""Shard an encoder whose weights the first rank alone has, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from clipkit.distributed.agreement import of_first_rank, same_errors
from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder
from clipkit.training.strategies.sharding import ShardingOptions, shard_encoder

Signature = list[tuple[str, tuple[int, ...], str]]
"""Name, shape and type of each parameter and buffer."""


def shard_from_first_rank(
    encoder: TowerEncoder, mesh: DeviceMesh, options: ShardingOptions, device: torch.device
) -> None:
    """Shard an encoder of which all ranks, or the first one alone, have the weights.

    Ranks without weights (``structure_only``) hold one complete tensor at a time, the first rank
    its complete weights in the memory of the CPU until they are distributed. The result is bit for
    bit that of complete weights on every rank.

    Args:
        encoder: Encoder of the same structure on every rank; its parameters are replaced.
        mesh: Ranks in one dimension; or in two, replicas times the ranks of a replica.
        options: What a rank holds, and where.
        device: Device on which this rank exchanges tensors.

    Raises:
        ConfigError: If the first rank has no weights, ranks have different structures, or two names
            share a weight.
    """
    without = [any(tensor.is_meta for _, tensor in _tensors(encoder))]
    everyone: list[list[bool]] = [without] * mesh.size()
    dist.all_gather_object(everyone, without)
    if not any(rank for (rank,) in everyone):
        shard_encoder(encoder, mesh, options)
        return
    if everyone[0][0]:
        raise ConfigError(
            "model.encoder: expected weights on the first rank, got a structure without weights; "
            "use structure_only() on other ranks alone"
        )
    _check_structure(encoder)
    complete = dict(_tensors(encoder)) if dist.get_rank() == 0 else {}
    _drop_weights(encoder)
    shard_encoder(encoder, mesh, options)
    encoder.to_empty(device="cpu" if options.cpu_offload else device)
    for name, tensor in _tensors(encoder):
        _distribute(complete.pop(name, None), tensor, device)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    buffers = module.named_buffers(remove_duplicate=False)  # each name gets memory of its own
    for name, tensor in chain(module.named_parameters(), buffers):
        yield name, tensor.detach()


def _tensors_outside(module: nn.Module) -> list[str]:
    """Return the names of attributes without weights that are neither parameters nor buffers."""
    return [
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor) and value.is_meta
    ]


def _check_structure(encoder: nn.Module) -> None:
    """Refuse ranks that differ, which would wait for each other or exchange wrong tensors."""
    own: Signature = [(n, tuple(t.shape), str(t.dtype)) for n, t in _tensors(encoder)]
    names = [name for name, _ in encoder.named_parameters(remove_duplicate=False)]
    shared = sorted(set(names) - {name for name, _ in encoder.named_parameters()})
    first = of_first_rank(lambda: own)
    outside = _tensors_outside(encoder)
    with same_errors():
        if outside:
            raise ConfigError(
                f"model.encoder: {outside[0]} is a tensor outside of parameters and buffers, which "
                f"a model without weights cannot have; register it as a buffer"
            )
        if shared:
            raise ConfigError(
                f"model.encoder: {shared[0]} shares its weight with another name, which a model "
                f"without weights cannot; build it with weights on every rank"
            )
        if own != first:
            differing = next((n for n, _, _ in [*own, *first] if not _agree(n, own, first)), "?")
            raise ConfigError(
                f"model.encoder: expected the first rank's structure on every rank, but "
                f"{differing} differs; build the same encoder on every rank"
            )


def _agree(name: str, own: Signature, first: Signature) -> bool:
    mine, theirs = ([entry for entry in some if entry[0] == name] for some in (own, first))
    return mine == theirs


def _drop_weights(module: nn.Module) -> None:
    """Replace parameters and buffers by ones without memory."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            empty = torch.empty_like(parameter, device="meta")
            setattr(part, name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty_like(buffer, device="meta"))


@torch.no_grad()
def _distribute(complete: Tensor | None, target: Tensor, device: torch.device) -> None:
    """Copy the first rank's tensor to every rank, or each rank's part of it."""
    if complete is None:
        complete = torch.empty(target.shape, dtype=target.dtype, device=device)
    complete = complete.to(device).contiguous()
    if isinstance(target, DTensor):
        part = distribute_tensor(complete, target.device_mesh, target.placements)
        target.to_local().copy_(part.to_local())
    else:
        dist.broadcast(complete, 0)
        target.copy_(complete)
