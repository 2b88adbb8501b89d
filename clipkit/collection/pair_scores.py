"""Scores of pairs: the cosine similarity of each caption and its image."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32

from clipkit.collection.shard_files import ShardFiles
from clipkit.errors import DataError

_TILE_ROWS: Final = 8192


def pair_scores(files: ShardFiles) -> Float32[np.ndarray, " texts"]:
    """Return the cosine similarity of each caption of a shard with the image of its sample.

    Args:
        files: Files of the shard.

    Returns:
        Scores in the order of ``files.texts()``; ``files.text_starts()`` are the first captions
        of the samples. NaN where the sample has no embedding.

    Raises:
        DataError: If captions were not embedded, or a file is missing or damaged.

    Examples:
        >>> pair_scores(Collection("collection").shards[0]).shape
        (10,)
    """
    images, texts, starts = files.images(), files.texts(), files.text_starts()
    if len(texts) != starts[-1]:
        raise DataError(
            f"{files.shard.name}: expected {int(starts[-1])} embedded captions, as in the table, "
            f"got {len(texts)}; embed the shard again"
        )
    owners = np.repeat(np.arange(len(images)), np.diff(starts))
    scores = np.empty(len(texts), dtype=np.float32)
    for first in range(0, len(texts), _TILE_ROWS):
        tile = slice(first, first + _TILE_ROWS)
        own = images[owners[tile]].astype(np.float32)
        # NumPy's own loop, in a fixed order: the product of a library may round differently.
        scores[tile] = (own * texts[tile].astype(np.float32)).sum(axis=1)
    errors = files.table(["error"]).column("error")
    scores[~np.asarray(errors.is_null())[owners]] = np.nan
    return scores
