"""Masks of small shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipkit.data import SampleMask, ShardIndex


def mask_without(
    index: ShardIndex, removed: Iterable[int], filters: tuple[str, ...] = ("test",)
) -> SampleMask:
    """The mask that removes some ids, by the first filter."""
    removed_by = np.zeros(index.num_samples, dtype=np.uint8)
    removed_by[list(removed)] = 1
    return SampleMask.of(index, removed_by, filters)


def save_mask(shards: Path, path: Path, removed: Iterable[int]) -> str:
    """Write the mask of ``tiny.shards`` to train on; its path."""
    mask_without(ShardIndex.from_urls(shards / "train"), removed).save(path)
    return str(path)
