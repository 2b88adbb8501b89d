"""Spherical k-means: clusters of unit vectors by cosine similarity.

Dhillon & Modha 2001, "Concept decompositions for large sparse text data using clustering". The
first centres are those of k-means++ (Arthur & Vassilvitskii 2007): on the unit sphere, the squared
distance of two rows is twice one minus their cosine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

from clipkit.errors import ConfigError

Rows = Float32[np.ndarray, "N D"]
Centres = Float32[np.ndarray, "clusters D"]

_TILE_ROWS: Final = 16_384
_TILE_PRODUCTS: Final = 2**24
"""Products of rows and centres that are in memory at a time; fewer rows for more centres."""
_SMALLEST_DISTANCE: Final = 1e-6
"""Rows nearer to a centre than this, as one minus cosine, are equal to it up to rounding."""


def spherical_kmeans(rows: Rows, num_clusters: int, seed: int = 0, max_steps: int = 50) -> Centres:
    """Return the centres of clusters of unit vectors, by Lloyd's algorithm.

    Each step assigns every row to the most similar centre, and replaces each centre by the
    normalised mean of its rows. A centre without rows is replaced by the row that is least similar
    to its own centre. The steps end when no row changes its cluster.

    Args:
        rows: Unit-norm rows.
        num_clusters: Number of clusters.
        seed: Seed of the first centres.
        max_steps: Largest number of steps.

    Returns:
        Unit-norm centres; fewer than ``num_clusters`` if there are fewer distinct rows.

    Raises:
        ConfigError: If ``num_clusters`` is less than 1, or there are no rows.

    Examples:
        >>> rows = np.array([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, 0.6]], dtype=np.float32)
        >>> centres = spherical_kmeans(rows, num_clusters=2)
        >>> labels, _ = nearest_centres(rows, centres)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True
    """
    if num_clusters < 1:
        raise ConfigError(f"num_clusters: expected at least 1, got {num_clusters}")
    if not len(rows):
        raise ConfigError("clusters: expected at least one row with an embedding, got none")
    centres = first_centres(rows, num_clusters, np.random.default_rng(seed))
    previous = np.full(len(rows), -1, dtype=np.int64)
    for _ in range(max_steps):
        labels, similarities = nearest_centres(rows, centres)
        labels = fill_empty(labels, similarities, len(centres))
        if np.array_equal(labels, previous):
            break
        centres = mean_directions(rows, labels, centres)
        previous = labels
    return centres


def first_centres(rows: Rows, num_clusters: int, rng: np.random.Generator) -> Centres:
    """Select centres by k-means++: each with a probability proportional to its squared distance.

    Args:
        rows: Unit-norm rows.
        num_clusters: Number of centres.
        rng: Source of random numbers.

    Returns:
        Distinct rows; fewer than ``num_clusters`` if there are fewer distinct rows.
    """
    chosen = [int(rng.integers(len(rows)))]
    distances = np.full(len(rows), np.inf, dtype=np.float64)
    while len(chosen) < num_clusters:
        np.minimum(distances, 1.0 - rows @ rows[chosen[-1]], out=distances)
        distances[distances < _SMALLEST_DISTANCE] = 0.0
        sums = np.cumsum(distances)
        if sums[-1] <= 0.0:
            break
        place = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
        chosen.append(min(place, len(rows) - 1))
    return rows[chosen]


def nearest_centres(
    rows: np.ndarray, centres: Centres
) -> tuple[Int64[np.ndarray, " N"], Float32[np.ndarray, " N"]]:
    """Return the most similar centre of each row, and the cosine similarity to it.

    Args:
        rows: Unit-norm rows [N, D], also in half precision.
        centres: Unit-norm centres.

    Returns:
        Numbers of the centres, the first of equally similar ones; and the similarities.
    """
    labels = np.empty(len(rows), dtype=np.int64)
    similarities = np.empty(len(rows), dtype=np.float32)
    tile_rows = max(1, min(_TILE_ROWS, _TILE_PRODUCTS // len(centres)))
    for start in range(0, len(rows), tile_rows):
        tile = slice(start, start + tile_rows)
        products = np.asarray(rows[tile], dtype=np.float32) @ centres.T
        labels[tile] = products.argmax(1)
        similarities[tile] = products.max(1)
    return labels, similarities


def fill_empty(
    labels: Int64[np.ndarray, " N"], similarities: Float32[np.ndarray, " N"], num_clusters: int
) -> Int64[np.ndarray, " N"]:
    """Give each cluster without rows the row that is least similar to its own centre.

    A row that is the only one of its cluster stays. Clusters stay empty if there are too few rows.
    """
    counts = np.bincount(labels, minlength=num_clusters)
    empty = np.flatnonzero(counts == 0).tolist()
    if not empty:
        return labels
    labels = labels.copy()
    for row in np.argsort(similarities, kind="stable").tolist():
        if counts[labels[row]] > 1:
            counts[labels[row]] -= 1
            labels[row] = empty.pop()
            counts[labels[row]] += 1
        if not empty:
            break
    return labels


def mean_directions(rows: Rows, labels: Int64[np.ndarray, " N"], centres: Centres) -> Centres:
    """Return the normalised mean of the rows of each cluster; the old centre if there is none."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(centres))
    ends = np.cumsum(counts)
    moved = centres.copy()
    for number in np.flatnonzero(counts).tolist():
        total = rows[order[ends[number] - counts[number] : ends[number]]].sum(0, dtype=np.float64)
        length = float(np.linalg.norm(total))
        if length > 0.0:  # rows in opposite directions have no mean direction
            moved[number] = total / length
    return moved
