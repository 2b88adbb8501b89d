"""Image-text scores of samples: the mean cosine similarity of an image and its captions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from clipkit.collection import Collection, ShardFiles, pair_scores
from clipkit.errors import ConfigError


def sample_scores(files: ShardFiles) -> Float32[np.ndarray, " N"]:
    """Return the mean score of the captions of each sample of a shard.

    The mean, because training draws one of the captions per epoch: it is the expected score of the
    pair that is drawn.

    Args:
        files: Files of the shard.

    Returns:
        The scores; NaN for a sample without captions or without a finite embedding.

    Raises:
        DataError: If a file is missing or damaged.
    """
    with np.errstate(invalid="ignore"):  # infinite embeddings have no score
        scores = means(pair_scores(files), np.diff(files.text_starts()))
    scores[~np.isfinite(scores)] = np.nan
    return scores


def means(
    values: Float32[np.ndarray, " texts"], lengths: Int64[np.ndarray, " N"]
) -> Float32[np.ndarray, " N"]:
    """Return the means of consecutive values; NaN for the mean of none.

    Args:
        values: The values.
        lengths: How many values belong to each mean.

    Examples:
        >>> means(np.array([0.25, 0.75, 1], dtype=np.float32), np.array([2, 1]))
        array([0.5, 1. ], dtype=float32)
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    sums = np.bincount(owners, values.astype(np.float64), minlength=len(lengths))
    found = np.full(len(lengths), np.nan)
    np.divide(sums, lengths, out=found, where=lengths > 0)
    return found.astype(np.float32)


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
