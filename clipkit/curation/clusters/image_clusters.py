"""Clusters of the images of an embedded collection."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from clipkit.collection import Collection
from clipkit.curation.clusters.kmeans import Centres, nearest_centres, spherical_kmeans
from clipkit.errors import ConfigError, DataError

NO_CLUSTER: Final = -1
"""Cluster of a row without an embedding."""
_FEWEST: Final = 2
_MOST: Final = 64
_ROWS_PER_CLUSTER: Final = 512
"""Rows per cluster that the centres are computed from; of more rows, a random sample."""


@dataclass(frozen=True, slots=True)
class ImageClusters:
    """Clusters of N images, ordered by their sizes, the largest first. None is empty.

    Args:
        centres: Unit-norm centres.
        labels: Cluster of each image; ``NO_CLUSTER`` where the sample has no finite embedding.
        similarities: Cosine similarity of each image to its centre; 0 without an embedding.
    """

    centres: Centres
    labels: Int32[np.ndarray, " N"]
    similarities: Float32[np.ndarray, " N"]

    @property
    def sizes(self) -> Int64[np.ndarray, " clusters"]:
        """Number of images of each cluster."""
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.centres))

    def members(self, cluster: int) -> Int64[np.ndarray, " members"]:
        """Return the rows of a cluster, the most similar to its centre first."""
        rows = np.flatnonzero(self.labels == cluster)
        return rows[np.argsort(-self.similarities[rows], kind="stable")]


def cluster_images(
    collection: Collection,
    num_clusters: int | None = None,
    seed: int = 0,
    on_rows: Callable[[int, int], None] | None = None,
) -> ImageClusters:
    """Cluster the images of a collection by spherical k-means.

    The centres are computed from at most 512 rows per cluster, selected at random; then every row
    is assigned to the most similar centre. Memory is bounded by the sample and by a few bytes per
    row.

    Args:
        collection: The collection.
        num_clusters: Number of clusters; None for ``default_num_clusters``.
        seed: Seed of the sample and of the first centres.
        on_rows: Called after each tile with the numbers of completed rows and of all rows; None
            for no call.

    Returns:
        The clusters; fewer than ``num_clusters`` if there are fewer distinct images.

    Raises:
        ConfigError: If ``num_clusters`` is less than 1 or larger than the number of images.
        DataError: If no image has an embedding, or a file of the collection is damaged.

    Examples:
        >>> clusters = cluster_images(Collection("collection"), num_clusters=3)
        >>> int(clusters.sizes.sum())
        8
    """
    embedded = collection.embedded_rows()
    usable = np.flatnonzero(embedded)
    if not len(usable):
        raise DataError(f"{collection.folder}: no image has an embedding; embed the data again")
    wanted = default_num_clusters(len(usable)) if num_clusters is None else num_clusters
    if not 1 <= wanted <= len(usable):
        raise ConfigError(
            f"num_clusters: expected 1 to {len(usable)}, the number of images with an embedding, "
            f"got {wanted}"
        )
    rng = np.random.default_rng(seed)
    num_rows = min(len(usable), wanted * _ROWS_PER_CLUSTER)
    sample = np.sort(rng.choice(usable, num_rows, replace=False))
    rows = collection.images(sample).astype(np.float32)
    finite = rows[np.isfinite(rows).all(axis=1)]
    if not len(finite):
        raise DataError(f"{collection.folder}: embeddings are not finite; check the model")
    centres = spherical_kmeans(finite, wanted, seed)
    return _assigned(collection, centres, embedded, on_rows)


def default_num_clusters(num_images: int) -> int:
    """Return the square root of half the number of images, and from 2 to 64.

    The rule is of Mardia, Kent & Bibby 1979, "Multivariate Analysis", section 13.1. A page of more
    than 64 clusters is too long to be read.

    Examples:
        >>> default_num_clusters(1), default_num_clusters(1_400), default_num_clusters(10**6)
        (1, 26, 64)
    """
    wanted = max(_FEWEST, min(_MOST, round(math.sqrt(num_images / 2))))
    return min(wanted, num_images)


def _assigned(
    collection: Collection,
    centres: Centres,
    embedded: Bool[np.ndarray, " N"],
    on_rows: Callable[[int, int], None] | None,
) -> ImageClusters:
    """Assign all rows, and number the clusters by their sizes."""
    labels = np.full(len(collection), NO_CLUSTER, dtype=np.int64)
    similarities = np.zeros(len(collection), dtype=np.float32)
    for first, images in collection.image_tiles():
        tile = slice(first, first + len(images))
        labels[tile], similarities[tile] = nearest_centres(images, centres)
        if on_rows is not None:
            on_rows(tile.stop, len(collection))
    embedded &= np.isfinite(similarities)
    labels[~embedded], similarities[~embedded] = NO_CLUSTER, 0.0
    sizes = np.bincount(labels[embedded], minlength=len(centres))
    kept = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    numbers = np.full(len(centres), NO_CLUSTER, dtype=np.int32)
    numbers[kept] = np.arange(len(kept), dtype=np.int32)
    renumbered = np.where(embedded, numbers[labels], np.int32(NO_CLUSTER)).astype(np.int32)
    return ImageClusters(centres[kept], renumbered, similarities)
