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
            self._rounds = _plan([wanted[start : start + length] for start in starts], sizes)

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


def on_the_host(counts: Int64[Tensor, "2 rounds ranks"]) -> list[list[list[int]]]:
    """Return numbers that a GPU has computed."""
    numbers: list[list[list[int]]] = counts.tolist()
    return numbers


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
def _plan(parts: Sequence[Int64[Tensor, " wanted"]], sizes: Sequence[int]) -> list[_Round]:
    """Tell the owners which rows are wanted in each round; a GPU is waited for once.

    Args:
        parts: Positions that this rank wants in each round.
        sizes: Number of rows of each rank.
    """
    if not parts:
        return []
    ranks = torch.arange(world_size(), device=parts[0].device)
    own_sizes = torch.tensor(list(sizes)).to(ranks.device, non_blocking=True)
    ends = own_sizes.cumsum(0)
    owners = [torch.searchsorted(ends, part, right=True) for part in parts]
    # by rank, so that one exchange tells each of them about all rounds
    counts = torch.stack([(owner[:, None] == ranks).sum(0) for owner in owners], 1).contiguous()
    sent_counts = torch.empty_like(counts)
    dist.all_to_all_single(sent_counts, counts)
    given, asked = on_the_host(torch.stack([sent_counts, counts]).transpose(1, 2))
    rounds = []
    for part, owner, sent_of, asked_of in zip(parts, owners, given, asked, strict=True):
        order = owner.argsort(stable=True)
        local = (part - (ends - own_sizes)[owner])[order]
        sent = local.new_empty(sum(sent_of))
        dist.all_to_all_single(sent, local, sent_of, asked_of)
        rounds.append(_Round(sent, sent_of, asked_of, order.argsort()))
    return rounds


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
