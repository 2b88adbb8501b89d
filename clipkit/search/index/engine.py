"""Search with an index of FAISS: the index proposes rows, exact similarities decide."""

from __future__ import annotations

import math
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.collection import Collection
from clipkit.errors import DataError
from clipkit.search.engine import (
    NO_ROW,
    Queries,
    Ranked,
    RowMask,
    SearchEngine,
    check_mask,
    check_queries,
)
from clipkit.search.exact_engine import ExactEngine
from clipkit.search.exact_scores import exact_scores
from clipkit.search.index.faiss_module import faiss_library, first_reason, lists_of

EXACT_CANDIDATES: Final = 200_000
"""Up to this number of rows that pass the filters, they are compared exactly."""
_PROPOSED: Final = 4
_LEAST_PROPOSED: Final = 100
_MOST_PROBES_FACTOR: Final = 8
_FEW_EXCLUDED: Final = 100
_LEAST_BREADTH: Final = 64
_TILE_ROWS: Final = 32_768


@final
class FaissEngine(SearchEngine):
    """Searches an index, and orders what it finds by exact similarity.

    The index proposes four times the results, at least 100 rows. Their similarities are those of
    ``ExactEngine``. If filters leave few rows, these are compared exactly; if they leave a part of
    the rows, more inverted lists are searched.

    Args:
        collection: The collection.
        index: An index of FAISS over its rows, of inner products.
        num_probes: Number of inverted lists that a query searches.
        name: Factory string, for people.
        usable: Rows with an embedding; None to read them from the tables.
        modality: What is searched for: "image", or the name of a further modality.

    Raises:
        DataError: If the index has another size, width or metric than the collection.
    """

    def __init__(
        self,
        collection: Collection,
        index: Any,
        num_probes: int,
        name: str,
        usable: RowMask | None = None,
        modality: str = "image",
    ) -> None:
        self._exact = ExactEngine(collection, usable=usable, modality=modality)
        self._modality = modality
        self._collection = collection
        self._index = index
        self._name = name
        self.num_probes = num_probes
        faiss = faiss_library()
        found = (index.ntotal, index.d, index.metric_type == faiss.METRIC_INNER_PRODUCT)
        expected = (len(collection), collection.info.embedding_dim, True)
        if found != expected:
            raise DataError(
                f"{collection.folder}: index: expected rows, width, and whether it is of inner "
                f"products {expected}, got {found}; build it again: clipkit search build"
            )

    @property
    def description(self) -> str:
        """Factory string and number of lists that are searched."""
        return f"{self._name}, {self.num_probes} lists" if self.num_probes else self._name

    @property
    def num_lists(self) -> int:
        """Number of inverted lists; 0 for an index without them."""
        lists = lists_of(self._index)
        return 0 if lists is None else int(lists.nlist)

    def search(self, queries: Queries, num_results: int, rows: RowMask | None = None) -> Ranked:
        """Return similar rows of each query; see ``SearchEngine.search``.

        Raises:
            ConfigError: As ``SearchEngine.search``.
            MetricError: As ``SearchEngine.search``.
            DataError: If the index cannot be read.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        check_queries(queries, self._collection.info.embedding_dim, num_results)
        check_mask(rows, len(self._collection))
        usable = self._exact.usable
        allowed = usable if rows is None else usable & rows
        num_allowed = int(np.count_nonzero(allowed))
        if num_allowed <= EXACT_CANDIDATES and num_allowed < len(allowed):
            return self._exact.search(queries, num_results, allowed)
        num_results = min(num_results, max(1, num_allowed))
        wanted = min(num_allowed, max(_PROPOSED * num_results, _LEAST_PROPOSED))
        excluded = len(allowed) - num_allowed
        if excluded <= _FEW_EXCLUDED:  # proposed and left out: faster than to test each row
            proposed = self._propose(queries, wanted + excluded, None, 1.0)
        else:
            share = num_allowed / len(allowed)
            proposed = self._propose(queries, max(1, wanted), allowed, share)
        return self._ordered(queries, proposed, num_results, allowed)

    def _propose(
        self, queries: Queries, num_rows: int, allowed: RowMask | None, share: float
    ) -> Int64[np.ndarray, "queries proposed"]:
        """Return the rows that the index finds, ``NO_ROW`` where it finds none."""
        parameters = self._parameters(num_rows, allowed, share)
        try:
            _, found = self._index.search(queries, num_rows, params=parameters)
        except RuntimeError as error:
            raise DataError(
                f"{self._collection.folder}: index: {first_reason(error)}; build it again: "
                "clipkit search build"
            ) from error
        proposed: Int64[np.ndarray, "queries proposed"] = np.asarray(found, dtype=np.int64)
        if proposed.max(initial=NO_ROW) >= len(self._collection):
            raise DataError(
                f"{self._collection.folder}: index: expected rows below {len(self._collection)}, "
                f"got {proposed.max()}; build it again: clipkit search build"
            )
        return proposed

    def _parameters(self, num_rows: int, allowed: RowMask | None, share: float) -> Any:
        """Return FAISS's parameters of a search; None allows all rows."""
        faiss = faiss_library()
        chosen = {}
        if allowed is not None:
            chosen["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        lists = lists_of(self._index)
        if lists is not None:
            factor = min(_MOST_PROBES_FACTOR, 1 / share if share else math.inf)
            probes = min(lists.nlist, math.ceil(self.num_probes * factor))
            parameters = faiss.SearchParametersIVF(nprobe=probes, **chosen)
            if isinstance(self._index, faiss.IndexPreTransform):
                return faiss.SearchParametersPreTransform(index_params=parameters)
            return parameters
        if isinstance(self._index, faiss.IndexHNSW):
            breadth = max(_LEAST_BREADTH, num_rows)
            return faiss.SearchParametersHNSW(efSearch=breadth, **chosen)
        return faiss.SearchParameters(**chosen)

    def _ordered(
        self,
        queries: Queries,
        proposed: Int64[np.ndarray, "queries proposed"],
        num_results: int,
        allowed: Bool[np.ndarray, " N"],
    ) -> Ranked:
        """Order proposed rows by their exact similarity, the lower row first among equals."""
        scores = np.full((len(queries), num_results), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), num_results), NO_ROW, dtype=np.int64)
        for query, found in enumerate(proposed):
            kept = np.unique(found[found >= 0])
            kept = kept[allowed[kept]]
            exact = self._exact_scores(kept, queries[query])
            finite = np.isfinite(exact)
            kept, exact = kept[finite], exact[finite]
            order = np.argsort(-exact, kind="stable")[:num_results]
            scores[query, : len(order)] = exact[order]
            rows[query, : len(order)] = kept[order]
        return Ranked(scores, rows)

    def _exact_scores(
        self, rows: Int64[np.ndarray, " rows"], query: Float32[np.ndarray, " D"]
    ) -> Float32[np.ndarray, " rows"]:
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _TILE_ROWS):
            tile = slice(start, start + _TILE_ROWS)
            scores[tile] = exact_scores(
                self._collection.embeddings(rows[tile], self._modality), query
            )
        return scores
