"""Flags that any rank may raise and that all ranks see at the same step, without waiting."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.distributed as dist

from clipkit.distributed.collectives import world_size


@final
class Vote:
    """A number that all ranks agree on, one step late.

    Every rank calls ``exchange`` once a step. The greatest number that any of them gave is known to
    all at their next call: the exchange runs over gloo, from CPU memory and in the background, so
    that neither the step nor a GPU waits for it. In one process the answer comes at once.

    Examples:
        >>> Vote().exchange(3)
        3
    """

    def __init__(self) -> None:
        self._group: Any = None
        if world_size() > 1:
            # A group of its own: its exchanges must not queue behind those of the gradients.
            self._group = dist.new_group(backend="gloo")
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def exchange(self, number: int) -> int:
        """Cast this step's number; to be called on every rank, equally often.

        Args:
            number: At least 0.

        Returns:
            The greatest number of the step before, the same on every rank; 0 at the first call.
        """
        if self._group is None:
            return number
        agreed = self.collect()
        ballot = torch.tensor(number)
        work = dist.all_reduce(ballot, dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._pending = (work, ballot)
        return agreed

    def collect(self) -> int:
        """What the last exchange found, without casting a new number; 0 where there is none."""
        if self._pending is None:
            return 0
        work, ballot = self._pending
        work.wait()
        self._pending = None
        return int(ballot)
