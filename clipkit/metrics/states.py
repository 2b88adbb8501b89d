"""Gather the states of metrics over ranks, also if a rank has none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from clipkit.distributed.collectives import gather_rows, gather_sizes


def gather_chunks(
    chunks: Sequence[Shaped[Tensor, "B *rest"]], dtype: torch.dtype, device: torch.device
) -> Shaped[Tensor, "N *rest"]:
    """Concatenate all chunks of all ranks, in the order of ranks.

    torchmetrics' own exchange fails if a rank has no chunk: it does not know the width and the data
    type of the other ranks' chunks.

    Args:
        chunks: Chunks of this rank; vectors or matrices of equal width, possibly none.
        dtype: Data type of the result, the same on every rank.
        device: Device of the exchange.

    Returns:
        Vector or matrix; a vector of length 0 if no rank has a chunk.
    """
    own = torch.cat(list(chunks)).to(device, dtype) if chunks else torch.empty(0, device=device)
    width = own.shape[1] if own.ndim == 2 else 0
    sizes = gather_sizes(len(own), width, device=device)
    if not chunks:
        widest = max(size[1] for size in sizes)
        shape = (0, widest) if widest else (0,)
        own = torch.empty(shape, dtype=dtype, device=device)
    return gather_rows(own, [size[0] for size in sizes])
