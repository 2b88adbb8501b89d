"""Fetch single rows of other ranks, with a gradient that goes back to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from jaxtyping import Int64, Shaped
from torch import Tensor

from clipkit.distributed.collectives import rank, world_size


@final
class RowRequests:
    """Rows of the batch of all ranks that this rank wants.

    Every rank makes one, and calls ``fetch``. Only wanted rows are sent, in as many rounds as there
    are ranks, so that no rank holds more than about its own number of rows to send at a time, also
    if all ranks want the same row.

    Args:
        wanted: Positions in the batch of all ranks, one per row of this rank.
        sizes: Number of rows of each rank.

    Examples:
        >>> rows = torch.tensor([[1.0], [2.0]])
        >>> RowRequests(torch.tensor([1, 1]), sizes=[2]).fetch(rows).flatten()
        tensor([2., 2.])
    """

    def __init__(self, wanted: Int64[Tensor, " B"], sizes: Sequence[int]) -> None:
        self._wanted = wanted
        self._rounds: list[_Round] = []
        if world_size() > 1:
            length = -(-max(sizes) // world_size())
            starts = range(0, world_size() * length, max(1, length))
            self._rounds = [_plan(wanted[start : start + length], sizes) for start in starts]

    def fetch(self, rows: Shaped[Tensor, "B *rest"]) -> Shaped[Tensor, "B *rest"]:
        """Return the wanted rows; the gradient of each is added to the row of its owner.

        Args:
            rows: This rank's rows, of the same shape on all ranks.
        """
        if world_size() == 1:
            return rows[self._wanted]
        if not self._rounds:  # no rank has a row
            return rows
        return torch.cat([_Fetch.apply(rows, one) for one in self._rounds])


@final
class _Round:
    """One exchange: which of this rank's rows go to whom, and how many come from whom."""

    def __init__(
        self,
        sent: Int64[Tensor, " sent"],
        sent_counts: list[int],
        counts: list[int],
        place: Int64[Tensor, " received"],
    ) -> None:
        self.sent, self.sent_counts = sent, sent_counts
        self.counts, self.place = counts, place


@torch.no_grad()
def _plan(wanted: Int64[Tensor, " wanted"], sizes: Sequence[int]) -> _Round:
    """Tell the owners which rows are wanted."""
    ends = torch.tensor(sizes, device=wanted.device).cumsum(0)
    owners = torch.searchsorted(ends, wanted, right=True)
    order = owners.argsort(stable=True)
    local = (wanted - (ends - ends.new_tensor(sizes))[owners])[order]
    counts = torch.bincount(owners, minlength=world_size())
    sent_counts = torch.empty_like(counts)
    dist.all_to_all_single(sent_counts, counts)
    asked, given = counts.tolist(), sent_counts.tolist()
    sent = local.new_empty(sum(given))
    dist.all_to_all_single(sent, local, given, asked)
    return _Round(sent, given, asked, order.argsort())


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, plan: _Round) -> Tensor:
        ctx.plan, ctx.shape = plan, rows.shape
        received = rows.new_empty((len(plan.place), *rows.shape[1:]))
        # rows of a transposed tensor keep its strides, which exchanges do not read
        sent = rows[plan.sent].contiguous()
        dist.all_to_all_single(received, sent, plan.counts, plan.sent_counts)
        return received[plan.place]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        plan: _Round = ctx.plan
        by_owner = gradient.new_empty(gradient.shape)  # contiguous, whatever the gradient is
        by_owner[plan.place] = gradient
        back = gradient.new_empty((len(plan.sent), *gradient.shape[1:]))
        dist.all_to_all_single(back, by_owner, plan.sent_counts, plan.counts)
        own = gradient.new_zeros(ctx.shape).index_add_(0, plan.sent, back)
        return own, None


def first_row(sizes: Sequence[int]) -> int:
    """Return the position of this rank's first row in the batch of all ranks."""
    return sum(sizes[: rank()])
