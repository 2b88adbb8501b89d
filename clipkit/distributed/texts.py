"""Exchange of texts between ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from clipkit.distributed.collectives import gather_rows, gather_sizes, world_size


def gather_texts(texts: Sequence[str], sizes: Sequence[int], device: torch.device) -> Sequence[str]:
    """Gather the texts of all ranks, in the order of ranks, as UTF-8 bytes without pickle.

    Args:
        texts: Texts of this rank.
        sizes: Number of texts of each rank.
        device: Device of the exchange.
    """
    if world_size() == 1:
        return texts
    encoded = [text.encode() for text in texts]
    raw = torch.tensor(list(b"".join(encoded)), dtype=torch.uint8, device=device)
    lengths = torch.tensor([len(text) for text in encoded], dtype=torch.int64, device=device)
    num_bytes = [size[0] for size in gather_sizes(len(raw), device=device)]
    joined = bytes(gather_rows(raw, num_bytes).cpu().numpy())
    sizes_bytes = gather_rows(lengths, sizes).tolist()
    ends = accumulate(sizes_bytes)
    return [joined[e - size : e].decode() for e, size in zip(ends, sizes_bytes, strict=True)]
