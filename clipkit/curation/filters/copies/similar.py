"""Find the samples that are similar to a preferred one, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float16, Float32, Int64

from clipkit.curation.filters.base import NOT_A_COPY

TILE_ROWS: Final = 1024
"""Rows that are compared with all kept ones at a time."""
_KEPT_ROWS: Final = 16_384
"""Kept rows that are in single precision at a time."""

ReadRows = Callable[[Int64[np.ndarray, " rows"]], Float32[np.ndarray, "rows D"]]
"""Returns the unit-norm embeddings of some samples."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The most similar preferred sample of each of N samples.

    Args:
        similarities: Cosine similarity to the most similar kept sample that is preferred, of those
            that were compared; NaN if there was none.
        samples: Number of that sample; ``NOT_A_COPY`` if there was none.
    """

    similarities: Float32[np.ndarray, " N"]
    samples: Int64[np.ndarray, " N"]

    @classmethod
    def of_none(cls, num_samples: int) -> Nearest:
        """Return that no sample was compared."""
        return cls(
            np.full(num_samples, np.nan, dtype=np.float32),
            np.full(num_samples, NOT_A_COPY, dtype=np.int64),
        )

    def note(
        self,
        samples: Int64[np.ndarray, " rows"],
        similarities: Float32[np.ndarray, " rows"],
        others: Int64[np.ndarray, " rows"],
    ) -> None:
        """Note the most similar sample of each of some, unless a more similar one is known."""
        # A comparison with NaN is false: the first similarity is always noted.
        is_new = ~(similarities <= self.similarities[samples]) & np.isfinite(similarities)
        self.similarities[samples[is_new]] = similarities[is_new]
        self.samples[samples[is_new]] = others[is_new]


def note_copies(
    samples: Int64[np.ndarray, " rows"],
    read: ReadRows,
    min_similarity: float,
    nearest: Nearest,
) -> Iterator[int]:
    """Compare samples with the preferred ones among them that are kept, tile by tile.

    A sample is kept unless it is similar to a kept one. So every copy is similar to a kept sample,
    and no two kept samples are similar.

    Args:
        samples: Numbers of the samples, the preferred first. Those that are copies already are left
            out.
        read: Reads their embeddings.
        min_similarity: Cosine similarity from which a sample is a copy.
        nearest: Gets the most similar kept sample of each.

    Yields:
        The number of completed samples.
    """
    kept: _KeptRows | None = None
    for first in range(0, len(samples), TILE_ROWS):
        tile = samples[first : first + TILE_ROWS]
        tile = tile[~(nearest.similarities[tile] >= min_similarity)]
        if len(tile):
            rows = read(tile)
            kept = _KeptRows(len(samples), rows.shape[1]) if kept is None else kept
            kept.compare(tile, rows, nearest)
            left = ~(nearest.similarities[tile] >= min_similarity)
            tile, rows = tile[left], rows[left]
            _compare_tile(tile, rows, min_similarity, nearest)
            left = ~(nearest.similarities[tile] >= min_similarity)
            kept.append(tile[left], rows[left])
        yield min(first + TILE_ROWS, len(samples))


def _compare_tile(
    tile: Int64[np.ndarray, " rows"],
    rows: Float32[np.ndarray, "rows D"],
    min_similarity: float,
    nearest: Nearest,
) -> None:
    """Compare samples with those before them that are kept."""
    if len(tile) < 2:
        return
    similarities = np.tril(rows @ rows.T, -1) + np.triu(np.full((len(tile),) * 2, -np.inf))
    for place in np.flatnonzero((similarities >= min_similarity).any(axis=1)).tolist():
        if similarities[place].max() >= min_similarity:  # the similar one may be a copy by now
            similarities[:, place] = -np.inf
    best = similarities.argmax(axis=1)
    nearest.note(tile, similarities[np.arange(len(tile)), best], tile[best])


@final
class _KeptRows:
    """Embeddings of the samples that are kept, in half precision."""

    def __init__(self, capacity: int, width: int) -> None:
        self._rows: Float16[np.ndarray, "capacity D"] = np.empty((capacity, width), np.float16)
        self._samples = np.empty(capacity, dtype=np.int64)
        self._size = 0

    def append(
        self, samples: Int64[np.ndarray, " rows"], rows: Float32[np.ndarray, "rows D"]
    ) -> None:
        """Append samples."""
        end = self._size + len(samples)
        self._rows[self._size : end], self._samples[self._size : end] = rows, samples
        self._size = end

    def compare(
        self,
        samples: Int64[np.ndarray, " rows"],
        rows: Float32[np.ndarray, "rows D"],
        nearest: Nearest,
    ) -> None:
        """Note the most similar kept sample of each of some samples."""
        for first in range(0, self._size, _KEPT_ROWS):
            part = slice(first, min(first + _KEPT_ROWS, self._size))
            similarities = rows @ self._rows[part].astype(np.float32).T
            best = similarities.argmax(axis=1)
            values = similarities[np.arange(len(rows)), best]
            nearest.note(samples, values, self._samples[part][best])
