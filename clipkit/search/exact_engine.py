"""Exact search: every row is compared, in tiles, so that memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Int64

from clipkit.collection import Collection
from clipkit.collection.shard_files import Rows
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
        modality: What is searched for: "image", or the name of a further modality.

    Examples:
        >>> engine = ExactEngine(Collection("collection"))
        >>> engine.search(np.eye(4, dtype=np.float32)[:1], num_results=2).rows.shape
        (1, 2)
    """

    def __init__(
        self,
        collection: Collection,
        tile_rows: int = TILE_ROWS,
        usable: RowMask | None = None,
        modality: str = "image",
    ) -> None:
        check_at_least("tile_rows", tile_rows, 1)
        self.collection = collection
        self.tile_rows = tile_rows
        self.usable = usable_rows(collection, modality) if usable is None else usable
        self._modality = modality

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
        num_results = min(num_results, max(1, int(np.count_nonzero(allowed))))
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
        """Offer the allowed rows of spans in full tiles, however few of them a span has."""
        tile = _Tile(self.tile_rows, queries, best)
        for shard, first, end in spans:
            start = int(self.collection.starts[shard]) + first
            kept = np.flatnonzero(allowed[start : start + end - first])
            if len(kept):
                mapped = self.collection.shards[shard].embeddings(self._modality)[first:end]
                tile.add(mapped, kept, start)
        tile.offer()


@final
class _Tile:
    """Rows that wait until they fill a tile, whose product with the queries is then computed.

    A tile of the few rows that pass a filter takes nearly the time of a full one.
    """

    def __init__(self, num_rows: int, queries: Queries, best: RunningBest) -> None:
        width = queries.shape[1]
        self._queries = torch.from_numpy(queries)
        self._best = best
        self._half = np.empty((num_rows, width), dtype=np.float16)
        self._wide = torch.empty(num_rows, width)
        self._rows = np.empty(num_rows, dtype=np.int64)
        self._count = 0

    def add(self, mapped: Rows, kept: Int64[np.ndarray, " kept"], start: int) -> None:
        """Add rows of a file, which follow those that were added before.

        Args:
            mapped: Embeddings.
            kept: Positions in ``mapped``, in ascending order.
            start: Row of the first of ``mapped``.
        """
        taken = 0
        while taken < len(kept):
            some = kept[taken : taken + len(self._rows) - self._count]
            taken += len(some)
            first, end = int(some[0]), int(some[-1]) + 1
            place = slice(self._count, self._count + len(some))
            is_range = end - first == len(some)  # copied faster than row by row
            self._half[place] = mapped[first:end] if is_range else mapped[some]
            self._rows[place] = some + start
            self._count += len(some)
            if self._count == len(self._rows):
                self.offer()

    def offer(self) -> None:
        """Offer the rows that wait."""
        count, self._count = self._count, 0
        if count:
            self._wide[:count] = torch.from_numpy(self._half[:count])
            scores = (self._queries @ self._wide[:count].T).numpy()
            self._best.offer(scores, self._half[:count], self._rows[:count])
