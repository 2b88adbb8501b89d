"""Shard an encoder with FSDP2, except for parts that are complete on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from clipkit.distributed.unsharded import on_end_of_unsharded
from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder
from clipkit.models.towers.blocks import tower_blocks
from clipkit.training.lightning_compat import resharding_of, set_resharding
from clipkit.training.strategies.gathering import own_rows

_GATHERED_DTYPES: Final = {"bf16-mixed": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class ShardingOptions:
    """What a rank holds of sharded towers, and where.

    Args:
        gathered_dtype: Data type in which weights are gathered; None for that of the weights.
        reshard_after_forward: Whether a block's gathered weights are freed between its forward and
            its backward pass; a number of ranks to keep them sharded over that many.
        cpu_offload: Whether weights, gradients and optimizer state are stored in the memory of the
            CPU, and each block is copied to the device when it runs.
    """

    gathered_dtype: torch.dtype | None = None
    reshard_after_forward: bool | int = True
    cpu_offload: bool = False

    def precision(self) -> MixedPrecisionPolicy:
        """Return the data types in which weights are gathered and gradients are reduced."""
        if self.gathered_dtype is None:
            return MixedPrecisionPolicy()
        return MixedPrecisionPolicy(param_dtype=self.gathered_dtype, reduce_dtype=torch.float32)

    def offload(self) -> OffloadPolicy:
        """Return where weights are stored; pinned memory needs a GPU."""
        if not self.cpu_offload:
            return OffloadPolicy()
        return CPUOffloadPolicy(pin_memory=torch.cuda.is_available())


def gathered_dtype(precision: str) -> torch.dtype | None:
    """Return the data type in which weights are gathered, or None for that of the weights.

    Under bf16-mixed, autocast would make bf16 copies of gathered fp32 weights and keep them for
    the backward pass: 90 % of a model, unsharded, on every rank. Weights that are gathered in bf16
    need no copy, and half the traffic.
    """
    return _GATHERED_DTYPES.get(precision)


def shard_encoder(
    encoder: TowerEncoder, mesh: DeviceMesh, options: ShardingOptions = ShardingOptions()
) -> None:
    """Shard the towers over the ranks of ``mesh``, block by block.

    A rank gathers one block at a time, and keeps only its part of weights, gradients and optimizer
    state. Parameters outside of the towers (scale, bias, label head) are small, and complete on
    every rank; ``reduce_whole_parameters`` keeps them equal.

    Args:
        encoder: Encoder with complete weights, the same ones on every rank.
        mesh: Ranks in one dimension; or in two, replicas times the ranks of a replica.
        options: What a rank holds, and where.
    """
    for parameter in encoder.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 does not support channels-last weights
    inner = options.precision()
    outer = inner if inner.param_dtype is None else replace(inner, output_dtype=torch.float32)
    shard = partial(fully_shard, mesh=mesh, offload_policy=options.offload())
    keeps = options.reshard_after_forward is False
    for tower in encoder.towers.values():
        for block in tower_blocks(tower):
            shard(block, mp_policy=inner, reshard_after_forward=options.reshard_after_forward)
            on_end_of_unsharded(block, partial(set_resharding, ranks=resharding_of(block)))
        # the backward pass begins with the outermost module: its weights stay gathered
        shard(tower, mp_policy=outer, reshard_after_forward=False if keeps else None)


def reduce_whole_parameters(module: nn.Module, mesh: DeviceMesh) -> None:
    """Average the gradients of parameters that are not sharded, as soon as they are computed."""
    group = mesh.get_group()

    def average(parameter: Tensor) -> None:
        assert parameter.grad is not None
        # gloo has no average
        dist.all_reduce(parameter.grad.div_(mesh.size()), group=group)

    for parameter in module.parameters():
        if not isinstance(parameter, DTensor) and parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(average)  # type: ignore[no-untyped-call]


def whole_to_device(module: nn.Module, device: torch.device) -> None:
    """Move parameters and buffers to a device, except for sharded parameters."""
    if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        module.to(device)
        return
    for parameter in module.parameters(recurse=False):
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))
    for child in module.children():
        whole_to_device(child, device)


def local_shard(tensor: Any, model: Tensor) -> Any:
    """Return this rank's part of a complete tensor, which every rank has."""
    if not isinstance(model, DTensor) or isinstance(tensor, DTensor):
        return tensor
    if isinstance(tensor, Tensor) and tensor.shape == model.shape:
        return own_rows(tensor, model)
    return tensor


def shard_like(models: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Shard complete tensors, each as the one of that name among ``models``."""
    return {
        name: local_shard(tensor, models[name]) if name in models else tensor
        for name, tensor in tensors.items()
    }


def gradient_norm(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Compute the Euclidean norm of all gradients, including other ranks' shards.

    It is on the device of the ranks, also if shards are stored on the CPU.
    """
    complete, sharded = _by_kind(parameters)
    norms = [torch.nn.utils.get_total_norm(complete)] if complete else []
    if sharded:
        norm = torch.nn.utils.get_total_norm(sharded)
        assert isinstance(norm, DTensor)
        norms.append(norm.full_tensor().to(norm.device_mesh.device_type))
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale all gradients so that their norm is at most ``max_norm``.

    ``torch.nn.utils.clip_grad_norm_`` supports sharded or complete parameters, but not both.
    """
    if not max_norm > 0:
        raise ConfigError(f"max_norm: expected more than 0, got {max_norm}")
    given = list(parameters)
    norm = gradient_norm(given)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradients in _by_kind(given):
        if gradients:
            local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
            torch._foreach_mul_(local, factor.to(local[0].device))


def _by_kind(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Separate the gradients of complete and of sharded parameters, for functions of torch."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded: list[Tensor] = [g for g in gradients if isinstance(g, DTensor)]
    return [gradient for gradient in gradients if not isinstance(gradient, DTensor)], sharded
