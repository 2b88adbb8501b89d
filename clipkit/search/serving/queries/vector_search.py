"""Search for several clients at a time: one pass over the vectors answers all waiting queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from clipkit.search.engine import NO_ROW
from clipkit.search.row_filter import RowFilter
from clipkit.search.searcher import Hit, Searcher, SearchResult
from clipkit.search.serving.work import Batcher, DaemonThreads

_MOST_QUERIES: Final = 32
_LEAST_RESULTS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """A query whose embedding is known.

    Args:
        vector: Its unit-norm embedding.
        filters: Filters that a row must all pass.
        without: Rows that are not returned.
        num_results: Number of rows that are returned at most, those of the offset included.
    """

    vector: Float32[np.ndarray, " D"]
    filters: tuple[RowFilter, ...]
    without: frozenset[int]
    num_results: int


@final
class VectorSearch:
    """Searches in a thread of its own, for all waiting queries with the same filters together.

    Args:
        searcher: The searcher.
        waiting: Number of queries that may wait.
    """

    def __init__(self, searcher: Searcher, waiting: int) -> None:
        self._searcher = searcher
        self._thread = DaemonThreads(1, "search")
        self._batcher: Batcher[VectorQuery, SearchResult] = Batcher(
            "the search", self._search, self._thread, _MOST_QUERIES, waiting
        )

    async def run(self, query: VectorQuery) -> SearchResult:
        """Return the most similar rows.

        Raises:
            HttpError: 503 if too many queries wait.
            ConfigError: If a filter does not fit the collection.
        """
        return await self._batcher.run(query)

    def close(self) -> None:
        """Drop what waits; what runs ends by itself."""
        self._thread.shutdown(cancel_futures=True)

    def _search(self, queries: Sequence[VectorQuery]) -> list[SearchResult]:
        groups: dict[tuple[tuple[RowFilter, ...], int], list[int]] = defaultdict(list)
        for number, query in enumerate(queries):
            groups[query.filters, _results_class(query)].append(number)
        results: dict[int, SearchResult] = {}
        for (filters, _), numbers in groups.items():
            found = self._search_group(filters, [queries[number] for number in numbers])
            results.update(zip(numbers, found, strict=True))
        return [results[number] for number in range(len(queries))]

    def _search_group(
        self, filters: tuple[RowFilter, ...], queries: list[VectorQuery]
    ) -> list[SearchResult]:
        mask = self._searcher.masks.mask(filters)
        num_candidates = int(np.count_nonzero(mask))
        most = max(query.num_results + len(query.without) for query in queries)
        ranked = self._searcher.engine.search(
            np.stack([query.vector for query in queries]), most, mask
        )
        found = []
        for query, rows, scores in zip(queries, ranked.rows, ranked.scores, strict=True):
            pairs = zip(rows.tolist(), scores.tolist(), strict=True)
            hits = [
                Hit(row, score)
                for row, score in pairs
                if row != NO_ROW and row not in query.without
            ]
            excluded = sum(bool(mask[row]) for row in query.without)
            found.append(SearchResult(tuple(hits[: query.num_results]), num_candidates - excluded))
        return found


def _results_class(query: VectorQuery) -> int:
    """Return the power of two of the results; a query for many must not slow down the others."""
    return max(_LEAST_RESULTS, query.num_results + len(query.without)).bit_length()
