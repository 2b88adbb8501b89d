"""A maximum over ranks that no rank waits for."""

from __future__ import annotations

from typing import final

import torch
import torch.distributed as dist

from clipkit.distributed.background import background_group
from clipkit.distributed.collectives import world_size


@final
class DelayedMax:
    """Maximum over all ranks of a number per step, known one step later.

    Every rank calls ``all_reduce`` once per step and gets the maximum of the previous step. The
    exchange runs in the ``background_group``, so that neither the step nor a
    GPU waits for it. In one process the result is immediate.
    """

    def __init__(self) -> None:
        self._background = background_group()
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def all_reduce(self, number: int) -> int:
        """Start the exchange of this step and return the result of the previous one.

        Call it on every rank, equally often.
        """
        if world_size() == 1:
            return number
        previous = self.wait()
        value = torch.tensor(number, device=self._background.device)
        group = self._background.group
        work = dist.all_reduce(value, dist.ReduceOp.MAX, group=group, async_op=True)
        assert work is not None
        self._pending = (work, value)
        return previous

    def wait(self) -> int:
        """Return the result of the last exchange; 0 if there is none."""
        if self._pending is None:
            return 0
        work, value = self._pending
        work.wait()
        self._pending = None
        return int(value)
