"""Exchanges between the ranks of the default process group; each is a no-op in one process.

Ranks may have different numbers of rows: each function that exchanges rows takes ``sizes``, the
number of rows of every rank, which ``gather_sizes`` exchanges once per step.

Convention for gradients of losses over ranks: every rank returns the value of the *global* loss,
and gradients are multiplied by the number of ranks, because ``DistributedDataParallel`` averages
over them. The result is the gradient of one process on the joined batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

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
    _, everyone = gather_flat(mine)
    return [tuple(row) for row in everyone.view(world_size(), -1).tolist()]


def gather_flat(
    mine: Tensor, group: Any = None, in_background: bool = False
) -> tuple[dist.Work | None, Shaped[Tensor, " all_ranks"]]:
    """Gather tensors of one length from all ranks, of at least two.

    Args:
        mine: Tensor of this rank.
        group: Process group; None for the default one.
        in_background: Whether to return before the exchange is complete.

    Returns:
        The exchange to wait for, if it runs in the background, and the tensors one after another.
    """
    assert _all_gather is not None
    mine = mine.contiguous()
    everyone = mine.new_empty((world_size() * len(mine), *mine.shape[1:]))
    return _all_gather(everyone, mine, group=group, async_op=in_background), everyone


@final
class Arriving:
    """Rows that an exchange brings while other work continues.

    Args:
        work: Exchange; None if it is complete.
        finish: Function that returns the rows from the exchange's buffers.
        sent: Tensor that is sent, which is kept as long as the exchange.
    """

    def __init__(
        self, work: dist.Work | None, finish: Callable[[], Tensor], sent: Tensor | None = None
    ) -> None:
        self._work, self._finish, self._sent = work, finish, sent
        self._rows: Tensor | None = None

    @torch.no_grad()
    def wait(self) -> Shaped[Tensor, "N *rest"]:
        """Return the rows. On a GPU its later work waits for them, and the CPU does not."""
        if self._rows is None:
            if self._work is not None:
                self._work.wait()
            self._rows = self._finish()
            del self._work, self._finish, self._sent
        return self._rows


@torch.no_grad()
def gather_rows(rows: Shaped[Tensor, "B *rest"], sizes: Sequence[int]) -> Shaped[Tensor, "N *rest"]:
    """Gather the rows of all ranks, in the order of ranks, without gradient."""
    if world_size() == 1:
        return rows.detach()
    return begin_gather(rows, sizes, in_background=False).wait()


@torch.no_grad()
def begin_gather(
    rows: Shaped[Tensor, "B *rest"], sizes: Sequence[int], in_background: bool = True
) -> Arriving:
    """Begin ``gather_rows``; all ranks begin their exchanges in the same order."""
    if world_size() == 1:
        return Arriving(None, rows.detach)
    largest = max(sizes)
    padded = _pad(rows.detach(), largest)
    work, everyone = gather_flat(padded, in_background=in_background)

    def joined() -> Tensor:
        if min(sizes) == largest:
            return everyone
        blocks = torch.split(everyone, largest)
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    return Arriving(work, joined, padded)


@torch.no_grad()
def sum_rows_to_owner(
    rows: Shaped[Tensor, "N *rest"], sizes: Sequence[int]
) -> Shaped[Tensor, "B *rest"]:
    """Sum over ranks and return this rank's rows; the transpose of ``gather_rows``."""
    if world_size() == 1:
        return rows
    return begin_sum_to_owner(rows, sizes, in_background=False).wait()


@torch.no_grad()
def begin_sum_to_owner(
    rows: Shaped[Tensor, "N *rest"], sizes: Sequence[int], in_background: bool = True
) -> Arriving:
    """Begin ``sum_rows_to_owner``; the rows must not be changed before it is complete."""
    if world_size() == 1:
        return Arriving(None, lambda: rows)
    assert _reduce_scatter is not None
    largest = max(sizes)
    if min(sizes) < largest:
        rows = torch.cat([_pad(block, largest) for block in torch.split(rows, list(sizes))])
    rows = rows.contiguous()
    mine = rows.new_empty((largest, *rows.shape[1:]))
    work = _reduce_scatter(mine, rows, async_op=in_background)
    own = mine[: sizes[rank()]]
    return Arriving(work, lambda: own, rows)


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


def _pad(rows: Tensor, size: int) -> Tensor:
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_zeros((size - len(rows), *rows.shape[1:]))])
