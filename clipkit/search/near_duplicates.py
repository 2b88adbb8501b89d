"""Near duplicates: groups of rows whose embeddings are nearly equal, by comparing all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64

from clipkit.collection import Collection
from clipkit.errors import check_range
from clipkit.search.engine import RowMask
from clipkit.search.exact_scores import exact_scores, product_error
from clipkit.search.row_groups import RowGroups
from clipkit.search.usable_rows import usable_rows

DEFAULT_MIN_SCORE: Final = 0.95
_BLOCK_ROWS: Final = 2048
_TILE_ROWS: Final = 8192
_PAIRS_PER_PART: Final = 65_536

Half = Float16[np.ndarray, "rows D"]


@dataclass(frozen=True, slots=True)
class SimilarGroup:
    """Rows that are connected by pairs of similar images.

    Args:
        rows: The rows, in ascending order.
        scores: Cosine similarity of each row with the first. Of a chain of similar images, it may
            be below the limit.
    """

    rows: tuple[int, ...]
    scores: tuple[float, ...]


def near_duplicates(
    collection: Collection,
    min_score: float = DEFAULT_MIN_SCORE,
    rows: RowMask | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    *,
    block_rows: int = _BLOCK_ROWS,
) -> list[SimilarGroup]:
    """Return groups of rows with a cosine similarity of at least ``min_score``, the largest first.

    All pairs are compared, in tiles: memory does not grow with the rows but for some bytes per row,
    time grows with their square. Groups do not depend on the machine and the size of the tiles.

    Args:
        collection: The collection.
        min_score: Least cosine similarity of a pair.
        rows: Rows that are compared; None for all with an embedding.
        on_progress: Called with the number of rows that are compared with all others, and of all.
        block_rows: Rows that are compared with a tile at a time.

    Raises:
        ConfigError: If ``min_score`` is not in 0.3 to 1.
        DataError: If the collection has no embeddings of images, or cannot be read.

    Examples:
        >>> near_duplicates(Collection("collection"), min_score=0.999)
        []
    """
    check_range("min_score", min_score, 0.3, 1.0)
    collection.require("image")
    usable = usable_rows(collection)
    chosen = np.flatnonzero(usable if rows is None else usable & rows)
    groups = RowGroups(len(chosen))
    tell = on_progress or (lambda *_: None)
    for start in range(0, len(chosen), block_rows):
        block = collection.images(chosen[start : start + block_rows])
        for first, tile in _tiles(collection, chosen, start):
            groups.join(*_pairs(block, start, tile, first, min_score))
        tell(min(start + block_rows, len(chosen)), len(chosen))
    return [_group(collection, chosen[members]) for members in groups.members()]


def _tiles(
    collection: Collection, chosen: Int64[np.ndarray, " rows"], start: int
) -> Iterator[tuple[int, Half]]:
    """Yield the embeddings of the chosen rows from a position on, in tiles."""
    for first in range(start, len(chosen), _TILE_ROWS):
        yield first, collection.images(chosen[first : first + _TILE_ROWS])


def _pairs(
    block: Half, start: int, tile: Half, first: int, min_score: float
) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    """Return the similar pairs of a block and a tile, as positions; each pair once.

    Products in float32 decide where they are clear; within their error, exact ones do.
    """
    scores = (torch.from_numpy(block).float() @ torch.from_numpy(tile).float().T).numpy()
    error = product_error(1.0, block.shape[1])
    rows, columns = np.nonzero((scores >= min_score - error) & (scores < np.inf))
    later = columns + first > rows + start
    rows, columns = rows[later], columns[later]
    unclear = np.flatnonzero(scores[rows, columns] < min_score + error)
    kept = np.ones(len(rows), dtype=np.bool_)
    for part in range(0, len(unclear), _PAIRS_PER_PART):
        some = unclear[part : part + _PAIRS_PER_PART]
        kept[some] = _products(block[rows[some]], tile[columns[some]]) >= np.float32(min_score)
    return rows[kept] + start, columns[kept] + first


def _products(first: Half, second: Half) -> Float32[np.ndarray, " rows"]:
    products: Float32[np.ndarray, " rows"] = (
        (first.astype(np.float64) * second.astype(np.float64)).sum(axis=1).astype(np.float32)
    )
    return products


def _group(collection: Collection, rows: Int64[np.ndarray, " rows"]) -> SimilarGroup:
    first = collection.images(rows[:1])[0].astype(np.float32)
    scores: list[float] = []
    for start in range(0, len(rows), _TILE_ROWS):
        images = collection.images(rows[start : start + _TILE_ROWS])
        scores += exact_scores(images, first).tolist()
    return SimilarGroup(tuple(rows.tolist()), tuple(scores))
