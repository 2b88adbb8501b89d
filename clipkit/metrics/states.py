"""Gather the states of metrics over ranks, also if a rank has none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor
from torchmetrics import Metric

from clipkit.distributed.collectives import gather_rows, gather_sizes
from clipkit.metrics.functional import checked_ks


class GatheredMetric(Metric):
    """A metric of everything that was added on all ranks, by ``update``, to lists of tensors."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, ks: Sequence[int], states: Sequence[str]) -> None:
        super().__init__(sync_on_compute=False)  # compute() gathers, empty ranks included
        self.ks = tuple(checked_ks(ks))
        for name in states:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def gathered(self, state: str, dtype: torch.dtype = torch.int64) -> Shaped[Tensor, "N *rest"]:
        """Return the tensors of a state of all ranks as one tensor."""
        return gather_chunks(getattr(self, state), dtype, self.device)


def gather_chunks(
    chunks: Sequence[Shaped[Tensor, "B *rest"]], dtype: torch.dtype, device: torch.device
) -> Shaped[Tensor, "N *rest"]:
    """Concatenate all chunks of all ranks, in the order of ranks.

    torchmetrics' own exchange fails if a rank has no chunk: it does not know the width and the data
    type of the other ranks' chunks.
    """
    own = torch.cat(list(chunks)).to(device, dtype) if chunks else torch.empty(0, device=device)
    width = own.shape[1] if own.ndim == 2 else 0
    sizes = gather_sizes(len(own), width, device=device)
    if not chunks:
        widest = max(size[1] for size in sizes)
        shape = (0, widest) if widest else (0,)
        own = torch.empty(shape, dtype=dtype, device=device)
    return gather_rows(own, [size[0] for size in sizes])
