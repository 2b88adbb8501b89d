"""Image-text scores: the cosine similarity of an image and its captions."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float16, Float32, Int64

from clipkit.collection import Collection, ShardFiles
from clipkit.errors import ConfigError, DataError

TILE_ROWS: Final = 8192
"""Images that are compared with their captions at a time, which bounds the memory."""


def mean_scores(
    images: Float16[np.ndarray, "N D"],
    texts: Float16[np.ndarray, "M D"],
    lengths: Int64[np.ndarray, " N"],
) -> Float32[np.ndarray, " N"]:
    """Return the mean cosine similarity of each image to its captions.

    The mean, because training draws one of the captions per epoch: it is the expected score of the
    pair that is drawn.

    Args:
        images: Unit-norm embeddings of the images.
        texts: Unit-norm embeddings of the captions, image by image.
        lengths: Number of captions of each image.

    Returns:
        The scores; NaN for an image without captions.

    Examples:
        >>> images = np.array([[1, 0], [0, 1]], dtype=np.float16)
        >>> texts = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.float16)
        >>> mean_scores(images, texts, np.array([2, 1]))
        array([0.5, 1. ], dtype=float32)
    """
    owners = np.repeat(np.arange(len(images)), lengths)
    products = np.einsum("md,md->m", images[owners].astype(np.float32), texts.astype(np.float32))
    sums = np.bincount(owners, products.astype(np.float64), minlength=len(images))
    scores = np.full(len(images), np.nan, dtype=np.float32)
    np.divide(sums, lengths, out=scores, where=lengths > 0, casting="unsafe")
    return scores


def shard_scores(
    files: ShardFiles, rows: Int64[np.ndarray, " R"] | None = None
) -> Float32[np.ndarray, " R"]:
    """Return the image-text scores of samples of a shard, tile by tile; see ``mean_scores``.

    Args:
        files: The files of the shard.
        rows: Positions in the shard, in any order; None for all samples.

    Raises:
        DataError: If a file is missing or damaged, or has not one text per caption.
    """
    images, texts, starts = files.images(), files.texts(), files.text_starts()
    if len(texts) != starts[-1]:
        raise DataError(
            f"shard {files.shard.name}: expected {starts[-1]} texts, one per caption, got "
            f"{len(texts)}; embed the shard again"
        )
    rows = np.arange(len(images)) if rows is None else rows
    scores = np.empty(len(rows), dtype=np.float32)
    for first in range(0, len(rows), TILE_ROWS):
        tile = rows[first : first + TILE_ROWS]
        lengths = starts[tile + 1] - starts[tile]
        before = np.repeat(np.cumsum(lengths) - lengths, lengths)
        captions = np.repeat(starts[tile], lengths) + np.arange(lengths.sum()) - before
        scores[first : first + len(tile)] = mean_scores(images[tile], texts[captions], lengths)
    return scores


def check_has_texts(collection: Collection, option: str) -> None:
    """Refuse a collection without embeddings of captions.

    Raises:
        ConfigError: If the captions were not embedded.
    """
    if not collection.info.has_texts:
        raise ConfigError(
            f"{option}: {collection.folder} has no embeddings of captions; embed the data without "
            "--images-only"
        )
