"""Exchanges between the ranks of the default process group; each is a no-op in one process.

Ranks may have different numbers of rows: each function that exchanges rows takes ``sizes``, the
number of rows of every rank, which ``gather_sizes`` exchanges once per step.

Convention for gradients of losses over ranks: every rank returns the value of the *global* loss,
and gradients are multiplied by the number of ranks, because ``DistributedDataParallel`` averages
over them. The result is the gradient of one process on the joined batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

# torch 2.14 renamed these two and deprecated the old names; 2.6, the minimum, has only those.
_all_gather: Final[Callable[..., Any] | None] = getattr(
    dist, "all_gather_single", getattr(dist, "all_gather_into_tensor", None)
)
_reduce_scatter: Final[Callable[..., Any] | None] = getattr(
    dist, "reduce_scatter_single", getattr(dist, "reduce_scatter_tensor", None)
)


def world_size() -> int:
    """Return the number of ranks that exchange tensors: 1 without a process group.

    Variables of a launcher have no effect here: without a group nothing can be exchanged.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process among those that exchange tensors."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def exchange_device() -> torch.device:
    """Return a device whose tensors the ranks can exchange: a GPU if their only backend is NCCL."""
    if world_size() > 1 and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def gather_sizes(*counts: int, device: torch.device) -> list[tuple[int, ...]]:
    """Gather the ``counts`` of every rank, in the order of ranks."""
    if world_size() == 1:
        return [counts]
    mine = torch.tensor(counts, dtype=torch.int64, device=device)
    everyone = mine.new_empty(world_size() * len(counts))
    _gather_into(everyone, mine)
    return [tuple(row) for row in everyone.view(world_size(), -1).tolist()]


@torch.no_grad()
def gather_rows(rows: Shaped[Tensor, "B *rest"], sizes: Sequence[int]) -> Shaped[Tensor, "N *rest"]:
    """Gather the rows of all ranks, in the order of ranks, without gradient."""
    if world_size() == 1:
        return rows.detach()
    largest = max(sizes)
    padded = _pad(rows.detach(), largest)
    everyone = padded.new_empty((world_size() * largest, *rows.shape[1:]))
    _gather_into(everyone, padded)
    if min(sizes) == largest:
        return everyone
    blocks = torch.split(everyone, largest)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])


@torch.no_grad()
def sum_rows_to_owner(
    rows: Shaped[Tensor, "N *rest"], sizes: Sequence[int]
) -> Shaped[Tensor, "B *rest"]:
    """Sum over ranks and return this rank's rows; the transpose of ``gather_rows``."""
    if world_size() == 1:
        return rows
    assert _reduce_scatter is not None
    largest = max(sizes)
    if min(sizes) < largest:
        rows = torch.cat([_pad(block, largest) for block in torch.split(rows, list(sizes))])
    mine = rows.new_empty((largest, *rows.shape[1:]))
    _reduce_scatter(mine, rows.contiguous())
    return mine[: sizes[rank()]]


@torch.no_grad()
def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over all ranks as a new tensor without gradient."""
    return _reduced(values, dist.ReduceOp.SUM)


@torch.no_grad()
def max_over_ranks(values: Tensor) -> Tensor:
    """Return the maximum over all ranks as a new tensor without gradient."""
    return _reduced(values, dist.ReduceOp.MAX)


@torch.no_grad()
def logsumexp_over_ranks(values: Tensor) -> Tensor:
    """Compute ``log(sum over ranks of exp(values))`` of each element, without overflow."""
    if world_size() == 1:
        return values.detach()
    shift = max_over_ranks(values)
    shift = torch.where(shift.isfinite(), shift, 0.0)  # -inf: a column without a row on any rank
    return shift + sum_over_ranks((values - shift).exp()).log()


def own_slice(sizes: Sequence[int]) -> slice:
    """Return the slice of this rank's rows among the gathered rows."""
    start = sum(sizes[: rank()])
    return slice(start, start + sizes[rank()])


def _reduced(values: Tensor, operation: Any) -> Tensor:
    result = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(result, operation)
    return result


def _gather_into(everyone: Tensor, mine: Tensor) -> None:
    assert _all_gather is not None
    _all_gather(everyone, mine.contiguous())


def _pad(rows: Tensor, size: int) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_zeros((size - len(rows), *rows.shape[1:]))])
