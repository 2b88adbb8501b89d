"""Estimate memory and communication of a step before it runs."""

from __future__ import annotations

import gc
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar, final

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import Optimizer

from clipkit.models import SignalTower, TowerEncoder
from clipkit.training.lightning_compat import TorchDispatchMode, tree_leaves
from clipkit.training.preflight.alone import Alone, ExchangeRefusedError
from clipkit.types import Batch, Embeddings

_FLOAT_BYTES: Final = 4
_COLORS: Final = 3
_Result = TypeVar("_Result")
_FEW, _MORE = 2, 4
"""Batch sizes of the two forward passes that measure activations."""


def activation_bytes(encoder: TowerEncoder, num_tokens: int | None) -> int | None:
    """Measure the bytes per pair that the forward pass keeps for the backward pass.

    Two small batches of artificial pairs are embedded, and the difference is taken. Neither the
    random numbers of the run nor running statistics change. One rank may call this alone. The
    fusion of a ``JointEncoder`` runs in its terms: see ``fused_activation_bytes``.

    Returns:
        Bytes per pair; None if the forward pass exchanges something between ranks.
    """
    try:
        return bytes_per_sample(lambda size: _kept_bytes(encoder, size, num_tokens))
    except ExchangeRefusedError:
        return None


def bytes_per_sample(kept: Callable[[int], int]) -> int:
    """Return what one more sample adds to the bytes that a function of their number returns."""
    return max(0, (kept(_MORE) - kept(_FEW)) // (_MORE - _FEW))


@final
class _Call(nn.Module):
    """A function that uses an encoder, as a module."""

    def __init__(self, encoder: TowerEncoder, run: Callable[[], Any]) -> None:
        super().__init__()
        self.encoder, self._run = encoder, run

    def forward(self) -> Any:
        """Call the function."""
        return self._run()


def with_copied_buffers(encoder: TowerEncoder, run: Callable[[], _Result]) -> _Result:
    """Call a function that uses an encoder, whose running statistics stay as they are."""
    measured = _Call(encoder, run)
    buffers = {name: value.clone() for name, value in measured.named_buffers()}
    result: _Result = torch.func.functional_call(measured, buffers, ())
    return result


def _kept_bytes(encoder: TowerEncoder, batch_size: int, num_tokens: int | None) -> int:
    batch = encoder.example_batch(batch_size, num_tokens)
    return bytes_kept_by(
        lambda: with_copied_buffers(encoder, lambda: _embedded(encoder, batch)),
        encoder,
        batch.tensors(),
    )


def _embedded(encoder: TowerEncoder, batch: Batch) -> tuple[Embeddings, list[Tensor]]:
    """Embed pairs, and score the classes that a label head has already.

    ``TowerEncoder.forward`` may compute prototypes of classes, which are those of all ranks.
    """
    embeddings = encoder.embed(batch)
    features = {"image": embeddings.image_features, **(embeddings.head_features or {})}
    heads = encoder.heads.items()
    return embeddings, [head(rows) for n, head in heads if (rows := features.get(n)) is not None]


def bytes_kept_by(
    run: Callable[[], object], encoder: TowerEncoder, inputs: Iterable[Tensor]
) -> int:
    """Return the bytes that a forward pass keeps, without weights and inputs.

    Args:
        run: Function that returns the outputs of the pass.
        encoder: Encoder whose weights it uses.
        inputs: Tensors that exist before.
    """
    device = encoder.log_logit_scale.device
    devices = [device] if device.type == "cuda" else []
    allocations = _Allocations()
    with _only_new_garbage(), torch.random.fork_rng(devices), torch.enable_grad(), Alone():
        with allocations:
            results = run()
            kept = allocations.bytes_in_use([*encoder.parameters(), *inputs])
        del results
    return kept


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Keep what is new in the youngest generation, which is collected in no time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
        # Frees new cycles, whose moment of release would otherwise decide. A collection of
        # everything took most of the measurement.
        gc.collect(0)
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
    average_bytes: int,
) -> dict[str, int]:
    """Estimate the memory of one rank in a step, in bytes by purpose; a lower bound."""
    parameters, num_bytes = list(encoder.parameters()), weight_bytes(encoder)
    learned = sum(local_numel(p) * p.element_size() for p in parameters if p.requires_grad)
    rows = batch_size + max(2, len(encoder.towers)) * world_size * batch_size
    embeddings = rows * encoder.embedding_dim * _FLOAT_BYTES
    estimate = {
        "weights": num_bytes,
        "gradients": learned,
        "optimizer": optimizer_bytes(optimizer) or 0,
        "averages of the weights": average_bytes,
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


def weight_bytes(module: nn.Module) -> int:
    """Return the bytes of the parameters of a module on this rank."""
    return sum(local_numel(p) * p.element_size() for p in module.parameters())


def local_numel(parameter: Tensor) -> int:
    """Return the number of elements of a parameter on this rank, also if it is sharded."""
    local: Any = getattr(parameter, "to_local", None)
    return int(local().numel()) if local is not None else parameter.numel()
