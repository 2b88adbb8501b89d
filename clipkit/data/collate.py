"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.types import Batch, Sample


def pad_tokens(sequences: Sequence[Int64[Tensor, " S"]], pad_id: int) -> Int64[Tensor, "B S"]:
    """Stack sequences, padded to the longest.

    Args:
        sequences: Token ids, one tensor a caption.
        pad_id: What fills the rest.

    Returns:
        One row a caption.
    """
    longest = max((len(tokens) for tokens in sequences), default=0)
    stacked = torch.full((len(sequences), longest), pad_id, dtype=torch.int64)
    for row, tokens in zip(stacked, sequences, strict=True):
        row[: len(tokens)] = tokens
    return stacked


def collate(
    samples: Sequence[Sample], pad_id: int, cursor: Mapping[str, Any] | None = None
) -> Batch:
    """Join samples into a batch.

    Args:
        samples: At least one; all pictures of one size.
        pad_id: The tokenizer's padding id.
        cursor: Where the stream stands after the batch.

    Returns:
        Images ``[B 3 H W]``, tokens ``[B S]`` with S the longest caption, labels, keys and ids.
    """
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        tokens=pad_tokens([sample.tokens for sample in samples], pad_id),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        keys=tuple(sample.key for sample in samples),
        cursor=cursor,
        sample_ids=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
        captions=tuple(sample.caption for sample in samples),
    )
