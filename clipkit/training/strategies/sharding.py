"""Shard an encoder with FSDP2, except for parts that are complete on every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from clipkit.errors import ConfigError
from clipkit.models import DualEncoder
from clipkit.models.towers.blocks import tower_blocks

_GATHERED_DTYPES: Final = {"bf16-mixed": torch.bfloat16}


def gathered_dtype(precision: str) -> torch.dtype | None:
    """Return the data type in which weights are gathered, or None for that of the weights.

    Under bf16-mixed, autocast would make bf16 copies of gathered fp32 weights and keep them for
    the backward pass: 90 % of a model, unsharded, on every rank. Weights that are gathered in bf16
    need no copy, and half the traffic.
    """
    return _GATHERED_DTYPES.get(precision)


def shard_encoder(encoder: DualEncoder, mesh: DeviceMesh, dtype: torch.dtype | None = None) -> None:
    """Shard the towers over the ranks of ``mesh``, block by block.

    A rank gathers one block at a time, and keeps only its part of weights, gradients and optimizer
    state. Parameters outside of the towers (scale, bias, label head) are small, and complete on
    every rank; ``reduce_whole_parameters`` keeps them equal.
    """
    for parameter in encoder.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 does not support channels-last weights
    inner, outer = MixedPrecisionPolicy(), MixedPrecisionPolicy()
    if dtype is not None:
        inner = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        outer = replace(inner, output_dtype=torch.float32)
    for tower in (encoder.image_tower, encoder.text_tower):
        for block in tower_blocks(tower):
            fully_shard(block, mesh=mesh, mp_policy=inner)
        fully_shard(tower, mesh=mesh, mp_policy=outer)


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


def full_tensor(tensor: Tensor) -> Tensor:
    """Gather the parts of a tensor from all ranks; all ranks call it."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def local_shard(tensor: Any, model: Tensor) -> Any:
    """Return this rank's part of a complete tensor."""
    if not isinstance(model, DTensor) or isinstance(tensor, DTensor):
        return tensor
    if isinstance(tensor, Tensor) and tensor.shape == model.shape:
        device = model.to_local().device
        return distribute_tensor(tensor.to(device), model.device_mesh, model.placements)
    return tensor


def shard_like(models: Mapping[str, Tensor], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Shard complete tensors, each as the one of that name among ``models``."""
    return {
        name: local_shard(tensor, models[name]) if name in models else tensor
        for name, tensor in tensors.items()
    }


def gradient_norm(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Compute the Euclidean norm of all gradients, including other ranks' shards."""
    norms = [
        full_tensor(torch.nn.utils.get_total_norm(gradients))
        for gradients in _by_kind(parameters)
        if gradients
    ]
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
