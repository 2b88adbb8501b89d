"""Estimate memory and communication of a step before it runs."""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipkit.models import SignalTower, TowerEncoder
from clipkit.training.preflight.alone import Alone, ExchangeRefusedError
from clipkit.types import Batch, Embeddings

_FLOAT_BYTES: Final = 4
_COLORS: Final = 3
_FEW, _MORE = 2, 4
"""Batch sizes of the two forward passes that measure activations."""


def activation_bytes(encoder: TowerEncoder, num_tokens: int | None) -> int | None:
    """Measure the bytes per pair that the forward pass keeps for the backward pass.

    Two small batches of artificial pairs are embedded, and the difference is taken. Neither the
    random numbers of the run nor running statistics change. One rank may call this alone. The
    fusion of a ``JointEncoder`` runs in its terms and is not included.

    Returns:
        Bytes per pair; None if the forward pass exchanges something between ranks.
    """
    try:
        few, more = (_kept_bytes(encoder, size, num_tokens) for size in (_FEW, _MORE))
    except ExchangeRefusedError:
        return None
    return max(0, (more - few) // (_MORE - _FEW))


@final
class _Pass(nn.Module):
    """The forward pass, with the classes that a label head has already.

    ``TowerEncoder.forward`` may compute prototypes of classes, which are those of all ranks.
    """

    def __init__(self, encoder: TowerEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, batch: Batch) -> tuple[Embeddings, list[Tensor]]:
        """Embed pairs, and score the classes."""
        embeddings = self.encoder.embed(batch)
        features = {"image": embeddings.image_features, **(embeddings.head_features or {})}
        heads = self.encoder.heads.items()
        return embeddings, [
            head(rows) for n, head in heads if (rows := features.get(n)) is not None
        ]


def _kept_bytes(encoder: TowerEncoder, batch_size: int, num_tokens: int | None) -> int:
    device = encoder.log_logit_scale.device
    batch = encoder.example_batch(batch_size, num_tokens)
    measured = _Pass(encoder)
    buffers = {name: value.clone() for name, value in measured.named_buffers()}
    devices = [device] if device.type == "cuda" else []
    allocations = _Allocations()
    with torch.random.fork_rng(devices), torch.enable_grad(), Alone(), allocations:
        results = torch.func.functional_call(measured, buffers, (batch,))
        kept = allocations.bytes_in_use([*encoder.parameters(), *batch.tensors()])
    del results
    return kept


@final
class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the memory that operations allocate, to tell what is still in use afterwards.

    Saved tensors alone would miss what activation checkpointing keeps: it holds inputs and selected
    results itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and record its results."""
        results = func(*args, **(kwargs or {}))
        for value in tree_leaves(results):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._storages[reference] = storage.nbytes()
        return results

    def bytes_in_use(self, others: Iterable[Tensor]) -> int:
        """Return the bytes that are in use, without those of ``others``."""
        gc.collect()  # frees cycles, whose moment of release would otherwise decide
        excluded = [value.untyped_storage() for value in others]
        without = {StorageWeakRef(storage) for storage in excluded}  # type: ignore[no-untyped-call]
        total = 0
        for reference, size_bytes in self._storages.items():
            is_freed = reference.expired()  # type: ignore[no-untyped-call]
            if not is_freed and reference not in without:
                total += size_bytes
        return total


def optimizer_bytes(optimizer: Optimizer) -> int | None:
    """Estimate the bytes of the optimizer's state; None if it cannot be determined.

    An optimizer of the same class makes one step on an artificial matrix, and its state per element
    is counted.
    """
    side = 64
    dummy = nn.Parameter(torch.zeros(side, side))
    dummy.grad = torch.ones(side, side)
    known = inspect.signature(type(optimizer).__init__).parameters
    try:
        options = {name: value for name, value in optimizer.defaults.items() if name in known}
        with Alone():
            probe = type(optimizer)([dummy], **options)
            probe.step()
    except Exception:  # any optimizer, with unknown requirements
        return None
    state = probe.state.get(dummy, {})
    kept = sum(
        value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, Tensor) and value.numel() > 1
    )
    elements = sum(local_numel(p) for group in optimizer.param_groups for p in group["params"])
    return round(kept / dummy.numel() * elements)


def memory_estimate(
    encoder: TowerEncoder,
    optimizer: Optimizer,
    batch_size: int,
    world_size: int,
    activations: int | None,
    has_average: bool,
) -> dict[str, int]:
    """Estimate the memory of one rank in a step, in bytes by purpose; a lower bound."""
    parameters = list(encoder.parameters())
    num_bytes = sum(local_numel(p) * p.element_size() for p in parameters)
    learned = sum(local_numel(p) * p.element_size() for p in parameters if p.requires_grad)
    rows = batch_size + max(2, len(encoder.towers)) * world_size * batch_size
    embeddings = rows * encoder.embedding_dim * _FLOAT_BYTES
    estimate = {
        "weights": num_bytes,
        "gradients": learned,
        "optimizer": optimizer_bytes(optimizer) or 0,
        "average of the weights": num_bytes if has_average else 0,
        "buckets of DDP": learned if world_size > 1 else 0,
        "activations": activations or 0,
        "inputs, embeddings of all ranks": batch_size * input_bytes(encoder) + embeddings,
    }
    return {name: count for name, count in estimate.items() if count}


def input_bytes(encoder: TowerEncoder) -> int:
    """Return the bytes of a sample's inputs: the largest image, and those of further modalities."""
    image, total = encoder.image_tower, 0
    if "image" in encoder.towers:
        side, budget = image.image_size, image.budget
        pixels = side * side if budget is None else budget.max_tokens * budget.patch_size**2
        total += _COLORS * pixels
    for tower in encoder.towers.values():
        if isinstance(tower, SignalTower):
            total += math.prod(tower.input_shape) * _FLOAT_BYTES
    return total


def exchange_estimate(
    encoder: TowerEncoder, batch_size: int, world_size: int, accumulate: int
) -> dict[str, int]:
    """Estimate the bytes that one rank receives or reduces per step with DDP, by purpose.

    This is the table of ``docs/cluster.md``; a ring transfers about twice the reduced bytes.
    """
    if world_size == 1:
        return {}
    row = encoder.embedding_dim * _FLOAT_BYTES
    joined = world_size * batch_size
    learned = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    estimate = {
        "captions of the other ranks": accumulate * (joined - batch_size) * row,
        "log-sum-exps": accumulate * 2 * joined * _FLOAT_BYTES,
        "gradients of the captions": accumulate * joined * row,
        "gradients of the parameters": learned * _FLOAT_BYTES,
    }
    if num_more := max(0, len(encoder.towers) - 2):
        # one pair of modalities each: rows, log-sum-exps and gradients, as of the captions
        one = (joined - batch_size) * row + 2 * joined * _FLOAT_BYTES + joined * row
        estimate["pairs of further modalities"] = accumulate * num_more * one
    return estimate


def local_numel(parameter: Tensor) -> int:
    """Return the number of elements of a parameter on this rank, also if it is sharded."""
    local: Any = getattr(parameter, "to_local", None)
    return int(local().numel()) if local is not None else parameter.numel()
