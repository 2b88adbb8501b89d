"""Gather sharded tensors on the first rank alone, and cut complete ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def gather_to_first(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with complete tensors on the CPU of the first rank; on others an empty dict.

    All ranks call it, with the same names in the same order. One tensor is gathered at a time, so
    that other ranks hold nothing but their shards, and the device of the first one a tensor.

    Args:
        values: Tensors, sharded by rows or complete, and other values.
    """
    is_first = not dist.is_initialized() or dist.get_rank() == 0
    gathered = {}
    for name, value in values.items():
        if isinstance(value, DTensor):
            complete: Any = _gather(value)
        else:
            complete = value.detach().cpu() if isinstance(value, Tensor) else value
        if is_first:
            gathered[name] = complete
    return gathered


def own_rows(tensor: Shaped[Tensor, "..."], model: DTensor) -> DTensor:
    """Copy this rank's rows of a complete tensor, sharded as ``model``; nothing is exchanged.

    Of a tensor that is mapped from a file, only these rows are read.
    """
    dim, coordinate = _sharded_dim(model)
    largest = -(-tensor.shape[0] // model.device_mesh.size(dim))
    start = min(coordinate[dim] * largest, tensor.shape[0])
    rows = tensor.detach()[start : start + largest].to(model.to_local().device, copy=True)
    return DTensor.from_local(
        rows.contiguous(), model.device_mesh, model.placements, run_check=False,
        shape=model.shape, stride=model.stride(),
    )  # fmt: skip


@torch.no_grad()
def _gather(tensor: DTensor) -> Shaped[Tensor, "..."] | None:
    """Gather the rows of a tensor on the first rank, which holds the first rows of a replica."""
    mesh = tensor.device_mesh
    dim, coordinate = _sharded_dim(tensor)
    if any(position for other, position in enumerate(coordinate) if other != dim):
        return None  # of another replica
    own, num_ranks = tensor.to_local(), mesh.size(dim)
    largest = -(-tensor.shape[0] // num_ranks)
    padding = [0, 0] * (own.ndim - 1) + [0, largest - own.shape[0]]
    own = F.pad(own, padding).contiguous()
    is_first = coordinate[dim] == 0
    parts = [torch.empty_like(own) for _ in range(num_ranks)] if is_first else None
    dist.gather(
        own, parts, dst=dist.get_global_rank(mesh.get_group(dim), 0), group=mesh.get_group(dim)
    )
    return None if parts is None else torch.cat([p.cpu() for p in parts])[: tensor.shape[0]]


def _sharded_dim(tensor: DTensor) -> tuple[int, Sequence[int]]:
    """Return the dimension of the mesh that shards the rows, and this rank's coordinate."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "every rank is in the mesh"
    sharded = [dim for dim, placement in enumerate(tensor.placements) if placement == Shard(0)]
    assert len(sharded) == 1, f"expected rows to be sharded once, got {tensor.placements}"
    return sharded[0], coordinate
