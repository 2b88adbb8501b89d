"""Exact search: every row is compared, in tiles, so that memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import numpy as np
import torch

from clipkit.collection import Collection
from clipkit.errors import check_at_least
from clipkit.search.engine import (
    Queries,
    Ranked,
    RowMask,
    SearchEngine,
    check_mask,
    check_queries,
)
from clipkit.search.exact_scores import RunningBest
from clipkit.search.scan_threads import run_on_threads
from clipkit.search.usable_rows import usable_rows

TILE_ROWS: Final = 2048
"""Rows per tile: 4 MiB of float32 with 512 components. One core takes 20 ms for 100,000 rows with
tiles that its own cache holds, and 48 ms with 8,192 rows."""

TILES_PER_PART: Final = 16
"""Tiles that a thread takes at a time."""


@final
class ExactEngine(SearchEngine):
    """Compares the queries with every row; recall 1, nothing to build.

    Each thread maps one file into memory at a time, so that a collection may have any number of
    shards, and converts one tile of it to float32. There are as many threads as torch has
    (``OMP_NUM_THREADS``). Results do not depend on them, on the size of the tiles, nor on the
    machine.

    Args:
        collection: The collection.
        tile_rows: Rows per tile.
        usable: Rows with an embedding; None to read them from the tables.

    Examples:
        >>> engine = ExactEngine(Collection("collection"))
        >>> engine.search(np.eye(4, dtype=np.float32)[:1], num_results=2).rows.shape
        (1, 2)
    """

    def __init__(
        self, collection: Collection, tile_rows: int = TILE_ROWS, usable: RowMask | None = None
    ) -> None:
        check_at_least("tile_rows", tile_rows, 1)
        self.collection = collection
        self.tile_rows = tile_rows
        self.usable = usable_rows(collection) if usable is None else usable

    @property
    def description(self) -> str:
        """Name of the engine."""
        return "exact"

    def search(self, queries: Queries, num_results: int, rows: RowMask | None = None) -> Ranked:
        """Return the most similar rows of each query; see ``SearchEngine.search``."""
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        check_queries(queries, self.collection.info.embedding_dim, num_results)
        check_mask(rows, len(self.collection))
        allowed = self.usable if rows is None else self.usable & rows
        num_results = min(num_results, max(1, int(allowed.sum())))
        spans = list(self.collection.spans(self.tile_rows * TILES_PER_PART))
        left = iter(spans)  # each thread takes the next one: next() of a list's iterator is atomic

        def scan() -> RunningBest:
            best = RunningBest(queries, num_results)
            self._scan(left, queries, allowed, best)
            return best

        return RunningBest.merged(run_on_threads(scan, len(spans))).ranked()

    def _scan(
        self,
        spans: Iterator[tuple[int, int, int]],
        queries: Queries,
        allowed: RowMask,
        best: RunningBest,
    ) -> None:
        """Offer the allowed rows of spans, one tile at a time."""
        width = queries.shape[1]
        left = torch.from_numpy(queries)
        half = np.empty((self.tile_rows, width), dtype=np.float16)
        tile = torch.empty(self.tile_rows, width)
        for shard, first, end in spans:
            start_of_shard = int(self.collection.starts[shard])
            if not allowed[start_of_shard + first : start_of_shard + end].any():
                continue
            mapped = self.collection.shards[shard].images()
            for offset in range(first, end, self.tile_rows):
                images = mapped[offset : min(offset + self.tile_rows, end)]
                start = start_of_shard + offset
                kept = np.flatnonzero(allowed[start : start + len(images)])
                count = len(kept)
                if not count:
                    continue
                half[:count] = images if count == len(images) else images[kept]
                tile[:count] = torch.from_numpy(half[:count])
                scores = (left @ tile[:count].T).numpy()
                best.offer(scores, half[:count], kept + start)
