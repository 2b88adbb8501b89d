"""Similarities that do not depend on the machine, and the running best of them.

A matrix product in float32 is fast, but its last bits depend on the library, the machine and the
shape of the tile: equal images would be ordered at random. It therefore only selects candidates:
all rows whose float32 score is within the error bound of the product. Their similarity is computed
in float64, in a fixed order, and rounded to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Float16, Float32, Int64

from clipkit.search.engine import NO_ROW, Queries, Ranked

_ROWS_PER_PART: Final = 8192
_LOWEST: Final = float(np.finfo(np.float32).min)
_FEW: Final = 4
"""Up to this multiple of the results, all candidates are computed instead of selected further."""


def exact_scores(
    images: Float16[np.ndarray, "rows D"], query: Float32[np.ndarray, " D"]
) -> Float32[np.ndarray, " rows"]:
    """Return the products of rows with a query: float64 sums, rounded to float32.

    Examples:
        >>> exact_scores(np.eye(2, dtype=np.float16), np.array([0.6, 0.8], dtype=np.float32))
        array([0.6, 0.8], dtype=float32)
    """
    scores = np.empty(len(images), dtype=np.float32)
    wide = query.astype(np.float64)
    for start in range(0, len(images), _ROWS_PER_PART):
        part = images[start : start + _ROWS_PER_PART].astype(np.float64)
        scores[start : start + len(part)] = (part * wide).sum(axis=1)
    return scores


def product_error(query_norm: float, width: int) -> float:
    """Return the largest error of a float32 product with a unit-norm vector of float16.

    Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", section 3.1: the error of
    a sum in any order is at most ``n u`` times the sum of the absolute terms, which is at most the
    product of the norms (Cauchy-Schwarz). The factor 2 covers norms that float16 has rounded.
    """
    return 2 * width * float(np.finfo(np.float32).eps) / 2 * query_norm


@final
class RunningBest:
    """The best rows of each query over all tiles that were offered so far.

    Args:
        queries: The queries.
        num_results: Number of rows per query.
    """

    def __init__(self, queries: Queries, num_results: int) -> None:
        self._queries = queries
        self._num_results = num_results
        width = queries.shape[1]
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        self._errors = [product_error(float(norm), width) for norm in norms]
        self._best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
        self._waiting: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in queries]
        self._num_waiting = [0] * len(queries)

    def offer(
        self,
        scores: Float32[np.ndarray, "queries tile_rows"],
        images: Float16[np.ndarray, "tile_rows D"],
        rows: Int64[np.ndarray, " tile_rows"],
    ) -> None:
        """Offer the rows of a tile, which follow those of all tiles before.

        Args:
            scores: Products of the rows in float32. Rows that are not finite are left out.
            images: Embeddings of the rows.
            rows: Numbers of the rows, ascending.
        """
        for query, row_scores in enumerate(scores):
            chosen = self._candidates(query, row_scores)
            if len(chosen):
                exact = exact_scores(images[chosen], self._queries[query])
                self._add(query, exact, rows[chosen])

    def _candidates(
        self, query: int, scores: Float32[np.ndarray, " tile_rows"]
    ) -> Int64[np.ndarray, " rows"]:
        """Return the rows of a tile that may be among the best."""
        best, count, error = self._best[query][0], self._num_results, self._errors[query]
        threshold = float(best[-1]) - error if len(best) == count else _LOWEST
        chosen = np.flatnonzero((scores >= threshold) & (scores < np.inf))
        if len(chosen) > _FEW * count:
            found = scores[chosen]
            least = float(np.partition(found, len(found) - count)[len(found) - count])
            chosen = chosen[found >= least - 2 * error]
        return chosen

    def _add(
        self, query: int, scores: Float32[np.ndarray, " rows"], rows: Int64[np.ndarray, " rows"]
    ) -> None:
        """Collect candidates until they are as many as the results: sorting takes the time then."""
        self._waiting[query].append((scores, rows))
        self._num_waiting[query] += len(rows)
        if self._num_waiting[query] >= self._num_results:
            self._merge(query)

    def _merge(self, query: int) -> None:
        """Sort the candidates in among the best rows."""
        scores, rows = zip(self._best[query], *self._waiting[query], strict=True)
        all_scores, all_rows = np.concatenate(scores), np.concatenate(rows)
        order = np.lexsort((all_rows, -all_scores))[: self._num_results]
        self._best[query] = all_scores[order], all_rows[order]
        self._waiting[query], self._num_waiting[query] = [], 0

    @staticmethod
    def merged(parts: Sequence[RunningBest]) -> RunningBest:
        """Join the best rows of parts that were offered different rows; the first one is changed.

        Args:
            parts: At least one, of the same queries.
        """
        first, *others = parts
        for other in others:
            for query, best in enumerate(other._best):
                for scores, rows in (best, *other._waiting[query]):
                    first._add(query, scores, rows)
        return first

    def ranked(self) -> Ranked:
        """Return the best rows of all tiles."""
        shape = (len(self._queries), self._num_results)
        scores = np.full(shape, -np.inf, dtype=np.float32)
        rows = np.full(shape, NO_ROW, dtype=np.int64)
        for query in range(len(self._queries)):
            self._merge(query)
            best_scores, best_rows = self._best[query]
            scores[query, : len(best_scores)] = best_scores
            rows[query, : len(best_rows)] = best_rows
        return Ranked(scores, rows)
