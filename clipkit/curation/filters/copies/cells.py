"""Cells of similar embeddings, in which copies are looked for instead of among all samples.

As in SemDeDup (Abbas et al. 2023, 2303.09540), the cells are those of k-means. Each sample is in
its two nearest cells, so that two copies at the border of cells are usually in one cell together.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from jaxtyping import Float32, Int32

from clipkit.curation.candidates import Candidates
from clipkit.curation.clusters.kmeans import Centres, fill_empty, mean_directions, nearest_centres

EXACT_ROWS: Final = 32_768
"""Samples that are compared with each other, without cells."""
CELLS_PER_SAMPLE: Final = 2
_ROWS_PER_CELL: Final = 32
"""Rows per cell that the centres are computed from."""
_TILE_PRODUCTS: Final = 2**22
"""Products of rows and centres that are in memory at a time, of 12 bytes with their order."""
_STEPS: Final = 5
_SEED: Final = 0


def num_cells(num_samples: int) -> int:
    """Return the number of cells: the time is least at a multiple of the root of the samples.

    Examples:
        >>> num_cells(10_000), num_cells(1_000_000)
        (1, 2000)
    """
    return 1 if num_samples <= EXACT_ROWS else round(2 * math.sqrt(num_samples))


def cell_centres(candidates: Candidates, wanted: int) -> Centres:
    """Return the centres of cells: some steps of spherical k-means on a random sample.

    The first centres are selected at random: k-means++ would take longer than all steps, and the
    cells need not be the best ones.
    """
    rng = np.random.default_rng(_SEED)
    num_rows = min(len(candidates), wanted * _ROWS_PER_CELL)
    sample = np.sort(rng.choice(candidates.rows, num_rows, replace=False))
    rows = candidates.collection.images(sample).astype(np.float32)
    centres = rows[rng.choice(num_rows, wanted, replace=False)]
    for step in range(_STEPS):
        labels, similarities = nearest_centres(rows, centres)
        labels = fill_empty(labels, similarities, len(centres))
        centres = mean_directions(rows, labels, centres)
        candidates.on_rows(step + 1, _STEPS)
    return centres


def nearest_cells(
    rows: Float32[np.ndarray, "rows D"], centres: Centres
) -> Int32[np.ndarray, "rows cells"]:
    """Return the nearest cells of each row; fewer rows at a time for more centres."""
    found: Int32[np.ndarray, "rows cells"] = np.empty((len(rows), CELLS_PER_SAMPLE), dtype=np.int32)
    tile_rows = max(1, _TILE_PRODUCTS // len(centres))
    for start in range(0, len(rows), tile_rows):
        similarities = rows[start : start + tile_rows] @ centres.T
        order = np.argpartition(similarities, -CELLS_PER_SAMPLE, axis=1)
        found[start : start + tile_rows] = order[:, -CELLS_PER_SAMPLE:]
    return found
