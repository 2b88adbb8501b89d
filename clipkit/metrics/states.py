"""Joining what the ranks collected, also where one of them collected nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from clipkit.distributed.collectives import gather_rows, gather_sizes


def gather_chunks(
    chunks: Sequence[Shaped[Tensor, "B *rest"]], dtype: torch.dtype, device: torch.device
) -> Shaped[Tensor, "N *rest"]:
    """All chunks of all ranks as one tensor, in the order of ranks.

    torchmetrics' own exchange fails when a rank has nothing: it cannot know the width and the
    precision of what the others hold.

    Args:
        chunks: Of this rank; vectors or matrices of equal width, maybe none.
        dtype: Precision of the result, the same on every rank.
        device: Where the exchange runs.

    Returns:
        Vector or matrix; a vector of length 0 where no rank has anything.
    """
    own = torch.cat(list(chunks)).to(device, dtype) if chunks else torch.empty(0, device=device)
    width = own.shape[1] if own.ndim == 2 else 0
    sizes = gather_sizes(len(own), width, device=device)
    if not chunks:
        widest = max(size[1] for size in sizes)
        shape = (0, widest) if widest else (0,)
        own = torch.empty(shape, dtype=dtype, device=device)
    return gather_rows(own, [size[0] for size in sizes])
